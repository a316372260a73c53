"""The picture of a training: validation Sharpe over bars, one panel a phase, from the run's own curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from mtquant_rllib import durable
from mtquant_rllib.config.sections.evaluation import PlotConfig
from mtquant_rllib.training.records import damage_warnings

_COLOURS = ("#0072b2", "#d55e00", "#009e73")
PICTURE = "learning_curves.png"
BARS, SHARPE = "validation_bars", "validation_sharpe"
"""Columns of `curves/*.csv` that are drawn."""
_LINES_NAMED = 5


def plot_learning_curves(run: Path, config: PlotConfig) -> Path | None:
    """Draw `RUN/curves/*.csv` into `RUN/learning_curves.png`; None where no trial has been validated yet.

    A damaged row or file is named in a warning and left out."""
    phases: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for source in sorted((run / "curves").glob("phase_*_*.csv")):
        _, phase, trial = source.stem.split("_", 2)
        points = _validated(source)
        if points[0]:
            phases.setdefault(phase, {})[trial] = points
    if not phases:
        return None
    figure, axes = plt.subplots(
        1,
        len(phases),
        sharey=True,
        squeeze=False,
        figsize=(config.width_in, config.height_in / 2),
        layout="constrained",
    )
    for axis, (phase, trials) in zip(axes[0], phases.items()):
        for colour, (trial, (bars, sharpe)) in zip(_COLOURS, trials.items()):
            axis.plot([1e-3 * bar for bar in bars], sharpe, color=colour, marker="o", markersize=3, label=trial)
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.set_title(f"phase {phase}", fontsize=10)
        axis.set_xlabel("thousand bars")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    axes[0][0].set_ylabel("validation Sharpe, net")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=config.dpi, format="png")
    plt.close(figure)
    # Replaced as a whole: a link at its place is not followed.
    path = run / PICTURE
    durable.replace_file(path, drawn.getvalue())
    return path


def _validated(source: Path) -> tuple[list[float], list[float]]:
    """Bars and validation Sharpe of the iterations that were validated; what cannot be read is named and left out."""
    by_bars: dict[float, float] = {}
    for bars, sharpe in _readable(source):
        if math.isfinite(bars) and math.isfinite(sharpe):
            by_bars[bars] = sharpe
    return list(by_bars), list(by_bars.values())


def _readable(source: Path) -> Iterator[tuple[float, float]]:
    """(bars, Sharpe) of every row that names both."""
    try:
        if not source.is_file():
            raise ValueError("it is no file")
        # Damaged bytes spoil their own row, not the file.
        lines = source.read_bytes().decode("utf-8", errors="replace").split("\n")
    except (OSError, ValueError) as error:
        damage_warnings.warn(f"{source}: this curve is left out of the picture: {error}")
        return
    header = lines[0].rstrip("\r").split(",")
    if not {BARS, SHARPE} <= set(header):
        damage_warnings.warn(
            f"{source}: this curve is left out of the picture: its first line does not name {BARS} and {SHARPE}"
        )
        return
    bars, sharpe = header.index(BARS), header.index(SHARPE)
    spoilt = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            (row,) = csv.reader([line])
            if len(row) != len(header):
                raise ValueError(f"{len(row)} columns where the first line names {len(header)}")
            if row[bars] and row[sharpe]:
                yield float(row[bars]), float(row[sharpe])
        except (ValueError, csv.Error) as error:
            spoilt.append(f"line {number} ({error})")
    if spoilt:
        more = f" and {len(spoilt) - _LINES_NAMED} more" if len(spoilt) > _LINES_NAMED else ""
        damage_warnings.warn(f"{source}: damaged, left out of the picture: {', '.join(spoilt[:_LINES_NAMED])}{more}")
