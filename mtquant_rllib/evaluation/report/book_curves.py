"""Wealth and drawdown of all books as two tables of numbers, for whoever draws them elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest.record import Record


def write_book_curves(records: Sequence[Record], folder: Path) -> dict[str, Path]:
    """`equity.csv` and `drawdown.csv`: a row a bar, a column a book; wealth per unit staked, and the loss since its
    highest, both the median over environments. The first column is the date, or where environments begin at different
    dates the bar."""
    first = records[0]
    bars = (
        np.datetime_as_string(first.timestamps, unit="s")
        if first.timestamps.ndim == 1
        else np.arange(1, first.n_bars + 1)
    )
    tables = {"equity": measures.wealth, "drawdown": measures.drawdown}
    files = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, measure in tables.items():
        columns = [np.median(measure(record.returns), axis=0)[1:] for record in records]
        files[name] = folder / f"{name}.csv"
        with files[name].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["date" if first.timestamps.ndim == 1 else "bar", *(record.name for record in records)])
            for bar, *values in zip(bars, *columns, strict=True):
                writer.writerow([bar, *(f"{value:.8g}" for value in values)])
    return files
