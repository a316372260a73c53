"""What every book did, bar by bar, as two tables: one row a bar of a book, and one row a bar of an instrument in it.

Both are long: `book` and `environment` name whose row it is, and only bars that were played have one. Money is in
account currency; weights, costs and turnover of the first table are fractions of the equity before the bar.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest.record import Record

BARS, INSTRUMENTS = "bars.parquet", "instruments.parquet"


def bars_table(records: Sequence[Record]) -> pa.Table:
    """book | environment | timestamp | equity_ccy | net_return | gross_return | cost_ccy | financing_ccy | turnover |
    exposure_gross | exposure_net | drawdown | var_forecast | risk_edits."""
    return pa.concat_tables([_bars_of(record) for record in records]).unify_dictionaries()


def _bars_of(record: Record) -> pa.Table:
    env, bar = np.nonzero(record.played)
    timestamps = np.broadcast_to(record.timestamps, record.equity_ccy.shape)

    def played(values: np.ndarray) -> np.ndarray:
        return values[env, bar]

    return pa.table(
        {
            "book": _repeated(record.name, len(env)),
            "environment": env.astype(np.int32),
            "timestamp": played(timestamps),
            "equity_ccy": played(record.equity_ccy),
            "net_return": played(record.returns),
            "gross_return": played(record.gross_returns),
            "cost_ccy": played(record.cost_ccy.sum(axis=-1)),
            "financing_ccy": played(record.financing_ccy.sum(axis=-1)),
            "turnover": played(record.traded_frac.sum(axis=-1)),
            "exposure_gross": played(np.abs(record.weights).sum(axis=-1)),
            "exposure_net": played(record.weights.sum(axis=-1)),
            "drawdown": played(measures.drawdown(record.returns)[:, 1:]),
            "var_forecast": played(record.var_forecast_frac),
            "risk_edits": played(record.edited.sum(axis=-1)).astype(np.int32),
        }
    )


def instruments_table(records: Sequence[Record]) -> pa.Table:
    """book | environment | timestamp | symbol | domain | proposed | weight | traded | pnl_ccy | cost_ccy |
    financing_ccy | contribution | rule. `rule`: the risk rule that bound, null for none."""
    return pa.concat_tables([_instruments_of(record) for record in records]).unify_dictionaries()


def _instruments_of(record: Record) -> pa.Table:
    n = len(record.symbols)
    env, bar = (np.repeat(index, n) for index in np.nonzero(record.played))
    which = np.tile(np.arange(n), len(env) // n if n else 0)
    timestamps = np.broadcast_to(record.timestamps, record.equity_ccy.shape)

    def played(values: np.ndarray) -> np.ndarray:
        return values[env, bar, which]

    bound = played(record.rule_ids)
    ids, places = np.unique(bound, return_inverse=True)
    names = [None if rule == 0 else record.rule_names.get(int(rule), f"rule {rule}") for rule in ids]
    return pa.table(
        {
            "book": _repeated(record.name, len(env)),
            "environment": env.astype(np.int32),
            "timestamp": timestamps[env, bar],
            "symbol": _named(record.symbols, which),
            "domain": _named(record.domains, np.array(record.domain_of, dtype=np.int64)[which]),
            "proposed": played(record.proposed),
            "weight": played(record.weights),
            "traded": played(record.traded_frac),
            "pnl_ccy": played(record.pnl_ccy),
            "cost_ccy": played(record.cost_ccy),
            "financing_ccy": played(record.financing_ccy),
            "contribution": played(record.contributions),
            "rule": pa.array(names, pa.string()).take(pa.array(places)).dictionary_encode(),
        }
    )


def write_bar_tables(records: Sequence[Record], folder: Path) -> dict[str, Path]:
    """`bars.parquet` and `instruments.parquet`, each whole or not at all."""
    tables: dict[str, tuple[str, Callable[[Sequence[Record]], pa.Table]]] = {
        "bars": (BARS, bars_table),
        "instruments": (INSTRUMENTS, instruments_table),
    }
    return {kind: write_parquet(make(records), folder / name) for kind, (name, make) in tables.items()}


def write_parquet(table: pa.Table, path: Path) -> Path:
    """Write it atomically; the same table gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    pq.write_table(table, part, compression="zstd")
    os.replace(part, path)
    return path


def _repeated(text: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), [text])


def _named(names: Sequence[str], which: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(which.astype(np.int32), pa.array(list(names), pa.string()))
