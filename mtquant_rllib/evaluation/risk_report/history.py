"""What the risk report reads of an evaluation: the run's own book, bar by bar and instrument by instrument."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.report.bar_tables import BARS, INSTRUMENTS
from mtquant_rllib.market.calendar import trading_day


@dataclass(frozen=True)
class RiskHistory:
    """One book of B environments, row by row: a row is a bar of an environment that was played, M of them, environment
    by environment in the order of time.

    Attributes
    ----------
    environment, timestamp, day
        (M,): of each row; `day` is its trading day, datetime64[D].
    returns, forecast
        Net return of the bar, and the one-day VaR forecast that it began with, (M,).
    weights, proposed
        (M, n): held after the bar, and asked for in it.
    rule
        object (M, n): the rule that bound, None for none.
    symbols
        Instruments, n.
    """

    name: str
    environment: np.ndarray
    timestamp: np.ndarray
    day: np.ndarray
    returns: np.ndarray
    forecast: np.ndarray
    weights: np.ndarray
    proposed: np.ndarray
    rule: np.ndarray
    symbols: tuple[str, ...]

    def days(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every environment: trading days, compounded net returns, and the forecast with which each began; (B, D),
        NaN where an environment has no such day."""
        days, at = np.unique(self.day, return_inverse=True)
        n_envs = int(self.environment.max()) + 1
        growth, first = np.zeros((n_envs, len(days))), np.full((n_envs, len(days)), np.nan)
        known = np.zeros((n_envs, len(days)), dtype=bool)
        np.add.at(growth, (self.environment, at), np.log1p(np.maximum(self.returns, -1 + 1e-12)))
        known[self.environment, at] = True
        # np.unique finds the first bar of each day.
        _, bar = np.unique(self.environment * len(days) + at, return_index=True)
        first[self.environment[bar], at[bar]] = self.forecast[bar]
        return days, np.where(known, np.expm1(growth), np.nan), first


def read_history(folder: Path, book: str) -> RiskHistory:
    """A book of the evaluation in a folder.

    Raises
    ------
    RunError
        When its tables are not there, or do not belong together.
    """
    try:
        own = [("book", "==", book)]
        bars = pq.read_table(folder / BARS, filters=own)
        parts = pq.read_table(folder / INSTRUMENTS, filters=own)
        symbols = tuple(dict.fromkeys(parts["symbol"].cast("string").to_pylist()))
        m, n = bars.num_rows, len(symbols)
        if not m or parts.num_rows != m * n:
            raise ValueError(f"{parts.num_rows} rows of instruments for {m} bars")
        timestamps = np.asarray(bars["timestamp"]).astype("datetime64[s]")
        daily = bool((timestamps == timestamps.astype("datetime64[D]")).all())

        def wide(column: str) -> np.ndarray:
            return np.asarray(parts[column]).reshape(m, n)

        rules = np.array(parts["rule"].cast("string").to_pylist(), dtype=object).reshape(m, n)
        return RiskHistory(
            name=book,
            environment=np.asarray(bars["environment"]).astype(np.int64),
            timestamp=timestamps,
            day=trading_day(timestamps, daily).astype("datetime64[D]"),
            returns=np.asarray(bars["net_return"]),
            forecast=np.asarray(bars["var_forecast"]),
            weights=wide("weight"),
            proposed=wide("proposed"),
            rule=rules,
            symbols=symbols,
        )
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder}: its tables of bars cannot be read ({error}); evaluate the run again") from error
