"""Panels of the books: wealth and drawdown, risk and return, beside the baselines."""

from __future__ import annotations

import math

import numpy as np

from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.explain.collect import ExplanationData
from mtquant_rllib.evaluation.report.book_styles import LOWEST_WEALTH, book_styles, is_held
from mtquant_rllib.evaluation.report.building import BookReport, EvaluationReport
from mtquant_rllib.evaluation.web_page.panel import (
    Panel,
    date_axis,
    dates,
    layout,
    line,
    number,
    percent,
    regime_fields,
    spoken,
    strip_axis,
)

_SHARPE_LINES = (0.5, 1.0)


def tiles(report: EvaluationReport) -> tuple[tuple[str, str], ...]:
    """The dashboard's figures of the subject: (what, value)."""
    values, error = report.subject.all_bars.values, report.subject.all_bars.standard_errors["sharpe_ann"]
    return (
        ("Sharpe, net", f"{number(values['sharpe_ann'])} ± {number(error)}"),
        ("return a year", percent(values["annual_return"])),
        ("volatility a year", percent(values["volatility_ann"])),
        ("maximum drawdown", percent(values["max_drawdown_frac"])),
        ("Sortino", number(values["sortino_ann"])),
        ("winning bars", percent(values["win_rate"])),
        ("turnover a year", number(values["turnover_ann"], 1)),
        ("costs a year", percent(values["cost_frac_ann"])),
    )


def wealth_panel(material: ExplanationData, report: EvaluationReport, points: int) -> Panel:
    subject, length = material.subject, material.length
    x = dates(material.timestamps[:length], subject.bars_per_year)
    traces, styles = [], book_styles([record.name for record in material.records])
    for record in reversed(material.records):
        is_subject, held = record is subject, is_held(record.name)
        wealth = np.median(measures.wealth(record.returns)[:, 1:], axis=0)[:length]
        depth = -np.median(measures.drawdown(record.returns)[:, 1:], axis=0)[:length]
        style = {"color": styles[record.name].colour, "width": 2.4 if is_subject else 1.3}
        shown: bool | str = "legendonly" if held else True
        common = {"name": spoken(record.name), "legendgroup": record.name, "line": style, "visible": shown}
        drawn = np.where(wealth > LOWEST_WEALTH, wealth, np.nan)
        traces += [
            line(x, drawn, points, **common, hovertemplate="%{x}: %{y:.3f}"),
            line(x, depth, points, **common, showlegend=False, yaxis="y2", hovertemplate="%{x}: %{y:.1%}"),
        ]
    traces += regime_fields(x, material.regime[0, :length], "y3")
    middle = "" if subject.n_envs == 1 else f" Lines are medians over {subject.n_envs} histories."
    figure = {
        "data": traces,
        "layout": layout(
            xaxis=date_axis(subject.bars_per_year, anchor="y3"),
            yaxis={"domain": [0.44, 1], "type": "log", "title": {"text": "wealth"}, "tickformat": ".3~g", "nticks": 6},
            yaxis2={"domain": [0.1, 0.38], "title": {"text": "drawdown"}, "tickformat": ".0%"},
            yaxis3=strip_axis(0.05),
            legend={"traceorder": "reversed", "x": 1.01, "y": 1, "yanchor": "top"},
        ),
    }
    return Panel(
        "wealth",
        "Wealth and drawdown beside the baselines",
        "Net of costs and financing, from 1 unit staked, on the same bars and under the same risk rules. The strip "
        "below is the market's regime. Click a name to show or hide a book; books that hold one instrument wait in "
        f"the legend.{middle}",
        figure,
        560,
        notes=report.notes,
        table=_books_table(report),
    )


def _books_table(report: EvaluationReport) -> tuple[tuple[str, ...], ...]:
    header = ("book", "Sharpe", "Sharpe*", "return", "volatility", "max drawdown", "Sortino", "turnover/y", "costs/y")
    return (header, *(_book_row(book) for book in report.books))


def _book_row(book: BookReport) -> tuple[str, ...]:
    values, errors = book.all_bars.values, book.all_bars.standard_errors
    sharpe = values["sharpe_ann"]
    return (
        spoken(book.name),
        "–" if math.isnan(sharpe) else f"{number(sharpe)} ± {number(errors['sharpe_ann'])}",
        number(book.without_excluded.values["sharpe_ann"]),
        percent(values["annual_return"]),
        percent(values["volatility_ann"]),
        percent(values["max_drawdown_frac"]),
        number(values["sortino_ann"]),
        number(values["turnover_ann"], 1),
        percent(values["cost_frac_ann"]),
    )


def risk_return(report: EvaluationReport) -> dict[str, tuple[float, float]]:
    """Book -> (volatility, mean simple net return), annual; bankrupt books are left out."""
    points = {}
    for book in report.books:
        values = book.all_bars.values
        volatility = values["volatility_ann"]
        mean = values["sharpe_ann"] * volatility if math.isfinite(values["sharpe_ann"]) else 0.0
        if not values["bankruptcies"]:
            points[book.name] = (volatility, mean)
    return points


def risk_return_panel(report: EvaluationReport) -> Panel:
    points = risk_return(report)
    widest = max((volatility for volatility, _ in points.values()), default=0.1) * 1.08 or 0.1
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, widest],
            "y": [0, sharpe * widest],
            "line": {"color": "#cccccc", "width": 1, "dash": "dot"},
            "name": f"Sharpe {sharpe:g}",
            "hoverinfo": "name",
        }
        for sharpe in _SHARPE_LINES
    ]
    styles = book_styles([book.name for book in report.books])
    for position, (name, (volatility, mean)) in enumerate(points.items()):
        first = position == 0
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [round(volatility, 6)],
                "y": [round(mean, 6)],
                "name": spoken(name),
                "marker": {
                    "size": 17 if first else 10,
                    "symbol": styles[name].symbol,
                    "color": styles[name].colour,
                    "line": {"width": 1, "color": "white"},
                },
                "hovertemplate": "volatility %{x:.1%}, return %{y:.1%}",
            }
        )
    missing = [book.name for book in report.books if book.name not in points]
    figure = {
        "data": traces,
        "layout": layout(
            xaxis={"title": {"text": "volatility a year"}, "tickformat": ".0%", "range": [-0.02 * widest, widest]},
            yaxis={"title": {"text": "mean net return a year"}, "tickformat": ".0%", "zeroline": True},
            legend={"x": 1.01, "y": 1, "yanchor": "top"},
        ),
    }
    return Panel(
        "risk_return",
        "Risk and return",
        "Each book's volatility and mean net return, both a year. Above a dotted line the Sharpe ratio is better than "
        "the line's; grey marks hold one instrument.",
        figure,
        480,
        notes=tuple(f"{spoken(name)} went bankrupt and has no place here." for name in missing),
    )
