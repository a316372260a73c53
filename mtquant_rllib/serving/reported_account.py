"""From what an account reports to the book of the core, and what a report leaves out, from the bar's prices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtquant_rllib.env.prepared.rows import MarketBar, MarketRow
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.portfolio.book import Book
from mtquant_rllib.risk import stops
from mtquant_rllib.serving.account import BarResult, Portfolio, Position, Positions, units_of

_UNEXPLAINED = 1e-6
"""Share of equity by which results may miss its change: sums of a broker's rounded amounts."""


def carry_positions(
    book: Book, positions: Positions, symbols: tuple[str, ...], before: MarketRow, bar: MarketBar, stop_atr: np.ndarray
) -> None:
    """Bring a book of one account to the positions reported after a bar.

    Entry, stop and age that are not reported are those of an order that filled at the bar's own price: additions
    average the entry, a new position gets its entry stop, a kept one its trailed stop.
    """
    units = units_of(positions, symbols, book.lot_units)[None]
    book.stop = stops.trail(book.stop, np.sign(book.units), before.close, before.atr, stop_atr)
    price = bar.money[channel.FILL]
    book.stop = stops.after_fill(book.stop, book.units, units, price, before.atr, stop_atr)
    book.fill(units, price)
    book.bars_held += book.units != 0
    _reported(book, positions, symbols)


def begin_positions(
    book: Book, positions: Positions, symbols: tuple[str, ...], market: MarketRow, stop_atr: np.ndarray
) -> None:
    """A book of one account at the first decision: what is not reported of a position is as if it had been opened at
    this close."""
    book.units = units_of(positions, symbols, book.lot_units)[None]
    side = np.sign(book.units)
    book.entry = np.where(side != 0, market.close, 0.0)
    book.stop = stops.entry_stop(market.close, side, market.atr, stop_atr)
    book.bars_held[:] = 0.0
    _reported(book, positions, symbols)


def _reported(book: Book, positions: Positions, symbols: tuple[str, ...]) -> None:
    for i, symbol in enumerate(symbols):
        held = positions.get(symbol)
        if isinstance(held, Position) and held.units:
            for array, value in ((book.entry, held.entry), (book.stop, held.stop), (book.bars_held, held.bars_held)):
                if value is not None:
                    array[0, i] = value


def write_results(
    book: Book,
    portfolio: Portfolio,
    symbols: tuple[str, ...],
    equity_before: float,
    units_before: np.ndarray,
    bar: MarketBar,
) -> None:
    """Write what the bar has brought into a book of one account that has been carried to the bar's close, and set its
    equity.

    Parameters
    ----------
    equity_before
        At the close before, transfers since then included.
    units_before
        Held there, (1, n).

    Raises
    ------
    MtquantError
        When the results do not add up to the change of equity, or equity has changed and nothing explains it.
    """
    book.begin_bar()
    change = portfolio.equity_ccy - equity_before
    if portfolio.results is None:
        _estimate(book, change, units_before, bar)
    else:
        _take(book, portfolio.results, symbols)
        net = float((book.pnl_ccy - book.cost_ccy - book.financing_ccy).sum())
        if abs(change - net) > _UNEXPLAINED * max(abs(equity_before), abs(portfolio.equity_ccy), 1.0):
            raise MtquantError(
                f"portfolio: equity changed by {change:,.2f} since the last decision, and the results add up to "
                f"{net:,.2f}; expected the same (what was paid in or out is transfers_ccy)"
            )
    book.equity[0] = portfolio.equity_ccy


def _take(book: Book, results: Mapping[str, BarResult], symbols: tuple[str, ...]) -> None:
    if unknown := [symbol for symbol in results if symbol not in symbols]:
        raise MtquantError(
            f"portfolio.results: {', '.join(unknown)}: no such instrument; traded are {', '.join(symbols)}"
        )
    for i, symbol in enumerate(symbols):
        if (own := results.get(symbol)) is not None:
            book.pnl_ccy[0, i], book.cost_ccy[0, i] = own.pnl_ccy, own.cost_ccy
            book.financing_ccy[0, i] = own.financing_ccy


def _estimate(book: Book, change_ccy: float, units_before: np.ndarray, bar: MarketBar) -> None:
    """P&L of the positions at the bar's prices; the rest of the change is a cost, shared by the notional that was
    traded, or else by what was held."""
    money, at_close = bar.money, bar.flags[channel.FILLS_AT_CLOSE]
    to_fill = np.where(at_close, money[channel.LAST], money[channel.FILL]) - money[channel.PREVIOUS]
    fx_fill = np.where(at_close, money[channel.FX_LAST], money[channel.FX_FILL])
    after = np.where(at_close, 0.0, money[channel.LAST] - money[channel.FILL])
    book.pnl_ccy[:] = units_before * to_fill * fx_fill + book.units * after * money[channel.FX_LAST]
    rest = change_ccy - float(book.pnl_ccy.sum())
    value = np.abs(money[channel.FILL]) * money[channel.FX_FILL]
    traded = np.abs(book.units - units_before) * value
    notional = traded if traded.any() else np.abs(units_before) * value
    if notional.any():
        book.traded_ccy[:] = traded
        book.cost_ccy[:] = -rest * notional / notional.sum()
    elif abs(rest) > _UNEXPLAINED * max(abs(float(book.equity[0])), 1.0):
        raise MtquantError(
            f"portfolio: equity changed by {rest:,.2f} although nothing was held; expected transfers_ccy to say what "
            "was paid in or out"
        )


def mark_breakers(risk: RiskLayer, book: Book, bar: MarketBar, equity_before: float, unit_value: np.ndarray) -> None:
    """The breakers of an account that reports none: one mark a bar, at its close. A day's loss is measured from the
    equity at the close before it."""
    everywhere = np.ones(1, dtype=bool)
    opening = book.copy()
    opening.equity[0] = equity_before
    risk.begin_day(bar.new_day, opening)
    risk.after_fills(bar.flags[channel.TRADABLE], everywhere)
    risk.mark(book, unit_value, everywhere)
