"""The risk report as one page, and as lines for a terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation.compare.colours import run_colours
from mtquant_rllib.evaluation.report.terminal_tables import print_cells
from mtquant_rllib.evaluation.risk_report.figures import NEAR, RiskReport, uses
from mtquant_rllib.evaluation.risk_report.history import RiskHistory
from mtquant_rllib.evaluation.statistics.var_tests import VarTest, VarTests
from mtquant_rllib.evaluation.web_page.page import Page, PageSection
from mtquant_rllib.evaluation.web_page.panel import INK, Panel, layout, line, number, percent, short

_LOSS, _HIT = "#0072b2", "#d55e00"


def limit_cells(report: RiskReport) -> list[tuple[str, ...]]:
    """Header and rows: use of each limit."""
    head = ("limit", "at", "mean use", "largest", f"bars over {NEAR:.0%}", "beyond")
    rows = (
        (one.name, f"{one.limit:.4g}", percent(one.mean), percent(one.largest), percent(one.near), percent(one.over))
        for one in report.limits
    )
    return [head, *rows]


def edit_cells(report: RiskReport) -> list[tuple[str, ...]]:
    """Header and rows: what each rule changed."""
    head = ("rule", "edits", "bars", "share of bars", "mean reduction")
    rows = (
        (one.rule, f"{one.edits:,}", f"{one.bars:,}", percent(one.bars / report.n_bars), f"{one.reduced:.4f}")
        for one in report.edits
    )
    return [head, *rows]


def forecast_cells(report: RiskReport) -> list[tuple[str, ...]]:
    """Header and rows: tests of the forecast, raw and calibrated beside each other."""
    head = ("test of the forecast", "raw: statistic", "p", "adjusted", "", "calibrated: statistic", "p", "adjusted", "")
    if report.raw_tests is None or report.calibrated_tests is None:
        return [head]
    pairs = zip(report.raw_tests.tests, report.calibrated_tests.tests, strict=True)
    rows = ((raw.name, *_test(raw, report), *_test(scaled, report)) for raw, scaled in pairs)
    return [head, *rows]


def _test(one: VarTest, report: RiskReport) -> tuple[str, ...]:
    said = "rejected" if one.adjusted <= report.significance else ""
    return number(one.statistic), f"{one.p_value:.4f}", f"{one.adjusted:.4f}", said


def day_cells(report: RiskReport) -> list[tuple[str, ...]]:
    """Header and rows: the worst days."""
    head = ("worst day", "net return", "VaR forecast", "risk edits")
    rows = (
        (one.day, percent(one.net_return, 2), percent(one.forecast, 2),
         ", ".join(f"{rule} {count}" for rule, count in one.edits.items()) or "none")
        for one in report.worst
    )  # fmt: skip
    return [head, *rows]


def forecast_words(report: RiskReport) -> str:
    """Whether the forecast was true, in a sentence."""
    tests = report.tests
    other = report.raw_tests if report.calibrated else report.calibrated_tests
    if tests is None or other is None:
        return "There is no VaR forecast to judge: the book was flat."
    in_force, beside = ("calibrated", "The raw one") if report.calibrated else ("raw", "Calibrated, it")
    return (
        f"{tests.n_breaches} of {tests.n_days:,} days lost more than the {report.confidence:.0%} VaR forecast "
        f"({percent(tests.breach_rate)} against {percent(tests.expected_rate)}): {_verdict(tests, report)}, zone "
        f"{tests.light}. Beyond it a day lost {number(tests.shortfall_ratio)} times what a normal book would. In force "
        f"was the {in_force} forecast (risk.var_calibration.enabled). {beside} was exceeded on "
        f"{percent(other.breach_rate)} of days: {_verdict(other, report)}, zone {other.light}."
    )


def _verdict(tests: VarTests, report: RiskReport) -> str:
    found = tests.rejected(report.significance)
    return f"rejected by {', '.join(found)}" if found else "not rejected by any test"


def print_risk_report(report: RiskReport, console: Console) -> None:
    print_cells(limit_cells(report), console, title=f"{report.book}, {report.n_bars:,} bars: use of limits")
    if report.edits:
        print_cells(edit_cells(report), console)
    console.print(forecast_words(report), highlight=False)
    print_cells(forecast_cells(report), console, words=(0, 4, 8))
    trips = ", ".join(f"level {level} {count}" for level, count in enumerate(report.breaker_trips, start=1))
    console.print(f"breakers tripped: {trips}", highlight=False)
    print_cells(day_cells(report), console, words=(0, 3))


def build_page(report: RiskReport, history: RiskHistory, settings: Settings, title: str, points: int) -> Page:
    """The page; lines are of the first environment where there are several."""
    return Page(
        title=title,
        facts=forecast_words(report),
        tiles=(
            ("bars", f"{report.n_bars:,}"),
            ("risk edits", f"{sum(one.edits for one in report.edits):,}"),
            ("days beyond VaR", "–" if report.tests is None else percent(report.tests.breach_rate)),
            ("breakers tripped", str(sum(report.breaker_trips))),
        ),
        sections=[
            PageSection("limits", "Limits", (_limits_panel(history, settings, points), _edits_panel(report, history))),
            PageSection("forecast", "Value at risk", (_forecast_panel(report, history),)),
        ],
        footer="Limits are those of the run's settings. A test rejects where its p-value, simulated and adjusted for "
        f"all (Holm), is at most {report.significance:g}.",
        choices={},
        table=limit_cells(report),
    )


def _first(history: RiskHistory) -> np.ndarray:
    return history.environment == 0


def _limits_panel(history: RiskHistory, settings: Settings, points: int) -> Panel:
    first = _first(history)
    x = np.datetime_as_string(history.timestamp[first], unit="m").tolist()
    found = uses(history, settings)
    colours = run_colours(list(found))
    traces = [
        line(
            x,
            use[first],
            points,
            name=name,
            line={"color": colours[name], "width": 1.3},
            hovertemplate="%{x}: %{y:.0%}",
        )
        for name, (_, use) in found.items()
    ]
    return Panel(
        "limit_use",
        "Use of limits",
        "Each measure after the bar over its limit. Prices can carry a book beyond a limit between decision and close; "
        "the next decision brings it back.",
        {
            "data": traces,
            "layout": layout(
                xaxis={"type": "date"},
                yaxis={"tickformat": ".2~%", "rangemode": "tozero"},
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        440,
    )


def _edits_panel(report: RiskReport, history: RiskHistory) -> Panel:
    months, at = np.unique(history.day.astype("datetime64[M]"), return_inverse=True)
    colours, traces = run_colours([one.rule for one in report.edits]), []
    for one in report.edits:
        counts = np.bincount(at, (history.rule == one.rule).sum(axis=1), len(months))
        traces.append(
            {
                "type": "bar",
                "x": [str(month) for month in months],
                "y": short(counts),
                "name": one.rule,
                "marker": {"color": colours[one.rule]},
            }
        )
    return Panel(
        "edits",
        "What the rules changed",
        "Edits a month by the rule that bound, over all instruments.",
        {"data": traces, "layout": layout(barmode="stack", xaxis={"type": "date"}, yaxis={"title": {"text": "edits"}})},
        380,
        notes=() if report.edits else ("The rules changed nothing.",),
        table=tuple(edit_cells(report)),
    )


def _forecast_panel(report: RiskReport, history: RiskHistory) -> Panel:
    days, returns, forecast = history.days()
    x, own, limit = [str(day) for day in days], returns[0], forecast[0]
    hit = np.isfinite(own) & (limit > 0) & (-own > limit)
    dots: dict[str, Any] = {"type": "scatter", "mode": "markers", "hovertemplate": "%{x}: %{y:.2%}"}
    traces = [
        {**dots, "x": x, "y": short(own), "name": "net return of a day", "marker": {"size": 4, "color": _LOSS}},
        {
            **dots,
            "x": [day for day, beyond in zip(x, hit) if beyond],
            "y": short(own[hit]),
            "name": "beyond the forecast",
            "marker": {"size": 8, "color": _HIT, "symbol": "x"},
        },
        line(x, -limit, len(x), name="less the VaR forecast", line={"color": INK, "width": 1.2}),
    ]
    return Panel(
        "var",
        "Losses and the forecast",
        "Net return of each day, and what was forecast the evening before to be exceeded on one day in twenty at 95%. "
        "A true forecast is exceeded as often as it says, and its breaches do not come together.",
        {"data": traces, "layout": layout(xaxis={"type": "date"}, yaxis={"tickformat": ".2~%"})},
        440,
        notes=tuple(" ".join(filter(None, row)) for row in forecast_cells(report)[1:]),
        table=tuple(day_cells(report)),
    )
