"""The picture of an evaluation: wealth of the desk and of the baselines above, drawdowns below, in one PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.dates as mdates
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator, PercentFormatter

from mtquant_rllib.config.sections.evaluation import PlotConfig
from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.report.book_styles import LOWEST_WEALTH, book_styles, is_held
from mtquant_rllib.evaluation.statistics.bootstrap import pooled_sharpe


def plot_equity(records: Sequence[Record], path: Path, config: PlotConfig, title: str = "") -> Path:
    """Draw wealth per unit staked and drawdown of every record; the first one is the subject.

    With several environments the line is the median over them at each bar, and the subject has a band that leaves out
    `band_quantile` on either side. Books that hold one instrument share one grey legend entry. Where environments begin
    at different dates the horizontal axis counts bars. A book that goes bankrupt ends with a cross.
    """
    subject = records[0]
    held = [record for record in records[1:] if is_held(record.name)]
    others = [record for record in records[1:] if not is_held(record.name)]
    figure, (top, bottom) = plt.subplots(
        2,
        1,
        sharex=True,
        figsize=(config.width_in, config.height_in),
        gridspec_kw={"height_ratios": (2.2, 1), "hspace": 0.06},
        layout="constrained",
    )
    top.set_yscale("log")
    styles = book_styles([record.name for record in records])
    for position, record in enumerate(held):
        _draw(
            top,
            None,
            record,
            styles[record.name].colour,
            0.8,
            f"one instrument held ({len(held)})" if position == 0 else "",
        )
    for record in others:
        _draw(top, bottom, record, styles[record.name].colour, 1.2, _spoken(record.name))
    _draw(top, bottom, subject, styles[subject.name].colour, 2.0, _spoken(subject.name), config.band_quantile)
    _dress(figure, top, bottom, records, title, config.band_quantile)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=config.dpi)
    plt.close(figure)
    return path


def _draw(
    top: Axes, bottom: Axes | None, record: Record, colour: str, width: float, label: str, band: float | None = None
) -> None:
    x = _axis_of(record)
    curves = measures.wealth(record.returns)
    front = 5 if band is not None else 3 if bottom is not None else 2
    middle = np.median(curves, axis=0)
    shown = np.where(middle > LOWEST_WEALTH, middle, np.nan)
    legend = f"{label}  ({_sharpe_label(record)})" if label and bottom is not None else label
    top.plot(x, shown, color=colour, lw=width, label=legend or None, zorder=front, solid_joinstyle="round")
    if np.isnan(shown).any():
        last = int(np.flatnonzero(np.isfinite(shown))[-1])
        top.plot(x[last], shown[last], marker="x", color=colour, ms=7, mew=1.6, zorder=front)
    if band is not None and record.n_envs > 1:
        low, high = np.quantile(np.maximum(curves, LOWEST_WEALTH), [band, 1 - band], axis=0)
        top.fill_between(x, low, high, color=colour, alpha=0.12, lw=0, zorder=1)
    if bottom is not None:
        depth = -np.median(measures.drawdown(record.returns), axis=0)
        bottom.plot(x, depth, color=colour, lw=0.75 * width, zorder=front)
        if band is not None:
            bottom.fill_between(x, depth, 0, color=colour, alpha=0.12, lw=0, zorder=1)


def _dress(figure: plt.Figure, top: Axes, bottom: Axes, records: Sequence[Record], title: str, band: float) -> None:
    low, high = _wealth_limits(records, band)
    top.set_ylim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    top.yaxis.set_major_locator(FixedLocator(_thinned(ticks, low, high)))
    top.yaxis.set_minor_locator(NullLocator())
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    top.yaxis.set_minor_formatter(NullFormatter())
    top.axhline(1, color="#888888", lw=0.8, ls=":", zorder=1)
    top.set_ylabel("wealth per unit staked, net")
    bottom.set_ylabel("drawdown")
    bottom.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bottom.set_ylim(top=0)
    for axes in (top, bottom):
        axes.grid(True, color="#ececec", lw=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    if records[0].timestamps.ndim == 1:
        locator = mdates.AutoDateLocator(minticks=4, maxticks=10)
        bottom.xaxis.set_major_locator(locator)
        bottom.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    else:
        bottom.set_xlabel("bars from the start of the episode")
    if title:
        top.set_title(title, loc="left", fontsize=12, fontweight="bold")
    handles, labels = top.get_legend_handles_labels()
    order = [len(labels) - 1, *range(len(labels) - 1)] if len(labels) > 1 else [0]
    figure.align_ylabels((top, bottom))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        title="net (Sharpe)" if records[0].n_envs == 1 else f"median of {records[0].n_envs} (pooled Sharpe)",
        alignment="left",
    )


_TICKS = (
    0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.5, 3,
    4, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000,
)  # fmt: skip


def _thinned(ticks: list[float], low: float, high: float) -> list[float]:
    """Ticks at least a fourteenth of the logarithmic axis apart, 1 always among them."""
    gap = np.log(high / low) / 14
    kept: list[float] = [1.0]
    for tick in sorted(ticks, key=lambda tick: abs(np.log(tick))):
        if all(abs(np.log(tick / other)) >= gap for other in kept):
            kept.append(tick)
    return kept


def _wealth_limits(records: Sequence[Record], band: float) -> tuple[float, float]:
    """Limits that show the subject's band, and every book but the held instruments, whole, with a margin."""
    shown = [record for record in records if not is_held(record.name)] or list(records)
    lines = [np.median(measures.wealth(record.returns), axis=0) for record in shown]
    lines += list(np.quantile(measures.wealth(records[0].returns), [band, 1 - band], axis=0))
    curves = np.concatenate(lines)
    low, high = max(float(np.min(curves)), LOWEST_WEALTH), max(float(np.max(curves)), 1.0)
    margin = max(0.1 * np.log(high / low), 0.01)
    return low * float(np.exp(-margin)), high * float(np.exp(margin))


def _axis_of(record: Record) -> np.ndarray:
    """Positions of the T + 1 points of a wealth curve: dates, the first one bar early; or counts of bars."""
    if record.timestamps.ndim == 2 or record.n_bars < 2:
        return np.arange(record.n_bars + 1)
    first = record.timestamps[0] - np.median(np.diff(record.timestamps).astype(np.int64)).astype("timedelta64[s]")
    return np.concatenate([[first], record.timestamps]).astype("datetime64[s]")


def _sharpe_label(record: Record) -> str:
    value = float(pooled_sharpe(record.returns, record.bars_per_year))
    return "–" if np.isnan(value) else f"{value:.2f}"


def _spoken(name: str) -> str:
    return re.sub(r"(?<=\d)_(?=\d)", "-", name).replace("_", " ")
