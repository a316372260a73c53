"""`SimulatedAccount`: fills a decision's orders as an evaluation does, and reports everything that it knows.

It sees a decision's orders and stop distances and nothing else of it, so a replay through it shows that a decision is
complete: nights, gaps, fills, costs, stops and breakers are those of `env.trading_day`.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.prepared.rows import MarketRows
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.state.trading import TradingState
from mtquant_rllib.env.trading_day import TradeCosts, TradingDay
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.account import Portfolio, Position, positions_of, results_of
from mtquant_rllib.serving.closes import Calendar, TwoCloses, two_rows
from mtquant_rllib.serving.decision import Decision
from mtquant_rllib.serving.orders import Order, lot_steps
from mtquant_rllib.serving.written_decision import utc

_EVERYWHERE = np.ones(1, dtype=bool)


class SimulatedAccount:
    """One account, from the start equity of the settings, without positions.

    Attributes
    ----------
    book
        Units, entries, stops and equity, of one account; P&L, costs and financing of the last bar.
    """

    def __init__(self, settings: Settings, calendar: Calendar) -> None:
        self.settings = settings
        self._symbols = settings.universe.symbols
        self.book = TradingState(settings, 1).book
        self._risk = RiskLayer(settings, 1, EpisodeSetup(ends_on_halt=False, custom_terms=False))
        self._costs = TradeCosts.of(settings)
        self._data = two_rows(settings, calendar)
        self._rows = MarketRows(self._data.execution, self._data.features)

    def portfolio(self) -> Portfolio:
        """The account at the last close."""
        return Portfolio(
            float(self.book.equity[0]),
            self.settings.desk.account.currency,
            results=results_of(self.book, self._symbols),
            breakers=self._risk.breakers.arrays(),
        )

    def positions(self) -> dict[str, Position]:
        """What is held at the last close."""
        return positions_of(self.book, self._symbols)

    def fill(self, decision: Decision, closes: TwoCloses) -> None:
        """Carry a decision's orders through the bar after it.

        closes
            With the bar just closed, in which the orders fill, and the close at which they were decided.

        Raises
        ------
        MtquantError
            When the decision is not of the close before this bar, or an order is of no whole number of lot steps.
        """
        if decision.created != utc(closes.before):
            raise MtquantError(
                f"the decision of {decision.created} fills in the bar after it; this bar follows {utc(closes.before)}"
            )
        closes.write_into(self._data)
        row, before = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        stop_atr = np.array([[decision.stop_atr[symbol] for symbol in self._symbols]])
        bar = self._rows.bar(row, before)
        day = TradingDay(self.book, self._rows.at(before), bar, stop_atr, self._costs, self._risk, _EVERYWHERE)
        day.trade(self._wanted(decision.orders))

    def _wanted(self, orders: tuple[Order, ...]) -> np.ndarray:
        """Units to be held once the orders have filled, (1, n), counted in lot steps, which are whole numbers."""
        lots = self.book.lot_units
        steps = np.rint(self.book.units[0] / lots)
        for order in orders:
            i = self._symbols.index(order.symbol)
            steps[i] += order.sign * lot_steps(order.lots, self.settings.instruments[i].lot_step)
        return (steps * lots)[None]
