"""An evaluation as pandas DataFrames, for notebooks. The only file of the evaluation that loads pandas."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.report.bar_tables import bars_table, instruments_table
from mtquant_rllib.evaluation.report.building import EvaluationReport


def books_frame(report: EvaluationReport) -> pd.DataFrame:
    """Figures of every book on all bars, a row a book, the subject first."""
    return pd.DataFrame({book.name: book.all_bars.values for book in report.books}).T.rename_axis("book")


def returns_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Net simple returns, a column a book, by environment and timestamp."""
    bars = bars_table(records).to_pandas().astype({"book": str})
    wide = bars.pivot(index=["environment", "timestamp"], columns="book", values="net_return")
    return wide[[record.name for record in records]]


def weights_frame(record: Record) -> pd.DataFrame:
    """Weights held after each bar, a column an instrument, by environment and timestamp."""
    parts = instruments_table([record]).to_pandas().astype({"symbol": str})
    return parts.pivot(index=["environment", "timestamp"], columns="symbol", values="weight")[list(record.symbols)]
