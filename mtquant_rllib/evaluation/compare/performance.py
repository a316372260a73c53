"""Panels of what the runs earned: wealth and drawdown, rolling Sharpe ratio, months and years, distribution, worst
days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtquant_rllib.evaluation.compare.colours import faint, run_colours
from mtquant_rllib.evaluation.compare.compared_run import ComparedRun, StrategyReturns
from mtquant_rllib.evaluation.compare.comparison import Comparison
from mtquant_rllib.evaluation.report.book_styles import LOWEST_WEALTH, book_styles, is_held
from mtquant_rllib.evaluation.web_page.panel import (
    DIVERGING,
    Panel,
    cells,
    date_axis,
    dates,
    kept_points,
    layout,
    line,
    percent,
    short,
    spoken,
)

_WORST = 10
"""Days in the table of the worst."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def wealth_panel(comparison: Comparison, points: int) -> Panel:
    first = comparison.runs[0]
    x = dates(first.own.timestamps, first.bars_per_year)
    colours, traces = run_colours([run.name for run in comparison.runs]), []
    styles = book_styles(list(first.books))
    for name, book in _rules(first).items():
        shown = True if name == "reference" else "legendonly"
        style = {"color": styles[name].colour, "width": 1.3, "dash": "dot"}
        traces += _wealth_and_drawdown(x, book.wealth, book.drawdown, points, spoken(name), name, style, shown)
    for group in comparison.configurations:
        runs = [row.run for row in group.rows]
        colour = colours[runs[0].name]
        if len(runs) > 1:
            wealth = np.stack([run.own.wealth for run in runs])
            depth = np.stack([run.own.drawdown for run in runs])
            traces += _band(x, wealth, points, colour, runs[0].name)
            named, style = f"{group.name}: median of {len(runs)}", {"color": colour, "width": 2.4}
            middle = (np.median(wealth, axis=0), np.median(depth, axis=0))
            traces += _wealth_and_drawdown(x, *middle, points, named, runs[0].name, style, True)
        for run in runs:
            style = {"color": colours[run.name], "width": 1.8}
            alone: bool | str = True if len(runs) == 1 else "legendonly"
            traces += _wealth_and_drawdown(
                x, run.own.wealth, run.own.drawdown, points, run.name, f"run {run.name}", style, alone
            )
    return Panel(
        "wealth",
        "Wealth and drawdown",
        "Net of costs and financing, from 1 unit staked, on the same bars. Runs that differ in the seed alone are a "
        "line, their median, and a band from the worst to the best of them; each is in the legend. Dotted: rules.",
        {
            "data": traces,
            "layout": layout(
                xaxis=date_axis(first.bars_per_year, anchor="y2"),
                yaxis={"domain": [0.38, 1], "type": "log", "title": {"text": "wealth"}, "tickformat": ".4~g"},
                yaxis2={"domain": [0, 0.32], "title": {"text": "drawdown"}, "tickformat": ".2~%"},
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        600,
        notes=comparison.notes,
    )


def _rules(run: ComparedRun) -> dict[str, StrategyReturns]:
    return {name: book for name, book in list(run.books.items())[1:] if not is_held(name)}


def _wealth_and_drawdown(
    x: Sequence[str],
    wealth: np.ndarray,
    depth: np.ndarray,
    points: int,
    name: str,
    group: str,
    style: dict[str, Any],
    shown: bool | str,
) -> list[dict[str, Any]]:
    common = {"name": name, "legendgroup": group, "line": style, "visible": shown}
    drawn = np.where(wealth > LOWEST_WEALTH, wealth, np.nan)
    return [
        line(x, drawn, points, **common, hovertemplate="%{x}: %{y:.3f}"),
        line(x, -depth, points, **common, showlegend=False, yaxis="y2", hovertemplate="%{x}: %{y:.1%}"),
    ]


def _band(x: Sequence[str], wealth: np.ndarray, points: int, colour: str, group: str) -> list[dict[str, Any]]:
    low, high = np.maximum(wealth.min(axis=0), LOWEST_WEALTH), wealth.max(axis=0)
    kept = kept_points(high, points)
    edge = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    kept_x = [x[i] for i in kept]
    filled = {"fill": "tonexty", "fillcolor": faint(colour, 0.15)}
    return [
        {**edge, "x": kept_x, "y": short(low[kept]), "legendgroup": group},
        {**edge, "x": kept_x, "y": short(high[kept]), "legendgroup": group, **filled},
    ]


def rolling_panel(comparison: Comparison, points: int) -> Panel:
    first, traces = comparison.runs[0], []
    x, colours = dates(first.own.timestamps, first.bars_per_year), run_colours([run.name for run in comparison.runs])
    window = round(first.bars_per_year)
    for run in comparison.runs:
        rolled = rolling_sharpe(run.own.returns, window, run.bars_per_year)
        style = {"color": colours[run.name], "width": 1.5}
        traces.append(line(x, rolled, points, name=run.name, line=style, hovertemplate="%{x}: %{y:.2f}"))
    return Panel(
        "rolling",
        "Rolling Sharpe ratio",
        "Of the year that ends at each day, net. One year's ratio has an error of about 1, so that most of what goes "
        "up and down here is luck; a run whose line lies below another's all the way is another matter.",
        {
            "data": traces,
            "layout": layout(
                xaxis=date_axis(first.bars_per_year),
                yaxis={"title": {"text": "Sharpe, one year"}, "zeroline": True},
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        420,
    )


def rolling_sharpe(returns: np.ndarray, window: int, bars_per_year: float) -> np.ndarray:
    """Annualised Sharpe ratio of the last `window` bars of all environments (B, T) together, (T,); NaN before there
    are as many."""
    known = np.isfinite(returns)
    filled = np.where(known, returns, 0.0)
    count, total, squares = (
        np.cumsum(np.concatenate(([0.0], part.sum(axis=0)))) for part in (known.astype(float), filled, filled**2)
    )
    found = np.full(returns.shape[1], np.nan)
    if window < 2 or window > returns.shape[1]:
        return found
    n, mean, square = (part[window:] - part[:-window] for part in (count, total, squares))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = mean / n
        variance = (square - n * mean**2) / (n - 1)
        found[window - 1 :] = np.where(variance > 1e-14, mean / np.sqrt(variance), np.nan) * np.sqrt(bars_per_year)
    return found


def calendar_returns(book: StrategyReturns, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Net return of each calendar `unit` ("M" or "Y"), compounded, the mean over environments: (periods, returns)."""
    periods, at = np.unique(book.timestamps.astype(f"datetime64[{unit}]"), return_inverse=True)
    growth = np.log1p(np.maximum(np.nan_to_num(book.returns), -1 + 1e-12))
    summed = np.zeros((len(growth), len(periods)))
    for env, own in enumerate(growth):
        summed[env] = np.bincount(at, own, len(periods))
    return periods, np.expm1(summed).mean(axis=0)


def years_panel(comparison: Comparison) -> Panel:
    years, _ = calendar_returns(comparison.runs[0].own, "Y")
    z = np.stack([calendar_returns(run.own, "Y")[1] for run in comparison.runs])
    names = [run.name for run in comparison.runs]
    text = [[percent(value) for value in row] for row in z]
    return Panel(
        "years",
        "Net return of each year",
        "One row a run, one column a year of the bars. The first and the last year may be parts of one.",
        _heat(z, text, [str(year) for year in years], names),
        _height(len(names)),
    )


def months_panel(comparison: Comparison) -> Panel:
    """One heat map a run; the reader chooses the run."""
    traces, buttons = [], []
    for number_, run in enumerate(comparison.runs):
        months, values = calendar_returns(run.own, "M")
        years = months.astype("datetime64[Y]")
        rows, at = np.unique(years, return_inverse=True)
        z = np.full((len(rows), 12), np.nan)
        z[at, (months - years).astype(int)] = values
        text = [[percent(value) if np.isfinite(value) else "" for value in row] for row in z]
        limit = _limit(z)
        trace = cells(z, text, _MONTHS, [str(row) for row in rows], DIVERGING, zmin=-limit, zmax=limit)
        traces.append({**trace, "visible": number_ == 0})
        shown = [other == number_ for other in range(len(comparison.runs))]
        buttons.append({"label": run.name, "method": "restyle", "args": ["visible", shown]})
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.04, "yanchor": "bottom", "showactive": True}
    figure = {"data": traces, "layout": layout(yaxis={"autorange": "reversed", "type": "category"}, updatemenus=[menu])}
    n_years = len(np.unique(comparison.runs[0].own.timestamps.astype("datetime64[Y]")))
    return Panel(
        "months",
        "Net return of each month",
        "Of the run that is chosen above the table.",
        figure,
        _height(n_years) + 40,
    )


def distribution_panel(comparison: Comparison) -> Panel:
    colours, traces = run_colours([run.name for run in comparison.runs]), []
    days = {run.name: daily_returns(run.own) for run in comparison.runs}
    edges = _edges(np.concatenate([values for _, values in days.values()]))
    middle = (edges[1:] + edges[:-1]) / 2
    for name, (_, values) in days.items():
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": short(middle),
                "y": short(np.where(share > 0, share, np.nan)),
                "name": name,
                "line": {"color": colours[name], "width": 1.6, "shape": "hvh"},
                "hovertemplate": "%{x:.2%}: %{y:.2%} of days",
            }
        )
    return Panel(
        "distribution",
        "Daily returns, and the worst days",
        "Share of days by net return, on a logarithmic axis, so that the tails can be seen. Beneath: the worst days of "
        "each run.",
        {
            "data": traces,
            "layout": layout(
                xaxis={"title": {"text": "net return of a day"}, "tickformat": ".2~%"},
                yaxis={"title": {"text": "share of days"}, "type": "log", "tickformat": "~p", "dtick": 1},
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        420,
        table=_worst_days(days),
    )


def daily_returns(book: StrategyReturns) -> tuple[np.ndarray, np.ndarray]:
    """Days of all environments one after the other, and their net returns."""
    days, at = np.unique(book.timestamps.astype("datetime64[D]"), return_inverse=True)
    growth = np.log1p(np.maximum(np.nan_to_num(book.returns), -1 + 1e-12))
    played = np.isfinite(book.returns)
    found, timestamps = [], []
    for env in range(len(growth)):
        known = np.bincount(at, played[env], len(days)) > 0
        found.append(np.expm1(np.bincount(at, growth[env], len(days)))[known])
        timestamps.append(days[known])
    return np.concatenate(timestamps), np.concatenate(found)


def _worst_days(days: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[tuple[str, ...], ...]:
    rows = []
    for name, (timestamps, values) in days.items():
        worst = np.argsort(values, kind="stable")[:_WORST]
        rows.append((name, *(f"{timestamps[i]} {percent(values[i])}" for i in worst)))
    longest = max(len(row) for row in rows)
    return (("run", *(f"{place}." for place in range(1, longest))), *rows)


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = (float(np.min(values)), float(np.max(values))) if len(values) else (0.0, 0.0)
    if not high > low:
        low, high = low - 0.005, high + 0.005
    return np.linspace(low, high, 61)


def _heat(z: np.ndarray, text: list[list[str]], x: Sequence[str], y: Sequence[str]) -> dict[str, Any]:
    limit = _limit(z)
    trace = cells(z, text, x, y, DIVERGING, zmin=-limit, zmax=limit)
    axes = {"xaxis": {"type": "category"}, "yaxis": {"autorange": "reversed", "type": "category"}}
    return {"data": [trace], "layout": layout(**axes)}


def _limit(z: np.ndarray) -> float:
    """Of a scale of colours that is the same on both sides of 0 and that one odd cell does not stretch."""
    known = np.abs(z[np.isfinite(z)])
    return float(np.quantile(known, 0.95)) or 1.0 if len(known) else 1.0


def _height(rows: int) -> int:
    return 110 + 26 * rows
