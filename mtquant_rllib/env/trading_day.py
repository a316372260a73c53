"""One bar as a trading day: the night is paid, the open marked and limited, orders fill, stops run, the close is
marked.

Everything that happens to the book between two closes happens here, in that order, and nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.rows import MarketBar, MarketRow
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.portfolio.book import Book, closing_leg
from mtquant_rllib.portfolio.costs import night_cost, trade_cost
from mtquant_rllib.risk import stops
from mtquant_rllib.short_rows import row_any


@dataclass(frozen=True)
class TradeCosts:
    """Parameters of market impact. adv_ccy: average daily volume of each instrument, (n,)."""

    adv_ccy: np.ndarray
    impact_coefficient: float
    impact_free_adv_share: float

    @classmethod
    def of(cls, settings: Settings) -> TradeCosts:
        cost = settings.desk.cost
        adv_ccy = np.array([row.adv_ccy for row in settings.instruments])
        return cls(adv_ccy, cost.impact_coefficient, cost.impact_free_adv_share)


class TradingDay:
    """The next bar of B environments.

    Parameters
    ----------
    book
        At the close before the bar; it is carried to the bar's close.
    before
        The market at the close before.
    bar
        Prices and flags of the bar.
    stop_atr
        Distance of stops in average true ranges, (B, n).
    risk
        Limits the fills; with None everything with a price fills.
    playing
        bool (B,): environments whose time moves.

    Attributes
    ----------
    tradable
        bool (B, n): instruments that have this bar.
    stopped
        bool (B, n): positions that a stop has closed.
    """

    def __init__(
        self,
        book: Book,
        before: MarketRow,
        bar: MarketBar,
        stop_atr: np.ndarray,
        costs: TradeCosts,
        risk: RiskLayer | None,
        playing: np.ndarray,
    ) -> None:
        self._book, self._before, self._stop_atr = book, before, stop_atr
        self._costs, self._risk, self._playing = costs, risk, playing
        self._new_day = bar.new_day
        self._money = money = bar.money
        self.tradable = bar.flags[channel.TRADABLE]
        self._openable = bar.flags[channel.OPENING_ALLOWED]
        # The open is not tradable: orders of this bar fill at its close.
        self._at_close = bar.flags[channel.FILLS_AT_CLOSE]
        self.stopped = np.zeros_like(self._at_close)
        self._last_value = money[channel.LAST] * money[channel.FX_LAST]

    def trade(self, ordered: np.ndarray) -> None:
        """Carry orders, as units to be held (B, n), through the bar."""
        book, risk, playing = self._book, self._risk, self._playing
        self._pay_the_night()
        if risk is not None:
            risk.begin_day(self._new_day, book)
        wanted = self._limit_at_the_open(ordered, self._mark_the_open())
        self._fill(wanted)
        self._hold_to_the_close()
        if risk is not None:
            risk.after_fills(self.tradable, playing)
            risk.mark(book, self._last_value, playing)

    # -- the steps of the day -----------------------------------------------------------------------------------------

    def _pay_the_night(self) -> None:
        """Fix the stops at the close before, and pay for the nights in between."""
        book, before, money = self._book, self._before, self._money
        book.begin_bar()
        book.stop = stops.trail(book.stop, np.sign(book.units), before.close, before.atr, self._stop_atr)
        long_frac, short_frac = money[channel.LONG_FINANCING], money[channel.SHORT_FINANCING]
        book.finance(night_cost(book.units, before.unit_value, long_frac, short_frac))

    def _mark_the_open(self) -> np.ndarray:
        """Mark the open and close positions that opened beyond their stop. Returns the side of each of those, else 0,
        (B, n)."""
        book, money = self._book, self._money
        fill = money[channel.FILL]
        gap = np.where(self._at_close, 0.0, fill - money[channel.PREVIOUS])
        book.settle(book.units * gap * money[channel.FX_FILL])
        side = np.sign(book.units)
        hit = stops.open_stop_hit(book.stop, side, fill) & ~self._at_close & self.tradable
        if hit.any():
            self._exit(hit, fill * money[channel.FX_FILL])
        return side * hit

    def _limit_at_the_open(self, wanted: np.ndarray, stopped_side: np.ndarray) -> np.ndarray:
        """Units (B, n) that fill of those wanted: no stopped position is entered again, nothing fills without a price,
        and where that or a breaker changes a book the risk rules are applied again."""
        book, risk = self._book, self._risk
        limit_again = row_any(stopped_side != 0)
        if limit_again.any():
            wanted = stops.without_reentry(wanted, stopped_side)
        open_value = self._open_value()
        if risk is not None:
            limit_again |= risk.mark(book, open_value, self._playing)
        openable = self._openable | self._at_close
        held = book.units
        enlarges = np.abs(wanted) > np.where(wanted * held > 0, np.abs(held), 0.0)
        refused = ((wanted != held) & ~self.tradable) | (enlarges & ~openable)
        limit_again |= row_any(refused)
        if not limit_again.any():
            return wanted
        if risk is None:
            allowed = book.whole_lots(np.where(openable, wanted, closing_leg(wanted, held)))
            return np.where(limit_again[:, None], np.where(self.tradable, allowed, held), wanted)
        envs = np.flatnonzero(limit_again)
        return risk.limit_at_open(book, self._before, wanted, open_value, self.tradable, openable, envs)

    def _fill(self, wanted: np.ndarray) -> None:
        """Fill the orders: at the open, or at the close where the open is not tradable."""
        book, money = self._book, self._money
        if self._at_close.any():
            wanted = self._wait_for_the_close(wanted)
        price, fx = money[channel.FILL], money[channel.FX_FILL]
        self._charge(np.abs(wanted - book.units) * np.abs(price) * fx)
        book.stop = stops.after_fill(book.stop, book.units, wanted, price, self._before.atr, self._stop_atr)
        book.fill(wanted, price)

    def _hold_to_the_close(self) -> None:
        """From the fill to the close, with stops inside the bar."""
        book, money = self._book, self._money
        side = np.sign(book.units)
        hit = stops.intrabar_stop_hit(book.stop, side, money[channel.TOP], money[channel.BOTTOM])
        hit &= ~self._at_close
        last = np.where(hit, book.stop, money[channel.LAST])
        moved = book.units * (last - money[channel.FILL]) * money[channel.FX_LAST]
        book.settle(np.where(self._at_close, 0.0, moved))
        if hit.any():
            self._exit(hit, np.where(hit, book.stop, 0.0) * money[channel.FX_LAST])
        book.bars_held += book.units != 0

    # -- helpers of the steps -----------------------------------------------------------------------------------------

    def _open_value(self) -> np.ndarray:
        """Account currency per unit at the open, (B, n); of the last close where the open is not tradable and orders
        fill at the close to come."""
        at_open = self._money[channel.FILL] * self._money[channel.FX_FILL]
        return np.where(self._at_close, self._before.unit_value, at_open)

    def _wait_for_the_close(self, wanted: np.ndarray) -> np.ndarray:
        """Carry positions whose orders fill at the close through the bar, with the stop they already had.

        Takes and returns units, (B, n).
        """
        book, money = self._book, self._money
        side = np.sign(book.units)
        low, high = money[channel.BOTTOM], money[channel.TOP]
        hit = stops.intrabar_stop_hit(book.stop, side, high, low) & self._at_close
        # A bar wholly beyond the stop opened there at an unknown price: the exit fills as any order of this bar. The
        # bar's extreme would be too good a price.
        jumped = side * (np.where(side > 0, high, low) - book.stop) < 0
        out = np.where(jumped, money[channel.FILL], book.stop)
        last = np.where(hit, out, money[channel.LAST])
        moved = book.units * (last - money[channel.PREVIOUS]) * money[channel.FX_LAST]
        book.settle(np.where(self._at_close, moved, 0.0))
        if hit.any():
            wanted = stops.without_reentry(wanted, side * hit)
            self._exit(hit, np.where(hit, out, 0.0) * money[channel.FX_LAST])
        return np.where(self._at_close & ~self._openable, closing_leg(wanted, book.units), wanted)

    def _exit(self, hit: np.ndarray, unit_value: np.ndarray) -> None:
        """Charge and close the positions that a stop hit, at a value per unit in account currency."""
        self._charge(np.where(hit, np.abs(self._book.units * unit_value), 0.0))
        self._book.flatten(hit)
        self.stopped |= hit

    def _charge(self, traded_ccy: np.ndarray) -> None:
        costs = self._costs
        self._book.traded_ccy += traded_ccy
        self._book.charge(
            trade_cost(
                traded_ccy,
                self._money[channel.COST],
                self._before.sigma_day,
                costs.adv_ccy,
                costs.impact_coefficient,
                costs.impact_free_adv_share,
            )
        )
