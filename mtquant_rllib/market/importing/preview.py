"""Bars and series as they were understood: a few rows with their clock, frequency and units, for a person to check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.alignment import BarSeries, usual_step_s
from mtquant_rllib.market.bars import COLUMNS
from mtquant_rllib.market.checking.anomalies import timestamp_text
from mtquant_rllib.market.importing.macro import MacroSeries
from mtquant_rllib.market.importing.report import ImportReport

ROWS = 2
"""At either end."""
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def preview(
    series: Sequence[BarSeries], macro: MacroSeries | None, report: ImportReport, settings: Settings
) -> list[str]:
    """Lines for a screen: per instrument what its bars are, then its first and last rows; then the macro series."""
    clocks = {file.path: file.clock for file in report.files}
    out = []
    for one in series:
        out.append(f"{one.symbol}: {_what(one, clocks.get(one.source, ''), settings)}")
        out.append(f"  {'date' if one.daily else 'opens, UTC':<18}" + "".join(f"{name:>14}" for name in COLUMNS))
        out += _ends(
            [
                f"  {timestamp_text(timestamp, one.daily):<18}" + "".join(f"{value:>14.10g}" for value in bar)
                for timestamp, bar in zip(*_both_ends(one.timestamps, one.bars))
            ],
            len(one),
        )
    if macro is not None:
        out.append("macro series: by the day that a value is about")
        out.append(f"  {'date':<18}" + "".join(f"{name:>14}" for name in macro.columns))
        dates, values = _both_ends(macro.dates, macro.values)
        rows = [f"  {date!s:<18}" + "".join(f"{v:>14.10g}" for v in row) for date, row in zip(dates, values)]
        out += _ends(rows, len(macro.dates))
    return out


def frequency(series: BarSeries) -> str:
    """The usual distance between bars in words: "daily", "4 hours"."""
    if series.daily:
        return "daily"
    step_s = usual_step_s(series.timestamps)
    size, unit = next(((size, unit) for size, unit in _UNITS if step_s and step_s % size == 0), (1, "second"))
    count = step_s // size
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _what(series: BarSeries, clock: str, settings: Settings) -> str:
    row = settings.symbols[series.symbol]
    timestamps = "timestamps are trading dates" if series.daily else f"timestamps read as {clock or 'UTC'}"
    volume = "no volume" if np.isnan(series.bars[:, -1]).all() else "volume as the source counts it"
    return f"{frequency(series)} bars, {timestamps}, prices in {row.quote} for 1 {row.base}, {volume}"


def _both_ends(timestamps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(timestamps) <= 2 * ROWS:
        return timestamps, values
    at = np.r_[0:ROWS, len(timestamps) - ROWS : len(timestamps)]
    return timestamps[at], values[at]


def _ends(lines: list[str], total: int) -> list[str]:
    return lines if total <= 2 * ROWS else [*lines[:ROWS], f"  ... {total - 2 * ROWS:,} more", *lines[ROWS:]]
