"""Panels of the book: weights over time, and how they go with the market's regimes."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.explain.collect import ExplanationData
from mtquant_rllib.evaluation.regimes.figures import (
    NO_REGIME,
    REGIME_NAMES,
    mean_by_regime,
    weight_regime_correlation,
)
from mtquant_rllib.evaluation.web_page.panel import (
    DIVERGING,
    DOMAIN_SHADES,
    Panel,
    cells,
    date_axis,
    dates,
    heading,
    kept_points,
    layout,
    line,
    number,
    percent,
    regime_fields,
    short,
    strip_axis,
)


def instrument_colours(record: Record) -> list[str]:
    """One hue a domain, shades for its instruments."""
    colours, place = [], dict.fromkeys(range(len(record.domains)), 0)
    for domain in record.domain_of:
        shades = DOMAIN_SHADES[domain % len(DOMAIN_SHADES)]
        colours.append(shades[place[domain] % len(shades)])
        place[domain] += 1
    return colours


def weights_panel(material: ExplanationData, points: int) -> Panel:
    record, length = material.subject, material.length
    x = dates(material.timestamps[:length], record.bars_per_year)
    weights = record.weights[0, :length]
    traces = [
        line(
            x,
            weights[:, i],
            points,
            name=symbol,
            legendgroup=symbol,
            line={"color": colour, "width": 1.3, "shape": "hv"},
            hovertemplate="%{x}: %{y:.3f}",
        )
        for i, (symbol, colour) in enumerate(zip(record.symbols, instrument_colours(record)))
    ]
    # Areas are stacked point by point, so all of them keep the same points: those that draw their sum.
    gross = np.abs(weights)
    kept = kept_points(gross.sum(axis=1), points)
    for d, domain in enumerate(record.domains):
        area = gross[:, np.array(record.domain_of) == d].sum(axis=1)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x[i] for i in kept],
                "y": short(area[kept]),
                "name": domain,
                "stackgroup": "gross",
                "line": {"width": 0, "color": DOMAIN_SHADES[d % len(DOMAIN_SHADES)][0]},
                "fillcolor": DOMAIN_SHADES[d % len(DOMAIN_SHADES)][1],
                "yaxis": "y2",
                "hovertemplate": "%{x}: %{y:.3f}",
            }
        )
    traces += regime_fields(x, material.regime[0, :length], "y3")
    whose = "The book" if record.n_envs == 1 else f"Drawn: the first of {record.n_envs} histories, whose book"
    traded = record.traded_frac[0, :length].sum() / (length / record.bars_per_year)
    return Panel(
        "weights",
        "Weights over time",
        "Above, the signed weight of each instrument after each bar, as a fraction of equity; in the middle, gross "
        f"exposure by domain; below, the regime. {whose} turned over {traded:.1f} times its equity a year.",
        {
            "data": traces,
            "layout": layout(
                xaxis=date_axis(record.bars_per_year, anchor="y3"),
                yaxis={"domain": [0.46, 1], "title": {"text": "weight"}, "zeroline": True, "zerolinecolor": "#999999"},
                yaxis2={"domain": [0.1, 0.4], "title": {"text": "gross"}, "rangemode": "tozero"},
                yaxis3=strip_axis(0.05),
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        540,
    )


def weight_regime_panel(material: ExplanationData) -> Panel:
    record, known = material.subject, material.regime != NO_REGIME
    mean = mean_by_regime(record.weights, material.regime).T
    correlation = weight_regime_correlation(record.weights, material.regime)
    limit = float(np.nanmax(np.abs(mean), initial=0.0, where=np.isfinite(mean))) or 1.0

    texts = [[percent(value) for value in row] for row in mean]
    correlated = [[number(value) for value in row] for row in correlation]

    parts = (
        cells(mean, texts, REGIME_NAMES, record.symbols, DIVERGING, zmin=-limit, zmax=limit),
        cells(correlation, correlated, REGIME_NAMES, record.symbols, DIVERGING, zmin=-1, zmax=1)
        | {"xaxis": "x2", "yaxis": "y2"},
    )
    figure = {
        "data": list(parts),
        "layout": layout(
            margin={"l": 70, "r": 20, "t": 60, "b": 30},
            xaxis={"domain": [0, 0.46], "showgrid": False},
            yaxis={"autorange": "reversed", "showgrid": False},
            xaxis2={"domain": [0.54, 1], "anchor": "y2", "showgrid": False},
            yaxis2={"autorange": "reversed", "anchor": "x2", "showticklabels": False, "showgrid": False},
            annotations=[heading("mean weight", 0, 1.02), heading("correlation with the regime", 0.54, 1.02)],
        ),
    }
    return Panel(
        "weight_regimes",
        "How weights go with regimes",
        "Left, the mean weight held in each regime; right, the correlation of a weight with “the regime is this one”, "
        f"over {int(known.sum()):,} bars. Near 0 the {record.name} holds the same whatever the regime.",
        figure,
        90 + 34 * len(record.symbols),
    )
