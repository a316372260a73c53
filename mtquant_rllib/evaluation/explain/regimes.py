"""Panels of the market's regimes: timeline, transitions, durations, and what the books earned in each."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.evaluation.explain.collect import ExplanationData
from mtquant_rllib.evaluation.regimes.figures import (
    N_REGIMES,
    REGIME_NAMES,
    RegimeFigures,
    RegimePerformance,
    find_spells,
    performance_by_regime,
)
from mtquant_rllib.evaluation.report.book_styles import is_held
from mtquant_rllib.evaluation.web_page.panel import (
    DIVERGING,
    INK,
    REGIME_COLOURS,
    SEQUENTIAL,
    Panel,
    cells,
    date_axis,
    dates,
    heading,
    layout,
    line,
    number,
    percent,
    regime_fields,
    short,
    spoken,
)

_SHARE = ".3~%"
"""A percentage without zeros at its end: small books differ in the third digit."""
ALL = "all bars"
_DESCRIBES = "Labels use bars up to the decision; they describe the market and do not predict it."


def timeline_panel(material: ExplanationData, figures: RegimeFigures, points: int) -> Panel:
    length, per_year = material.length, material.subject.bars_per_year
    x = dates(material.timestamps[:length], per_year)
    confidence = line(
        x,
        material.regime_confidence[0, :length].astype(np.float64),
        points,
        name="confidence",
        showlegend=False,
        line={"color": INK, "width": 1},
        yaxis="y2",
        hovertemplate="%{x}: %{y:.2f}",
    )
    figure = {
        "data": [*regime_fields(x, material.regime[0, :length], "y", lanes=True), confidence],
        "layout": layout(
            xaxis=date_axis(per_year, anchor="y2"),
            yaxis={
                "domain": [0.36, 1],
                "tickvals": list(range(N_REGIMES)),
                "ticktext": list(REGIME_NAMES),
                "range": [N_REGIMES - 0.5, -0.5],
                "fixedrange": True,
            },
            yaxis2={"domain": [0, 0.28], "range": [0, 1.02], "title": {"text": "confidence"}, "fixedrange": True},
        ),
    }
    shares = ", ".join(f"{name} {percent(share, 0)}" for name, share in zip(REGIME_NAMES, figures.shares))
    a_year = figures.n_changes * per_year / figures.bars.sum()
    one = "" if material.subject.n_envs == 1 else f" Drawn: the first of {material.subject.n_envs} histories."
    return Panel(
        "regime_timeline",
        "Which regime the market was in",
        f"{shares}; {figures.n_changes} changes, {a_year:.1f} a year. Below, how far the detector was from changing "
        f"its mind. {_DESCRIBES}{one}",
        figure,
        360,
    )


def transition_panel(figures: RegimeFigures) -> Panel:
    z = np.where(np.eye(N_REGIMES, dtype=bool), np.nan, figures.destinations)
    text = [
        [
            f"stays {percent(figures.frequencies[i, j], 1)}"
            if i == j
            else f"{percent(figures.destinations[i, j], 0)} ({figures.transitions[i, j]})"
            for j in range(N_REGIMES)
        ]
        for i in range(N_REGIMES)
    ]
    figure = {
        "data": [cells(z, text, REGIME_NAMES, REGIME_NAMES, SEQUENTIAL, zmin=0, zmax=1)],
        "layout": layout(
            xaxis={"title": {"text": "goes to"}, "side": "bottom", "showgrid": False},
            yaxis={"title": {"text": "when this ends"}, "autorange": "reversed", "showgrid": False},
        ),
    }
    return Panel(
        "transition_matrix",
        "Where a regime goes when it ends",
        "Share of a regime's endings that went to each other one, with their number. The diagonal says how often the "
        "next bar keeps the regime.",
        figure,
        380,
    )


def durations_panel(material: ExplanationData, figures: RegimeFigures) -> Panel:
    spells = find_spells(material.regime)
    traces = [
        {
            "type": "box",
            "y": spells.bars[spells.regime == regime].tolist(),
            "name": name,
            "marker": {"color": REGIME_COLOURS[regime], "size": 4, "opacity": 0.6},
            "line": {"color": REGIME_COLOURS[regime]},
            "fillcolor": "rgba(0,0,0,0.03)",
            "boxpoints": "all",
            "jitter": 0.5,
            "pointpos": 0,
            "showlegend": False,
            "hoverinfo": "y",
        }
        for regime, name in enumerate(REGIME_NAMES)
    ]
    means = ", ".join(
        f"{name} {number(mean, 1)}" for name, mean in zip(REGIME_NAMES, figures.mean_duration_bars) if np.isfinite(mean)
    )
    figure = {
        "data": traces,
        "layout": layout(
            xaxis={"showgrid": False},
            yaxis={"title": {"text": "bars"}, "type": "log", "tickvals": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]},
        ),
    }
    return Panel(
        "durations",
        "How long a regime lasts",
        f"Every stretch as a point, on a logarithmic scale, over the box of its quartiles. Means in bars: {means}. The "
        "first and the last stretch of a history are cut off by its ends.",
        figure,
        380,
    )


def performance_panel(material: ExplanationData) -> Panel:
    desk = performance_by_regime(material.subject, material.regime)
    names = [*REGIME_NAMES, ALL]
    colours = [*REGIME_COLOURS, INK]
    parts = (
        ("profit, of starting equity", desk.profit_frac, _SHARE, None),
        ("mean return a year", desk.return_ann, _SHARE, None),
        ("Sharpe, ± one error", desk.sharpe_ann, ".2f", desk.sharpe_error),
        ("volatility a year", desk.volatility_ann, _SHARE, None),
        ("maximum drawdown", desk.max_drawdown_frac, _SHARE, None),
        ("winning bars", desk.win_rate, _SHARE, None),
    )
    columns, gap = 3, 0.07
    width = (1 - gap * (columns - 1)) / columns
    traces, axes, headings = [], {}, []
    for position, (title, values, form, error) in enumerate(parts):
        row, column = divmod(position, columns)
        left, low = column * (width + gap), 0.58 - 0.58 * row
        suffix = "" if position == 0 else str(position + 1)
        axes[f"xaxis{suffix}"] = {
            "domain": [left, left + width],
            "anchor": f"y{suffix}",
            "showgrid": False,
            "tickfont": {"size": 10},
        }
        axes[f"yaxis{suffix}"] = {
            "domain": [low, low + 0.36],
            "anchor": f"x{suffix}",
            "tickformat": form,
            "zeroline": True,
            "zerolinecolor": "#999999",
            "nticks": 5,
        }
        headings.append(heading(title, left, low + 0.375))
        bars = {
            "type": "bar",
            "x": names,
            "y": short(values),
            "marker": {"color": colours},
            "xaxis": f"x{suffix}",
            "yaxis": f"y{suffix}",
            "hovertemplate": f"%{{x}}: %{{y:{form}}}<extra></extra>",
            "showlegend": False,
        }
        if error is not None:
            bars["error_y"] = {"type": "data", "array": short(error), "color": "#777777", "thickness": 1.2}
        traces.append(bars)
    profits = ", ".join(f"{name} {percent(value)}" for name, value in zip(REGIME_NAMES, desk.profit_frac))
    return Panel(
        "regime_performance",
        f"What the {material.subject.name} earned in each regime",
        f"Bars by the regime known when their decision was taken. The profits of the regimes add up to "
        f"the whole, {percent(desk.profit_frac[-1])} of the equity at the start: {profits}.",
        {"data": traces, "layout": layout(**axes, annotations=headings)},
        520,
        table=_performance_table(desk, names),
    )


def _performance_table(desk: RegimePerformance, names: list[str]) -> tuple[tuple[str, ...], ...]:
    header = ("regime", "bars", "profit", "mean return/y", "volatility", "Sharpe", "max drawdown", "winning bars")
    rows = [
        (
            name,
            f"{int(desk.bars[i]):,}",
            percent(desk.profit_frac[i]),
            percent(desk.return_ann[i]),
            percent(desk.volatility_ann[i]),
            f"{number(desk.sharpe_ann[i])} ± {number(desk.sharpe_error[i])}",
            percent(desk.max_drawdown_frac[i]),
            percent(desk.win_rate[i]),
        )
        for i, name in enumerate(names)
    ]
    return (header, *rows)


def comparison_panel(material: ExplanationData) -> Panel:
    records = [record for record in material.records if not is_held(record.name)]
    z = np.stack([performance_by_regime(record, material.regime).sharpe_ann for record in records])
    moving = np.isfinite(z).any(axis=1)
    names = [spoken(record.name) for record, moves in zip(records, moving) if moves]
    z = z[moving]
    limit = float(np.nanmax(np.abs(z))) if z.size else 1.0
    columns = [*REGIME_NAMES, ALL]
    figure = {
        "data": [
            cells(z, [[number(v) for v in row] for row in z], columns, names, DIVERGING, zmin=-limit, zmax=limit),
        ],
        "layout": layout(
            margin={"l": 60, "r": 20, "t": 60, "b": 10},
            xaxis={"side": "top", "showgrid": False},
            yaxis={"autorange": "reversed", "showgrid": False},
        ),
    }
    return Panel(
        "regime_comparison",
        "Sharpe by regime, beside the baselines",
        "Net Sharpe of the bars of each regime: blue is gained, brown is lost. Over so few years two values must lie "
        "far apart to differ: compare with the errors above.",
        figure,
        110 + 34 * len(names),
    )
