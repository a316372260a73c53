"""Panels of an attention policy: its attention, and the regimes of its classifier.

Shapes: K decisions, L layers, H heads, G groups, R regimes. A reader chooses layer, head and regime, each of which can
also be "all": the arrays for every choice travel with the page.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.evaluation.explain.collect import ExplanationData
from mtquant_rllib.evaluation.explain.decisions import Decisions
from mtquant_rllib.evaluation.explain.importance import attention_received
from mtquant_rllib.evaluation.regimes.figures import N_REGIMES, REGIME_NAMES
from mtquant_rllib.evaluation.web_page.panel import (
    GROUP_COLOURS,
    REGIME_COLOURS,
    SEQUENTIAL,
    Panel,
    cells,
    date_axis,
    dates,
    layout,
    number,
    percent,
    regime_fields,
    short,
    strip_axis,
)
from mtquant_rllib.policies.introspection import AttentionReadout

_FULL_SCALE = 65534
"""Numbers in [0, 1] are encoded in 16 bits; one more code stands for NaN."""


@dataclass(frozen=True)
class AttentionViews:
    """Attention in every way the page can show it; index 0 of layers, heads and regimes is the mean over all.

    matrix
        (1 + R, 1 + L, 1 + H, G, G): mean attention, NaN for a regime without decisions.
    over_time
        (1 + L, 1 + H, G, P): attention received in P consecutive parts of the first history.
    part_bar
        int (P,): the bar at which each part begins.
    """

    matrix: np.ndarray
    over_time: np.ndarray
    part_bar: np.ndarray


def attention_views(readout: AttentionReadout, decisions: Decisions, parts: int) -> AttentionViews:
    attention = readout.attention
    _, n_layers, n_heads, n_groups, _ = attention.shape
    matrix = np.full((1 + N_REGIMES, 1 + n_layers, 1 + n_heads, n_groups, n_groups), np.nan)
    for choice in range(1 + N_REGIMES):
        chosen = attention if choice == 0 else attention[decisions.regime == choice - 1]
        if len(chosen):
            matrix[choice] = _with_means(chosen.mean(axis=0, dtype=np.float64))
    first = decisions.of_history(0)
    begins = np.unique(np.linspace(0, len(first), min(parts, len(first)) + 1).astype(int))[:-1]
    # Received: mean over the groups that attend.
    received = attention[first].mean(axis=3, dtype=np.float64)
    means = np.add.reduceat(received, begins) / np.diff(begins, append=len(first))[:, None, None, None]
    over_time = np.stack([_with_means(part) for part in means], axis=-1)
    return AttentionViews(matrix, over_time, decisions.bar[first][begins])


def _with_means(values: np.ndarray) -> np.ndarray:
    """(L, H, ...) -> (1 + L, 1 + H, ...), the mean over an axis as its element 0."""
    heads = np.concatenate([values.mean(axis=1, keepdims=True), values], axis=1)
    both: np.ndarray = np.concatenate([heads.mean(axis=0, keepdims=True), heads], axis=0)
    return both


def encoded(values: np.ndarray) -> dict[str, object]:
    """An array of numbers in [0, 1] or NaN for the page: shape, and base64 of little-endian 16-bit integers."""
    codes = np.where(np.isfinite(values), np.round(np.nan_to_num(values) * _FULL_SCALE), _FULL_SCALE + 1)
    return {"shape": list(values.shape), "data": base64.b64encode(codes.astype("<u2").tobytes()).decode()}


def movement(readout: AttentionReadout, decisions: Decisions) -> tuple[float, float, int]:
    """How far attention moves from one decision to the next: half the sum of absolute changes of attention received.

    Mean where the regime stayed, mean where it changed, and the number of changes; NaN where there are none.
    """
    received = attention_received(readout.attention)
    together = decisions.env[1:] == decisions.env[:-1]
    moved = 0.5 * np.abs(np.diff(received, axis=0)).sum(axis=1, dtype=np.float64)
    changed = (decisions.regime[1:] != decisions.regime[:-1]) & together
    stayed = ~changed & together
    means = [float(moved[mask].mean()) if mask.any() else np.nan for mask in (stayed, changed)]
    return means[0], means[1], int(changed.sum())


def heatmap_panel(views: AttentionViews, groups: tuple[str, ...]) -> Panel:
    z = views.matrix[0, 0, 0]
    trace = cells(z, [[percent(v, 0) for v in row] for row in z], groups, groups, SEQUENTIAL, zmin=0)
    trace |= {"zmax": max(0.5, float(np.nanmax(views.matrix)))}
    trace |= {"showscale": True, "colorbar": {"tickformat": ".0%", "thickness": 12, "outlinewidth": 0}}
    return Panel(
        "attention_heatmap",
        "Which group reads which",
        "A row is a group that reads, a column what it reads; rows add up to 100%. Choose a layer, a head and a "
        "regime, or their means. A row of equal cells reads everything alike.",
        {
            "data": [trace],
            "layout": layout(
                xaxis={"title": {"text": "is read"}, "showgrid": False},
                yaxis={"title": {"text": "reads"}, "autorange": "reversed", "showgrid": False},
            ),
        },
        150 + 62 * len(groups),
        selects=("layer", "head", "regime"),
    )


def evolution_panel(
    material: ExplanationData, readout: AttentionReadout, views: AttentionViews, groups: tuple[str, ...]
) -> Panel:
    length, per_year = material.length, material.subject.bars_per_year
    x = dates(material.timestamps[:length], per_year)
    labels = material.regime[0, :length]
    at = [x[bar] for bar in views.part_bar]
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": at,
            "y": short(views.over_time[0, 0, g]),
            "name": group,
            "line": {"color": GROUP_COLOURS[g % len(GROUP_COLOURS)], "width": 1.5},
            "hovertemplate": "%{x}: %{y:.1%}",
        }
        for g, group in enumerate(groups)
    ]
    marks: list[str | None] = []
    for bar in np.flatnonzero(labels[1:] != labels[:-1]) + 1:
        marks += [x[bar], x[bar], None]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": marks[:-1],
            "y": [0, 1, None] * (len(marks) // 3 - 1) + [0, 1] if marks else [],
            "name": "regime changes",
            "line": {"color": "#999999", "width": 0.6, "dash": "dot"},
            "hoverinfo": "skip",
            "yaxis": "y3",
        }
    )
    traces += regime_fields(x, labels, "y2")
    stayed, changed, count = movement(readout, material.decisions)
    moves = (
        f"From one decision to the next attention moves by {percent(stayed)} on average"
        + (f", and by {percent(changed)} over the {count} between which the regime changed" if count else "")
        + "."
    )
    per_part = len(material.decisions.of_history(0)) / max(len(at), 1)
    averaged = f" Each point is a mean over about {per_part:.0f} decisions." if per_part >= 1.5 else ""
    one = "" if material.subject.n_envs == 1 else f" Drawn: the first of {material.subject.n_envs} histories."
    return Panel(
        "attention_time",
        "What is read, over time",
        f"Attention received by each group; dotted lines and the strip mark the regimes. {moves}{averaged}{one}",
        {
            "data": traces,
            "layout": layout(
                # The legend is as wide as a narrow screen: the tools stand above it, not upon it.
                margin={"l": 60, "r": 20, "t": 64, "b": 40},
                xaxis=date_axis(per_year, anchor="y2"),
                yaxis={"domain": [0.14, 1], "tickformat": ".0%", "title": {"text": "received"}},
                yaxis2=strip_axis(),
                yaxis3={"overlaying": "y", "domain": [0.14, 1], "range": [0, 1], "visible": False, "fixedrange": True},
            ),
        },
        448,
        selects=("layer", "head"),
    )


def classifier_panel(material: ExplanationData, readout: AttentionReadout, parts: int) -> Panel:
    """The classifier's probabilities over time above the detector's labels."""
    decisions, length = material.decisions, material.length
    per_year = material.subject.bars_per_year
    x = dates(material.timestamps[:length], per_year)
    first = decisions.of_history(0)
    begins = np.unique(np.linspace(0, len(first), min(parts, len(first)) + 1).astype(int))[:-1]
    sums = np.add.reduceat(readout.probabilities[first].astype(np.float64), begins)
    means = sums / np.diff(begins, append=len(first))[:, None]
    at = [x[bar] for bar in decisions.bar[first][begins]]
    traces: list[dict[str, object]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": at,
            "y": short(means[:, regime]),
            "name": name,
            "legendgroup": f"regime_{name}",
            "stackgroup": "probability",
            "line": {"width": 0, "color": REGIME_COLOURS[regime]},
            "fillcolor": REGIME_COLOURS[regime],
            "hovertemplate": "%{x}: %{y:.1%}",
        }
        for regime, name in enumerate(REGIME_NAMES)
    ]
    traces += regime_fields(x, material.regime[0, :length], "y2")
    figures = readout.metrics(decisions.regime)
    score = material.classifier
    assert score is not None
    fell = sum(value for name, value in figures.items() if name.startswith("fallback_"))
    notes = (
        score.verdict(),
        f"Mean largest probability {number(figures['classifier_confidence'])}. At {percent(fell)} of the decisions the "
        "network fell back: "
        + ", ".join(f"{name} {percent(figures[f'fallback_{name}'])}" for name in ("unsure", "not_finite", "equal"))
        + ".",
    )
    return Panel(
        "classifier",
        "The regime of the policy's classifier",
        "Areas are the network's own probabilities of the regimes, the strip the detector's labels.",
        {
            "data": traces,
            "layout": layout(
                xaxis=date_axis(per_year, anchor="y2"),
                yaxis={"domain": [0.14, 1], "range": [0, 1], "tickformat": ".0%", "title": {"text": "probability"}},
                yaxis2=strip_axis(),
            ),
        },
        360,
        notes=notes,
        table=score.table(),
    )
