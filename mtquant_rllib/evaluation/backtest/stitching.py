"""Records of one book on stretches of time that follow each other, stitched to one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mtquant_rllib.evaluation.backtest.record import Record

_MONEY = ("pnl_ccy", "cost_ccy", "financing_ccy")
_BARS = ("weights", "proposed", "traded_frac", "rule_ids")


def stitched(records: Sequence[Record]) -> Record:
    """One record of all their bars: every stretch begins with the equity that the one before ended with, and money
    grows with it; returns, weights and shares of equity stay as they were.

    Each stretch begins flat, and pays for the positions that it takes.

    Raises
    ------
    ValueError
        When a record has several environments, begins before the one before it ends, or is of other instruments.
    """
    first = records[0]
    factor, equity = 1.0, []
    money: dict[str, list[np.ndarray]] = {name: [] for name in _MONEY}
    for number, record in enumerate(records):
        if record.n_envs != 1 or record.symbols != first.symbols:
            raise ValueError(f"record {number} of {record.name}: expected one history of {', '.join(first.symbols)}")
        if number and record.timestamps.ravel()[0] <= records[number - 1].timestamps.ravel()[-1]:
            raise ValueError(f"record {number} of {record.name} begins before the one before it ends")
        if number:
            factor *= float(records[number - 1].equity_ccy[0, -1] / record.equity_start_ccy[0])
        equity.append(record.equity_ccy * factor)
        for name in _MONEY:
            money[name].append(getattr(record, name) * factor)
    series: dict[str, Any] = {name: np.concatenate(parts, axis=1) for name, parts in money.items()}
    series |= {name: np.concatenate([getattr(record, name) for record in records], axis=1) for name in _BARS}
    return replace(
        first,
        timestamps=np.concatenate([record.timestamps.ravel() for record in records]),
        equity_ccy=np.concatenate(equity, axis=1),
        var_forecast_frac=np.concatenate([record.var_forecast_frac for record in records], axis=1),
        breaker_trips=np.sum([record.breaker_trips for record in records], axis=0),
        **series,
    )
