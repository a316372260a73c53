"""Figures of a blotter: how much is traded, at what cost, how long positions last and how often they win."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mtquant_rllib.evaluation.backtest.record import Record


def trade_rows(record: Record, trades: pa.Table) -> list[tuple[str, ...]]:
    """Header and one row an instrument, for people; the last row is the whole book."""
    symbols = np.asarray(trades["symbol"])
    notional, cost = np.asarray(trades["notional_ccy"]), np.asarray(trades["cost_ccy"])
    stopped = np.asarray(trades["stopped"])
    head = (
        "instrument",
        "trades",
        "traded, ccy",
        "cost, bps",
        "stopped",
        "positions",
        "won",
        "bars held",
        "net P&L, ccy",
    )
    rows: list[tuple[str, ...]] = [head]
    for number, name in enumerate((*record.symbols, "all")):
        members = np.arange(len(record.symbols)) == number if name != "all" else np.ones(len(record.symbols), bool)
        own = symbols == name if name != "all" else np.ones(len(symbols), bool)
        spells = positions(record, members)
        net = np.nansum((record.pnl_ccy - record.cost_ccy - record.financing_ccy)[..., members])
        traded = notional[own].sum()
        rows.append(
            (
                name,
                f"{own.sum():,}",
                f"{traded:,.0f}",
                f"{1e4 * cost[own].sum() / traded:.2f}" if traded else "–",
                f"{stopped[own].sum():,}",
                f"{len(spells['bars']):,}",
                f"{(spells['profit'] > 0).mean():.0%}" if len(spells["bars"]) else "–",
                f"{spells['bars'].mean():.1f}" if len(spells["bars"]) else "–",
                f"{net:,.0f}",
            )
        )
    return rows


def positions(record: Record, members: np.ndarray | Sequence[bool]) -> Mapping[str, np.ndarray]:
    """Positions from flat, or the other side, to flat or the other side: bars held and net profit of each, in account
    currency. One that is open at the end counts as closed there.

    members: bool (n,), the instruments.
    """
    bars, profit = [], []
    net = np.nan_to_num(record.pnl_ccy - record.cost_ccy - record.financing_ccy)
    for env in range(record.n_envs):
        for i in np.flatnonzero(members):
            side = np.sign(np.nan_to_num(record.weights[env, :, i])).astype(int)
            before = np.concatenate(([0], side[:-1]))
            # The bar that closes a position still earns, and pays for the closing.
            opens = np.flatnonzero((side != before) & (side != 0))
            closes = np.flatnonzero((side != before) & (before != 0))
            if len(opens) > len(closes):
                closes = np.append(closes, len(side) - 1)
            for start, stop in zip(opens, closes):
                bars.append(stop - start)
                profit.append(net[env, start : stop + 1, i].sum())
    return {"bars": np.array(bars, dtype=np.int64), "profit": np.array(profit)}
