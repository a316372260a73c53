"""Each book's performance by regime, beside the comparison and from the same records.

A bar belongs to the regime that was known when its weights were decided. Labels describe the market up to then and do
not predict it: a book that earns in one regime is not known to earn in the next one of its kind.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from rich.console import Console

from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.regimes.figures import (
    REGIME_NAMES,
    RegimePerformance,
    performance_by_regime,
    played_regimes,
)
from mtquant_rllib.evaluation.report.book_styles import is_held
from mtquant_rllib.evaluation.report.terminal_tables import print_cells

ALL = "all"
"""Name of the column over all bars."""

ByRegime = Mapping[str, RegimePerformance]
"""Book -> its performance by regime."""


def by_regime(records: Sequence[Record], data: DeskData, draws: Sequence[EpisodeDraw]) -> ByRegime:
    """Of books that have all played `draws`."""
    return {
        record.name: performance_by_regime(record, played_regimes(data, draws, record.played)[0]) for record in records
    }


def write_by_regime(found: ByRegime, path: Path) -> Path:
    """One row a book and regime; empty where a figure is undefined."""
    names = [field.name for field in fields(RegimePerformance)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["book", "regime", *names])
        for book, own in found.items():
            for number, regime in enumerate((*REGIME_NAMES, ALL)):
                values = [getattr(own, name)[number] for name in names]
                writer.writerow([book, regime, *(value if np.isfinite(value) else "" for value in values)])
    return path


def print_by_regime(found: ByRegime, console: Console) -> None:
    """Net Sharpe with its standard error, a column a regime; rules that hold one asset are left to the file."""
    own = next(iter(found.values()))
    bars = own.bars[:-1] / max(own.bars[-1], 1)
    head = ("book", *(f"{regime} ({share:.0%})" for regime, share in zip(REGIME_NAMES, bars)))
    rows = [
        (book, *(_with_error(*pair) for pair in zip(one.sharpe_ann[:-1], one.sharpe_error[:-1])))
        for book, one in found.items()
        if not is_held(book)
    ]
    print_cells([head, *rows], console, title="net Sharpe by regime (share of bars)")
    console.print("Labels describe the market up to a decision; they do not predict it.", style="dim")


def _with_error(sharpe: float, error: float) -> str:
    return f"{sharpe:.2f} ±{error:.2f}" if np.isfinite(sharpe) and np.isfinite(error) else "-"
