"""Panels of a tear sheet that a comparison of runs does not have: figures, drawdowns, risk over time, positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.compare.compared_run import StrategyReturns
from mtquant_rllib.evaluation.tear_sheet.day_figures import drawdown_spells, figures_beside, figures_of_days
from mtquant_rllib.evaluation.tear_sheet.trade_figures import trade_rows
from mtquant_rllib.evaluation.web_page.panel import (
    DOMAIN_SHADES,
    INK,
    Panel,
    date_axis,
    dates,
    layout,
    line,
    number,
    percent,
    spoken,
)

_DRAWDOWNS = 10
"""In the table."""
_SHARES = (
    "total return", "return a year (CAGR)", "volatility a year", "maximum drawdown", "average drawdown", "ulcer index",
    "value at risk of a day", "expected shortfall of a day", "best day", "worst day", "winning days", "alpha a year",
    "tracking error a year",
)  # fmt: skip
"""Figures that are read as percentages."""


def histories(book: StrategyReturns) -> tuple[np.ndarray, np.ndarray]:
    """Days (D,), and the net return of each in every environment, (B, D)."""
    days, at = np.unique(book.timestamps.astype("datetime64[D]"), return_inverse=True)
    growth = np.log1p(np.maximum(np.nan_to_num(book.returns), -1 + 1e-12))
    return days, np.expm1(np.stack([np.bincount(at, own, len(days)) for own in growth]))


def figure_tables(
    own: StrategyReturns, others: Mapping[str, StrategyReturns], days_per_year: float
) -> tuple[tuple[str, ...], ...]:
    """Header and rows: each figure of the book and of the books beside it, then those of the book beside each; means
    over environments."""
    returns = {name: histories(book)[1] for name, book in {own.name: own, **others}.items()}
    found = {name: _mean([figures_of_days(one, days_per_year) for one in days]) for name, days in returns.items()}
    rows: list[tuple[str, ...]] = [("figure", *(spoken(name) for name in returns))]
    for figure in found[own.name]:
        rows.append((figure, *(_cell(figure, found[name].get(figure, np.nan)) for name in returns)))
    mine = returns[own.name]
    beside = {
        name: _mean([figures_beside(one, two, days_per_year) for one, two in zip(mine, returns[name])])
        for name in others
    }
    for figure in dict.fromkeys(figure for one in beside.values() for figure in one):
        cells = (_cell(figure, beside[name].get(figure, np.nan)) for name in others)
        rows.append((f"{figure}, to it", "", *cells))
    return tuple(rows)


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure over those that have it."""
    names = dict.fromkeys(name for one in figures for name in one)
    return {name: float(np.mean([one[name] for one in figures if name in one])) for name in names}


def _cell(figure: str, value: float) -> str:
    return percent(value) if figure in _SHARES else number(value)


def drawdowns_panel(own: StrategyReturns, points: int, bars_per_year: float) -> Panel:
    days, (returns, *more) = histories(own)
    curve = np.concatenate(([1.0], np.cumprod(1 + returns)))
    loss = (1 - curve / np.maximum.accumulate(curve))[1:]
    spells = drawdown_spells(returns, _DRAWDOWNS)
    rows = [("depth", "from", "lowest on", "recovered on", "days")]
    for spell in spells:
        end = "not yet" if spell.end is None else str(days[spell.end])
        length = f"{(days[-1 if spell.end is None else spell.end] - days[spell.start]).astype(int):,}"
        rows.append((percent(spell.depth), str(days[spell.start]), str(days[spell.valley]), end, length))
    x = dates(days.astype("datetime64[s]"), min(bars_per_year, 300.0))
    style = {"color": "#d55e00", "width": 1.4}
    trace = line(x, -loss, points, line=style, fill="tozeroy", name="drawdown", hovertemplate="%{x}: %{y:.1%}")
    return Panel(
        "drawdowns",
        "Drawdowns",
        f"Loss since the highest wealth{_of_first(more)}, and beneath, the deepest ones with the calendar days until "
        "the high was reached again.",
        {"data": [trace], "layout": layout(xaxis={"type": "date"}, yaxis={"tickformat": ".2~%"}, showlegend=False)},
        320,
        table=tuple(rows),
    )


def risk_panel(own: StrategyReturns, reference: StrategyReturns | None, points: int, days_per_year: float) -> Panel:
    """Volatility of half a year of days and, where there is a benchmark, beta and correlation to it."""
    days, (returns, *more) = histories(own)
    window = round(days_per_year / 2)
    x = dates(days.astype("datetime64[s]"), 300.0)
    volatility = _rolling(returns, returns, window) ** 0.5 * np.sqrt(days_per_year)
    traces = [
        line(
            x, volatility, points, name="volatility", line={"color": INK, "width": 1.5}, hovertemplate="%{x}: %{y:.1%}"
        )
    ]
    axes: dict[str, dict[str, Any]] = {
        "yaxis": {"domain": [0.54, 1], "title": {"text": "volatility a year"}, "tickformat": ".2~%"}
    }
    if reference is not None:
        other = histories(reference)[1][0]
        shared, own_part = _rolling(returns, other, window), _rolling(other, other, window)
        with np.errstate(divide="ignore", invalid="ignore"):
            beta = shared / own_part
            correlation = shared / np.sqrt(own_part * _rolling(returns, returns, window))
        for name, values, colour in (("beta", beta, "#0072b2"), ("correlation", correlation, "#e69f00")):
            style = {"color": colour, "width": 1.5}
            label = f"{name} to {spoken(reference.name)}"
            traces.append(line(x, values, points, name=label, line=style, yaxis="y2", hovertemplate="%{x}: %{y:.2f}"))
        axes["yaxis2"] = {"domain": [0, 0.46], "title": {"text": "beta, correlation"}, "zeroline": True}
    else:
        axes["yaxis"]["domain"] = [0, 1]
    return Panel(
        "risk",
        "Risk over time",
        f"Of the half year that ends at each day{_of_first(more)}.",
        {"data": traces, "layout": layout(xaxis={"type": "date", "anchor": "y2" if reference else "y"}, **axes)},
        420,
    )


def _of_first(more: Sequence[np.ndarray]) -> str:
    return f", in the first of {len(more) + 1} histories" if more else ""


def _rolling(one: np.ndarray, other: np.ndarray, window: int) -> np.ndarray:
    """Covariance of the last `window` values, (T,); NaN before there are as many."""
    found = np.full(len(one), np.nan)
    if not 2 <= window <= len(one):
        return found
    sums = [np.concatenate(([0.0], np.cumsum(values))) for values in (one, other, one * other)]
    a, b, ab = (total[window:] - total[:-window] for total in sums)
    found[window - 1 :] = np.maximum(ab - a * b / window, -np.inf) / (window - 1)
    return found


def weights_panel(record: Record, points: int) -> Panel:
    """Weights after each bar, the mean over environments, one line an instrument in the shade of its domain."""
    x = dates(record.timestamps, record.bars_per_year)
    traces = []
    seen: dict[int, int] = {}
    for i, (symbol, domain) in enumerate(zip(record.symbols, record.domain_of)):
        shades = DOMAIN_SHADES[domain % len(DOMAIN_SHADES)]
        colour = shades[seen.get(domain, 0) % len(shades)]
        seen[domain] = seen.get(domain, 0) + 1
        held = np.nanmean(np.where(record.played, record.weights[..., i], np.nan), axis=0)
        style = {"color": colour, "width": 1.3}
        traces.append(line(x, held, points, name=symbol, line=style, hovertemplate="%{x}: %{y:.1%}"))
    return Panel(
        "positions",
        "Positions",
        "Weight of each instrument after each bar, as a fraction of equity; instruments of a domain share a hue.",
        {
            "data": traces,
            "layout": layout(
                xaxis=date_axis(record.bars_per_year),
                yaxis={"tickformat": ".2~%", "zeroline": True},
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        420,
    )


def trades_panel(record: Record, trades: pa.Table) -> Panel:
    """Notional traded by instrument, and the blotter's figures."""
    rows = trade_rows(record, trades)
    symbols, notional = np.asarray(trades["symbol"]), np.asarray(trades["notional_ccy"])
    sums = [float(notional[symbols == symbol].sum()) for symbol in record.symbols]
    trace = {
        "type": "bar",
        "x": list(record.symbols),
        "y": [round(value) for value in sums],
        "marker": {"color": "#0072b2"},
        "hovertemplate": "%{x}: %{y:,.0f}",
    }
    return Panel(
        "trades",
        "Trades",
        "Notional traded over all bars, in account currency. Beneath: trades of the blotter (trades.csv), what they "
        "cost in basis points of notional, and positions from flat to flat with how often they won.",
        {"data": [trace], "layout": layout(xaxis={"type": "category"}, showlegend=False)},
        320,
        table=tuple(rows),
    )
