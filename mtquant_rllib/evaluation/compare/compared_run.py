"""One run as it is compared: its own book bar by bar, the figures of its evaluation, its settings, its learning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.report.bar_tables import BARS
from mtquant_rllib.evaluation.report.output import REPORT

_COLUMNS = ("net_return", "turnover", "exposure_gross", "exposure_net")


@dataclass(frozen=True)
class LearningCurve:
    """Validation Sharpe ratio of one trial, at each validation: bars, wall time in hours, ratio; (K,) each."""

    trial: str
    bars: np.ndarray
    hours: np.ndarray
    sharpe: np.ndarray


@dataclass(frozen=True)
class StrategyReturns:
    """A strategy bar by bar: timestamps (T,), and its columns of `bars.parquet`, (B, T) each; NaN where a bar was not
    played."""

    name: str
    timestamps: np.ndarray
    columns: Mapping[str, np.ndarray]

    @property
    def returns(self) -> np.ndarray:
        """Net simple returns, (B, T)."""
        return self.columns["net_return"]

    @property
    def wealth(self) -> np.ndarray:
        """Per unit staked after each bar, the median over environments, (T,)."""
        found: np.ndarray = np.median(measures.wealth(self.returns)[:, 1:], axis=0)
        return found

    @property
    def drawdown(self) -> np.ndarray:
        """Loss since the highest wealth, the median over environments, (T,)."""
        found: np.ndarray = np.median(measures.drawdown(self.returns)[:, 1:], axis=0)
        return found


@dataclass(frozen=True)
class ComparedRun:
    """report: the tree of `evaluation.json`. books: the run's own first. settings: flat, by dotted path. regimes: name
    of a regime -> net Sharpe ratio and share of bars of the run's own book. n_trials: different trainings on the run's
    bars that the ledger beside it counts, seeds apart where they are averaged."""

    name: str
    report: Mapping[str, Any]
    books: Mapping[str, StrategyReturns]
    settings: Mapping[str, Any]
    regimes: Mapping[str, tuple[float, float]]
    learning: tuple[LearningCurve, ...] = field(default=())
    n_trials: int = 1

    @property
    def context(self) -> Mapping[str, Any]:
        """What the evaluation was measured on."""
        found: Mapping[str, Any] = self.report["context"]
        return found

    @cached_property
    def own(self) -> StrategyReturns:
        """The run's own book."""
        return next(iter(self.books.values()))

    @property
    def values(self) -> Mapping[str, float]:
        """Figures of the run's own book; NaN for what is not defined."""
        found = self.report["books"][0]["all_bars"]["values"]
        return {name: np.nan if value is None else value for name, value in found.items()}

    @property
    def sharpe_error(self) -> float:
        value = self.report["books"][0]["all_bars"]["standard_errors"].get("sharpe_ann")
        return float("nan") if value is None else float(value)

    @property
    def finding(self) -> str:
        """What the verdict's rule says; empty where there is no verdict."""
        verdict = self.report["verdict"]
        return "" if verdict is None else str(verdict["finding"])

    @property
    def overlaps(self) -> bool:
        """Whether its episodes started at random within one history, and share bars."""
        return bool(self.context.get("overlaps", False))

    @property
    def bars_per_year(self) -> float:
        return float(self.context["bars_per_year"])


def read_report(folder: Path) -> Mapping[str, Any]:
    """The tree of an evaluation's report.

    Raises
    ------
    RunError
        When there is none, or it cannot be read.
    """
    try:
        tree = json.loads((folder / REPORT).read_bytes())
        if not isinstance(tree["context"]["facts"], dict) or not tree["books"]:
            raise ValueError("no books")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / REPORT}: not readable as the report of an evaluation ({error})") from error
    return dict(tree)


def read_books(folder: Path, names: list[str]) -> dict[str, StrategyReturns]:
    """These books of an evaluation, bar by bar.

    Raises
    ------
    RunError
        When they are not there, or the episodes of the evaluation began at different bars.
    """
    path = folder / BARS
    try:
        table = pq.read_table(
            path, columns=["book", "environment", "timestamp", *_COLUMNS], filters=[("book", "in", names)]
        )
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{path}: not readable as the bars of an evaluation ({error}); evaluate the run again"
        ) from error
    books, which = np.asarray(table["book"].cast("string")), np.asarray(table["environment"])
    timestamps = np.asarray(table["timestamp"]).astype("datetime64[s]")
    found = {}
    for name in names:
        rows = books == name
        if not rows.any():
            raise RunError(f"{path}: there is no book {name}; evaluate the run again")
        times, at = np.unique(timestamps[rows], return_inverse=True)
        n_envs = int(which[rows].max()) + 1
        columns = {}
        for column in _COLUMNS:
            wide = np.full((n_envs, len(times)), np.nan)
            wide[which[rows], at] = np.asarray(table[column])[rows]
            columns[column] = wide
        found[name] = StrategyReturns(name, times, columns)
    return found
