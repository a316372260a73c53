"""Orders decided at a close fill in the next bar: at its open, at nothing that the open does not know, and they earn
from there on.

Three questions after every random bar. The price of a fill is the next bar's own open (its close where the open is not
tradable), not one that was on the screen when the order was decided. Books that meet the same open with another high,
low and close after it fill the same units, stops and breakers included. A position opened from a flat book is paid from
its fill to the close, and for no move before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mtquant_rllib.audit.findings import Check, Leak, first_of_each
from mtquant_rllib.audit.leakage.played_bars import JOINT_SETUP
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.trading import NO_STOP_ATR, Trading
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, MarketData
from mtquant_rllib.portfolio import execution_data as channel

_BARS_BEFORE = 10
"""Bars over which random books are built up, so that they hold positions and stops."""
_HIGH, _LOW, _CLOSE = 1.4, 0.7, 1.3
"""Another bar after the same open."""
_ROUNDING = 1e-9


def check_fills(settings: Settings, market: MarketData, data: DeskData, rows: Sequence[int]) -> Check:
    """data: of this market, as `DeskData.of` gives it."""
    leaks = []
    for row in rows:
        leaks += _prices_and_pay(settings, market, data, row)
        leaks += _units_know_only_the_open(settings, market, data, row)
    compared = (
        f"price, units and pay of what {settings.evaluation.audit.random_books} random books fill in the bar after"
    )
    return Check(
        "fills at the open", compared, len(rows), first_of_each(leaks, settings.evaluation.audit.max_reported_leaks)
    )


def _prices_and_pay(settings: Settings, market: MarketData, data: DeskData, row: int) -> list[Leak]:
    """Positions opened from flat books: what they fill at, and what the rest of the bar pays them."""
    desk, fills = _random_books(settings, data, row, row)
    units, price = fills[-1]
    bar, money = market.bars[row + 1], data.execution.money[row + 1]
    opens = np.where(market.stale_open[row + 1], bar[:, CLOSE], bar[:, OPEN])
    pay = units * (bar[:, CLOSE] - opens) * money[channel.FX_LAST]
    filled = (units != 0) & market.valid[row + 1]
    elsewhere = filled & ~np.isclose(price, opens, rtol=_ROUNDING, atol=0.0)
    overpaid = filled & ~np.isclose(desk.book.pnl_ccy, pay, rtol=_ROUNDING, atol=_ROUNDING * desk.book.equity[:, None])
    leaks = []
    for i, symbol in enumerate(market.symbols):
        where = symbol, row + 1, str(market.timestamps[row + 1])
        if elsewhere[:, i].any():
            found = float(price[np.argmax(elsewhere[:, i]), i])
            seen = " (the close that it was decided on)" if found == money[channel.PREVIOUS, i] else ""
            how = f"an order of the close before fills at {found:g}{seen}; this bar's open is {opens[i]:g}"
            leaks.append(Leak("fill price", *where, how))
        elif overpaid[:, i].any():
            env = int(np.argmax(overpaid[:, i]))
            how = (
                f"a position opened in this bar earns {desk.book.pnl_ccy[env, i]:.2f}; from its fill to the close it "
                f"made {pay[env, i]:.2f}"
            )
            leaks.append(Leak("pay of a new position", *where, how))
    return leaks


def _units_know_only_the_open(settings: Settings, market: MarketData, data: DeskData, row: int) -> list[Leak]:
    """Books with positions and stops meet the same open, and another bar after it."""
    has_open = market.valid[row + 1] & ~market.stale_open[row + 1]
    bars = market.bars.copy()
    for name, multiple in ((HIGH, _HIGH), (LOW, _LOW), (CLOSE, _CLOSE)):
        bars[row + 1, has_open, name] = bars[row + 1, has_open, OPEN] * multiple
    other = DeskData.of(settings, [replace(market, bars=bars)])
    first = row - _BARS_BEFORE
    one, two = (_random_books(settings, each, first, row)[1][-1][0] for each in (data, other))
    moved = (one != two).any(axis=0) & has_open
    how = "other units fill at the same open when the high, low and close after it are others"
    where = row + 1, str(market.timestamps[row + 1])
    return [Leak("filled units", market.symbols[i], *where, how) for i in np.flatnonzero(moved)]


def _random_books(
    settings: Settings, data: DeskData, first: int, last: int
) -> tuple[Trading, list[tuple[np.ndarray, np.ndarray]]]:
    """Play random weights from row `first` through the fills of row `last` + 1: the desk there, and of every bar
    units and prices of its fills, (B, n) each. Without bars before there are no stops either."""
    n_books = settings.evaluation.audit.random_books
    desk, rng = core_for(settings, data, n_books, JOINT_SETUP), np.random.default_rng((settings.seed, last))
    desk.reset(np.arange(n_books), [EpisodeDraw(first, last + 1, 0.0, 0)] * n_books)
    fills: list[tuple[np.ndarray, np.ndarray]] = []
    fill = desk.book.fill

    def heard(target_units: np.ndarray, price: np.ndarray) -> None:
        fills.append((target_units.copy(), np.array(price)))
        fill(target_units, price)

    desk.book.fill = heard  # type: ignore[method-assign]
    decision, shape = settings.desk.decision, desk.weight.shape
    for row in range(first, last + 1):
        wanted = (
            0.5 * rng.standard_normal(shape)
            if settings.allocator is None
            else rng.dirichlet(np.ones(shape[1]), n_books)
        )
        keeps = (rng.random(shape) < 0.6) & (row < last) & (row > first)
        desk.state.stop_atr[:] = (
            NO_STOP_ATR if first == last else rng.uniform(decision.stop_atr_min, decision.stop_atr_max, shape)
        )
        desk.advance_with_weights(np.where(keeps, desk.weight, wanted))
    return desk, fills
