"""The picture of a training: validation Sharpe over bars, one panel a phase, from the run's own curves."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from mtquant_rllib.config.evaluation import PlotConfig

_COLOURS = ("#0072b2", "#d55e00", "#009e73")
PICTURE = "learning_curves.png"


def plot_learning_curves(run: Path, config: PlotConfig) -> Path | None:
    """Draw `RUN/curves/*.csv` into `RUN/learning_curves.png`; None where no trial has been validated yet."""
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
    path = run / PICTURE
    figure.savefig(path, dpi=config.dpi)
    plt.close(figure)
    return path


def _validated(source: Path) -> tuple[list[float], list[float]]:
    """Bars and validation Sharpe of the iterations that were validated."""
    with open(source, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("validation_sharpe") and row.get("validation_bars")]
    by_bars = {float(row["validation_bars"]): float(row["validation_sharpe"]) for row in rows}
    return list(by_bars), list(by_bars.values())
