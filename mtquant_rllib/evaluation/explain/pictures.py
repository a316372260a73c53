"""The page's themes as PNGs, drawn from the same arrays, for reports and readers without a browser."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.dates as mdates
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from mtquant_rllib.config.sections.evaluation import EvaluationConfig
from mtquant_rllib.evaluation.explain.attention import AttentionViews, attention_views
from mtquant_rllib.evaluation.explain.collect import ExplanationData
from mtquant_rllib.evaluation.explain.influence import shares, verdicts
from mtquant_rllib.evaluation.explain.performance import risk_return
from mtquant_rllib.evaluation.explain.weights import instrument_colours
from mtquant_rllib.evaluation.regimes.figures import (
    N_REGIMES,
    REGIME_NAMES,
    find_spells,
    performance_by_regime,
    regime_figures,
    weight_regime_correlation,
)
from mtquant_rllib.evaluation.report.book_styles import book_styles
from mtquant_rllib.evaluation.report.building import EvaluationReport
from mtquant_rllib.evaluation.report.plots import plot_equity
from mtquant_rllib.evaluation.web_page.panel import (
    CLAIM_COLOURS,
    DIVERGING,
    GROUP_COLOURS,
    INK,
    REGIME_COLOURS,
    SEQUENTIAL,
    number,
    percent,
    spoken,
)
from mtquant_rllib.policies.introspection import AttentionReadout

_REGIME_MAP = ListedColormap(REGIME_COLOURS)
_SEQUENTIAL_MAP, _DIVERGING_MAP = (LinearSegmentedColormap.from_list("", scale) for scale in (SEQUENTIAL, DIVERGING))


def write_pictures(
    material: ExplanationData, report: EvaluationReport, config: EvaluationConfig, folder: Path
) -> dict[str, Path]:
    """Name -> path of each PNG."""
    plot = config.plot
    figures: dict[str, Figure] = {}

    def blank(name: str, rows: int, columns: int, height: float = 1.0, **more: object) -> tuple[Figure, np.ndarray]:
        figures[name], axes = plt.subplots(
            rows,
            columns,
            squeeze=False,
            layout="constrained",
            figsize=(plot.width_in, height * plot.height_in),
            gridspec_kw=more,
        )
        return figures[name], axes

    _regimes(material, *blank("regimes", 1, 3, 0.5))
    _timeline(material, *blank("regime_timeline", 2, 1, 0.45, height_ratios=(1, 1.4)))
    _performance(material, *blank("regime_performance", 1, 3, 0.45))
    _weights(material, *blank("weights", 2, 1, 0.8, height_ratios=(6, 1)))
    _weight_regimes(material, *blank("weight_regimes", 1, 1, 0.7))
    _risk_return(report, *blank("risk_return", 1, 1, 0.8))
    _importance(material, *blank("importance", 1, 1, 0.7))
    if material.readout is not None:
        layers = material.readout.attention.shape[1]
        _attention(material, material.readout, *blank("attention", 1, layers + 1, 0.55))
        views = attention_views(material.readout, material.decisions, config.explain.attention_points)
        _attention_time(material, views, *blank("attention_time", 2, 1, 0.6, height_ratios=(6, 1)))
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, figure in figures.items():
        paths[name] = folder / f"{name}.png"
        figure.savefig(paths[name], dpi=plot.dpi)
        plt.close(figure)
    title = f"{material.subject.facts['run']}, {material.subject.facts['split']}"
    paths["equity"] = plot_equity(material.records, folder / "equity.png", plot, title)
    return paths


def _regimes(material: ExplanationData, figure: Figure, axes: np.ndarray) -> None:
    shares_axis, matrix, durations = axes[0]
    found = regime_figures(material.regime)
    _title(shares_axis, "share of bars")
    shares_axis.bar(REGIME_NAMES, found.shares, color=REGIME_COLOURS)
    shares_axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _title(matrix, "where a regime goes when it ends")
    z = np.where(np.eye(N_REGIMES, dtype=bool), np.nan, found.destinations)
    text = [
        ["" if i == j else f"{percent(found.destinations[i, j], 0)}\n({found.transitions[i, j]})" for j in range(4)]
        for i in range(N_REGIMES)
    ]
    _map(matrix, z, text, REGIME_NAMES, REGIME_NAMES, _SEQUENTIAL_MAP, 0, 1)
    _title(durations, "bars a stretch")
    spells = find_spells(material.regime)
    by_regime = [spells.bars[spells.regime == regime] for regime in range(N_REGIMES)]
    boxes = durations.boxplot(by_regime, tick_labels=REGIME_NAMES, patch_artist=True)
    for box, colour in zip(boxes["boxes"], REGIME_COLOURS):
        box.set_facecolor(colour)
    for median in boxes["medians"]:
        median.set_color(INK)
    durations.set_yscale("log")
    _calm(shares_axis, durations)


def _timeline(material: ExplanationData, figure: Figure, axes: np.ndarray) -> None:
    strip, confidence = axes[:, 0]
    timestamps = _dates(material)
    _title(strip, "regime")
    _strip(strip, material)
    strip.tick_params(labelbottom=False)
    _legend(figure, [Patch(color=colour, label=name) for name, colour in zip(REGIME_NAMES, REGIME_COLOURS)])
    confidence.plot(timestamps, material.regime_confidence[0, : material.length], color=INK, lw=0.7)
    confidence.set_ylabel("confidence")
    confidence.set_ylim(0, 1.02)
    confidence.set_xlim(timestamps[0], timestamps[-1])
    _calm(confidence)
    _date_axis(confidence)


def _performance(material: ExplanationData, figure: Figure, axes: np.ndarray) -> None:
    desk = performance_by_regime(material.subject, material.regime)
    names, colours = [*REGIME_NAMES, "all"], [*REGIME_COLOURS, INK]
    parts = (
        ("profit, of starting equity", desk.profit_frac, None),
        ("Sharpe, ± one error", desk.sharpe_ann, desk.sharpe_error),
        ("maximum drawdown", desk.max_drawdown_frac, None),
    )
    for axis, (title, values, error) in zip(axes[0], parts):
        _title(axis, title)
        axis.bar(names, np.nan_to_num(values), yerr=error, color=colours, ecolor="#777777")
        axis.axhline(0, color="#999999", lw=0.8)
        axis.tick_params(axis="x", labelsize=8)
        if error is None:
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    _calm(*axes[0])


def _weights(material: ExplanationData, figure: Figure, axes: np.ndarray) -> None:
    top, strip = axes[:, 0]
    record, timestamps = material.subject, _dates(material)
    _title(top, "weight of each instrument, fractions of equity")
    for i, (symbol, colour) in enumerate(zip(record.symbols, instrument_colours(record))):
        top.plot(timestamps, record.weights[0, : material.length, i], color=colour, lw=0.9, label=symbol)
    top.axhline(0, color="#999999", lw=0.8)
    top.set_xlim(timestamps[0], timestamps[-1])
    top.tick_params(labelbottom=False)
    _calm(top)
    _strip(strip, material)
    _date_axis(strip)
    handles = [*top.get_lines()[:-1]]
    handles += [Patch(color=colour, label=name) for name, colour in zip(REGIME_NAMES, REGIME_COLOURS)]
    _legend(figure, handles)


def _weight_regimes(material: ExplanationData, figure: Figure, axes: np.ndarray) -> None:
    axis = axes[0, 0]
    _title(axis, "correlation of a weight with the regime")
    z = weight_regime_correlation(material.subject.weights, material.regime)
    _map(
        axis, z, [[number(v) for v in row] for row in z], REGIME_NAMES, material.subject.symbols, _DIVERGING_MAP, -1, 1
    )


def _risk_return(report: EvaluationReport, figure: Figure, axes: np.ndarray) -> None:
    axis = axes[0, 0]
    _title(axis, "risk and return, net, a year")
    styles = book_styles([book.name for book in report.books])
    for position, (name, (volatility, mean)) in enumerate(risk_return(report).items()):
        style, size = styles[name], 260 if position == 0 else 60
        mark = {"color": style.colour, "marker": style.marker, "s": size}
        axis.scatter(volatility, mean, label=spoken(name), zorder=3, lw=0, **mark)
    axis.axhline(0, color="#999999", lw=0.8)
    for formatted in (axis.xaxis, axis.yaxis):
        formatted.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("volatility")
    axis.set_ylabel("mean net return")
    axis.set_xlim(left=0)
    _calm(axis)
    _legend(figure, axis.get_legend_handles_labels()[0])


def _importance(material: ExplanationData, figure: Figure, axes: np.ndarray) -> None:
    axis, influence = axes[0, 0], material.influence
    parts = shares(influence)
    places, width = np.arange(len(influence.groups)), 0.8 / len(parts)
    for position, (name, share) in enumerate(parts.items()):
        bars = axis.bar(
            places + (position - (len(parts) - 1) / 2) * width, share, width, color=CLAIM_COLOURS[name], label=name
        )
        axis.bar_label(bars, [percent(value, 0) for value in share], fontsize=8)
    axis.set_xticks(places, influence.groups)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _title(axis, f"what {material.decisions.agent}'s decisions rest on: share of each group")
    _calm(axis)
    _legend(figure, axis.get_legend_handles_labels()[0])
    if influence.faith:
        text = "\n".join(verdicts(influence))
        figure.supxlabel(text, fontsize=8, color="#666666", wrap=True, ha="left", x=0.02)


def _attention(material: ExplanationData, readout: AttentionReadout, figure: Figure, axes: np.ndarray) -> None:
    groups = material.influence.groups
    means = readout.attention.mean(axis=(0, 2), dtype=np.float64)
    views = [means.mean(axis=0), *means]
    highest = max(0.5, float(np.max(means)))
    for layer, (axis, z) in enumerate(zip(axes[0], views)):
        _title(axis, "mean over layers" if layer == 0 else f"layer {layer}, mean over heads")
        _map(axis, z, [[percent(v, 0) for v in row] for row in z], groups, groups, _SEQUENTIAL_MAP, 0, highest)
        axis.tick_params(axis="x", labelsize=8)
        axis.set_xlabel("is read")
        if layer:
            axis.tick_params(labelleft=False)
    axes[0, 0].set_ylabel("reads")


def _attention_time(material: ExplanationData, views: AttentionViews, figure: Figure, axes: np.ndarray) -> None:
    top, strip = axes[:, 0]
    timestamps, received = _dates(material), views.over_time[0, 0]
    _title(top, "attention received")
    for g, group in enumerate(material.influence.groups):
        colour = GROUP_COLOURS[g % len(GROUP_COLOURS)]
        top.plot(timestamps[views.part_bar], received[g], color=colour, lw=0.9, label=group)
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set_xlim(timestamps[0], timestamps[-1])
    top.tick_params(labelbottom=False)
    _calm(top)
    _strip(strip, material)
    _date_axis(strip)
    handles = [*top.get_lines()]
    handles += [Patch(color=colour, label=name) for name, colour in zip(REGIME_NAMES, REGIME_COLOURS)]
    _legend(figure, handles)


def _strip(axis: Axes, material: ExplanationData) -> None:
    timestamps = mdates.date2num(_dates(material))
    edges = np.append(timestamps, 2 * timestamps[-1] - timestamps[-2] if len(timestamps) > 1 else timestamps[-1] + 1)
    axis.pcolormesh(
        edges, [0, 1], material.regime[:1, : material.length], cmap=_REGIME_MAP, vmin=-0.5, vmax=N_REGIMES - 0.5
    )
    axis.set_yticks([])
    axis.set_xlim(timestamps[0], timestamps[-1])
    axis.xaxis_date()


def _map(
    axis: Axes,
    z: np.ndarray,
    text: list[list[str]],
    x: tuple[str, ...],
    y: tuple[str, ...],
    colours: Colormap,
    low: float,
    high: float,
) -> None:
    axis.imshow(z, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(x)), x)
    axis.set_yticks(range(len(y)), y)
    strength = np.abs(z - 0.5 * (low + high)) if low < 0 else z - 0.5 * (low + high)
    dark = strength > (0.6 if low < 0 else 0.1) * 0.5 * (high - low)
    for i, row in enumerate(text):
        for j, value in enumerate(row):
            axis.text(j, i, value, ha="center", va="center", fontsize=9, color="white" if dark[i, j] else INK)


def _dates(material: ExplanationData) -> np.ndarray:
    return material.timestamps[: material.length]


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10)


def _legend(figure: Figure, handles: list) -> None:
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)


def _calm(*axes: Axes) -> None:
    for axis in axes:
        axis.grid(True, axis="y", color="#ececec", lw=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)


def _date_axis(axis: Axes) -> None:
    locator = mdates.AutoDateLocator(minticks=4, maxticks=10)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
