"""Common parts of all panels: colours, fonts, the strip of regimes under a time axis, number formats.

Figures are plain dictionaries in Plotly's own schema, `{"data": [...], "layout": {...}}`: what is written is what is
tested, and the same run gives the same bytes. Lines are SVG and never longer than a screen is wide: a browser keeps
only about a dozen WebGL canvases alive, and a page of panels would lose some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.evaluation.regimes.figures import REGIME_NAMES, find_spells

Figure = dict[str, Any]
Scale = tuple[tuple[float, str], ...]

# Okabe and Ito (2008): told apart with any colour vision. A regime has its colour everywhere.
REGIME_COLOURS = ("#009e73", "#d55e00", "#cc79a7", "#b8b8b8")
GROUP_COLOURS = ("#0072b2", "#e69f00", "#56b4e9", "#7570b3", "#8a6d3b", "#444444")
CLAIM_COLOURS = {"occlusion": "#333333", "received": "#0072b2", "rollout": "#56b4e9"}
INK, GRID = "#333333", "#ececec"
DOMAIN_SHADES = (
    ("#08519c", "#4292c6", "#9ecae1"),
    ("#8c510a", "#dfa14a", "#f0d29a"),
    ("#54278f", "#807dba", "#bcbddc"),
    ("#006d5b", "#41ae9b", "#a6dccf"),
)
"""One hue a domain, one shade an instrument."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
SEQUENTIAL = ((0.0, "#f7fafd"), (0.5, "#85b8dc"), (1.0, "#0b559f"))
DIVERGING = ((0.0, "#b35806"), (0.5, "#f7f7f7"), (1.0, "#2166ac"))
"""(place, colour) from the lowest value to the highest."""
STRIP_SHARE = 0.06
"""Of a panel's height, for the regimes under a time axis."""


@dataclass(frozen=True)
class Panel:
    """One figure of the page with a heading that says what it is and a lead that says what to see.

    selects: names of the choices a reader has ("layer", "head", "regime"); table: header and rows, beneath the figure.
    """

    id: str
    title: str
    lead: str
    figure: Figure
    height_px: int
    notes: tuple[str, ...] = ()
    selects: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()


def layout(**more: Any) -> dict[str, Any]:
    """A panel's layout: white, thin grid, legend above the plot, room for its labels and for the tools above it."""
    axes = {key: _axis(value) for key, value in more.items() if key.startswith(("xaxis", "yaxis"))}
    return {
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 60, "r": 20, "t": 36, "b": 40},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        **more,
        **axes,
    }


def _axis(axis: Mapping[str, Any]) -> dict[str, Any]:
    full = {"gridcolor": GRID, "zeroline": False, "automargin": True, "linecolor": "#cccccc", **axis}
    # Without a standoff a title is put where labels of usual length end.
    return full if "title" not in full else {**full, "title": {"standoff": 10, **full["title"]}}


def short(values: np.ndarray | Sequence[float]) -> list[Any]:
    """Nested lists of numbers with five digits; what is not finite becomes None, which Plotly leaves out."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim > 1:
        return [short(row) for row in array]
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in array.tolist()]


def dates(timestamps: np.ndarray, bars_per_year: float) -> list[str]:
    """Timestamps as Plotly reads them, to the day for daily bars and to the minute for shorter ones."""
    daily = is_daily(bars_per_year)
    strings: list[str] = np.datetime_as_string(timestamps, unit="D" if daily else "m").tolist()
    return strings if daily else [text.replace("T", " ") for text in strings]


def date_axis(bars_per_year: float, **more: Any) -> dict[str, Any]:
    """An axis of `dates`, which a cursor reads as finely as they are; left to itself Plotly names the month alone."""
    return {"type": "date", "hoverformat": "%Y-%m-%d" if is_daily(bars_per_year) else "%Y-%m-%d %H:%M", **more}


def is_daily(bars_per_year: float) -> bool:
    return bars_per_year < 366


def kept_points(values: np.ndarray, points: int) -> np.ndarray:
    """Positions that draw (T,) in about `points` points: of each of equal stretches the lowest and the highest, and
    both ends. NaN are kept out unless a stretch holds nothing else."""
    count = len(values)
    if count <= points:
        return np.arange(count)
    edges = np.linspace(0, count, max(points // 2, 1) + 1).astype(int)
    starts, stops = edges[:-1, None], edges[1:, None]
    at = starts + np.arange(int(np.diff(edges).max()))
    inside = at < stops
    stretches = np.where(inside, values[np.minimum(at, count - 1)], np.nan)
    known = np.isfinite(stretches)
    lowest = np.where(known, stretches, np.inf).argmin(axis=1)
    highest = np.where(known, stretches, -np.inf).argmax(axis=1)
    kept = np.concatenate((starts[:, 0] + lowest, starts[:, 0] + highest, [0, count - 1]))
    return np.unique(kept)


def line(x: Sequence[str], y: np.ndarray, points: int, **more: Any) -> dict[str, Any]:
    """A thinned line over time."""
    kept = kept_points(y, points)
    return {"type": "scatter", "mode": "lines", "x": [x[i] for i in kept], "y": short(y[kept]), **more}


def regime_fields(x: Sequence[str], labels: np.ndarray, axis: str, *, lanes: bool = False) -> list[dict[str, Any]]:
    """One trace a regime: a field for every stretch of it. `lanes` puts each regime on a height of its own."""
    spells = find_spells(labels)
    traces = []
    for regime, (name, colour) in enumerate(zip(REGIME_NAMES, REGIME_COLOURS)):
        low, high = (regime - 0.4, regime + 0.4) if lanes else (0, 1)
        xs: list[str | None] = []
        ys: list[float | None] = []
        for start, bars in zip(spells.start[spells.regime == regime], spells.bars[spells.regime == regime]):
            first, after = x[start], x[min(start + bars, len(x) - 1)]
            xs += [first, first, after, after, None]
            ys += [low, high, high, low, None]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": xs[:-1],
                "y": ys[:-1],
                "fill": "toself",
                "fillcolor": colour,
                "line": {"width": 0, "color": colour},
                "hoveron": "fills",
                "hoverinfo": "name",
                "name": name,
                "showlegend": False,
                "yaxis": axis,
            }
        )
    return traces


def strip_axis(share: float = STRIP_SHARE) -> dict[str, Any]:
    """The axis of the regimes' strip, at the foot of a panel."""
    return {"domain": [0, share], "range": [0, 1], "showticklabels": False, "showgrid": False, "fixedrange": True}


def cells(
    z: np.ndarray, text: list[list[str]], x: Sequence[str], y: Sequence[str], colours: Scale, **more: Any
) -> dict[str, Any]:
    """A heat map with the values in its cells."""
    return {
        "type": "heatmap",
        "z": short(z),
        "x": list(x),
        "y": list(y),
        "text": text,
        "texttemplate": "%{text}",
        "hovertemplate": "%{y}, %{x}: %{text}<extra></extra>",
        "colorscale": [list(stop) for stop in colours],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        **more,
    }


def heading(text: str, x: float, y: float = 1.0, size: int = 12) -> dict[str, Any]:
    """The title of a part of a figure, above it."""
    return {
        "text": text,
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": size},
    }


def percent(value: float, digits: int = 1) -> str:
    return f"{number(100 * value, digits)}%" if np.isfinite(value) else "–"


def number(value: float, digits: int = 2) -> str:
    """Rounded, without a zero's sign; a dash for what is not defined."""
    return f"{value:z.{digits}f}" if np.isfinite(value) else "–"


def spoken(name: str) -> str:
    return name.replace("_", " ")
