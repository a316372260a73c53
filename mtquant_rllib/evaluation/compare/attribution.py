"""Panels of where the money came from and went: regimes, domains, instruments, costs, trading, risk edits."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtquant_rllib.evaluation.compare.colours import run_colours
from mtquant_rllib.evaluation.compare.compared_run import ComparedRun
from mtquant_rllib.evaluation.compare.comparison import Comparison
from mtquant_rllib.evaluation.report.book_styles import COLOURS
from mtquant_rllib.evaluation.web_page.panel import (
    DIVERGING,
    Panel,
    cells,
    date_axis,
    dates,
    layout,
    line,
    number,
    short,
)

_COSTS = {"price_pnl_ccy": "before costs", "cost_ccy": "trading costs", "financing_ccy": "financing"}


def parts_panel(comparison: Comparison) -> Panel:
    """Sharpe ratio of what each regime, domain and instrument added."""
    columns = {run.name: _parts_of(run) for run in comparison.runs}
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    z = np.array([[found.get(name, np.nan) for name in names] for found in columns.values()])
    text = [[number(value) for value in row] for row in z]
    return Panel(
        "parts",
        "By regime, domain and instrument",
        "Net Sharpe ratio of the run's bars in each market regime, and of what each domain and instrument added to its "
        "return. A regime is what was known when the weights were decided; it predicts nothing.",
        {
            "data": [cells(z, text, names, list(columns), DIVERGING, zmin=-1.5, zmax=1.5)],
            "layout": layout(xaxis={"type": "category"}, yaxis={"autorange": "reversed", "type": "category"}),
        },
        150 + 26 * len(columns),
    )


def _parts_of(run: ComparedRun) -> dict[str, float]:
    found = {f"regime: {name}": sharpe for name, (sharpe, _) in run.regimes.items()}
    for part in run.report["parts"]:
        value = part["summary"]["values"].get("sharpe_ann")
        name = part["name"] if part["kind"] == "instrument" else f"{part['kind']}: {part['name']}"
        found[name] = np.nan if value is None else float(value)
    return found


def costs_panel(comparison: Comparison) -> Panel:
    names = [run.name for run in comparison.runs]
    traces = []
    for (key, label), sign, colour in zip(_COSTS.items(), (1, -1, -1), COLOURS):
        values = np.array([sign * run.values[key] for run in comparison.runs])
        traces.append(_bar(names, values, label, colour))
    net = np.array([run.values["net_pnl_ccy"] for run in comparison.runs])
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": names,
            "y": short(net),
            "name": "net",
            "marker": {"symbol": "diamond", "size": 10, "color": "#111111"},
            "hovertemplate": "net %{y:,.0f}",
        }
    )
    return Panel(
        "costs",
        "From price profit to net profit",
        "Account currency over all bars: profit before costs, what trading cost (spread, commission, slippage, "
        "impact), what financing cost or brought, and what is left.",
        {
            "data": traces,
            "layout": layout(
                barmode="relative", xaxis={"type": "category"}, yaxis={"title": {"text": "account currency"}}
            ),
        },
        440,
    )


def trading_panel(comparison: Comparison, points: int) -> Panel:
    """Turnover and exposure over time, means over a month of bars."""
    first, traces = comparison.runs[0], []
    x, colours = dates(first.own.timestamps, first.bars_per_year), run_colours([run.name for run in comparison.runs])
    window = max(round(first.bars_per_year / 12), 1)
    for run in comparison.runs:
        style = {"color": colours[run.name], "width": 1.4}
        common = {"legendgroup": run.name, "name": run.name, "line": style}
        columns = run.own.columns
        traces += [
            line(x, rolling_mean(columns["exposure_gross"], window), points, **common, hovertemplate="%{x}: %{y:.0%}"),
            line(
                x,
                rolling_mean(columns["turnover"], window) * run.bars_per_year,
                points,
                **common,
                showlegend=False,
                yaxis="y2",
                hovertemplate="%{x}: %{y:.1f} a year",
            ),
        ]
    return Panel(
        "trading",
        "Exposure and turnover",
        "Sum of absolute weights, and what is traded a year in units of equity; each the mean of a month of bars.",
        {
            "data": traces,
            "layout": layout(
                xaxis=date_axis(first.bars_per_year, anchor="y2"),
                yaxis={"domain": [0.54, 1], "title": {"text": "gross exposure"}, "tickformat": ".0%"},
                yaxis2={"domain": [0, 0.46], "title": {"text": "turnover a year"}},
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        480,
    )


def rolling_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` bars of all environments (B, T), (T,); of fewer at the beginning."""
    known = np.isfinite(values)
    total = np.cumsum(np.where(known, values, 0.0).sum(axis=0))
    count = np.cumsum(known.sum(axis=0)).astype(float)
    total[window:], count[window:] = total[window:] - total[:-window], count[window:] - count[:-window]
    return np.asarray(total / np.where(count > 0, count, np.nan))


def edits_panel(comparison: Comparison) -> Panel:
    names = [run.name for run in comparison.runs]
    edits = [run.report["books"][0]["edits_by_rule"] for run in comparison.runs]
    rules = list(dict.fromkeys(rule for one in edits for rule in one))
    traces = [
        _bar(names, np.array([one.get(rule, 0) for one in edits], dtype=float), rule, colour)
        for rule, colour in run_colours(rules).items()
    ]
    return Panel(
        "edits",
        "What risk changed",
        "Edits by the rule that bound, over all bars and instruments. A run that risk edits all the time has not "
        "learned its limits.",
        {
            "data": traces,
            "layout": layout(barmode="stack", xaxis={"type": "category"}, yaxis={"title": {"text": "edits"}}),
        },
        400,
        notes=() if rules else ("Risk changed nothing in any of them.",),
    )


def _bar(names: list[str], values: np.ndarray, label: str, colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": names,
        "y": short(values),
        "name": label,
        "marker": {"color": colour},
        "hovertemplate": f"{label} %{{y:,.0f}}",
    }
