"""Output of a report: a table on the screen, JSON and CSV on disk."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from mtquant_rllib import strict_json
from mtquant_rllib.evaluation.report.book_styles import is_held
from mtquant_rllib.evaluation.report.building import BookReport, EvaluationReport, PartReport, Summary
from mtquant_rllib.evaluation.report.terminal_tables import print_cells

REPORT = "evaluation.json"


def report_tree(report: EvaluationReport) -> dict[str, Any]:
    """The report as JSON values; NaN and infinity become null."""
    tree: dict[str, Any] = strict_json.json_values(asdict(report))
    return tree


def write_json(report: EvaluationReport, path: Path) -> Path:
    return _write_whole(path, strict_json.dumps(report_tree(report), indent=2) + "\n")


def write_report(report: EvaluationReport, folder: Path) -> dict[str, Path]:
    """`evaluation.json` (everything), `books.csv` (per book and scope), `parts.csv` (per domain and instrument)."""
    book_rows = [
        {"book": book.name, "bars": scope, **_flat(summary)}
        for book in report.books
        for scope, summary in (("all", book.all_bars), ("without_excluded", book.without_excluded))
    ]
    part_rows = [{"kind": part.kind, "name": part.name, **_flat(part.summary)} for part in report.parts]
    return {
        "json": write_json(report, folder / REPORT),
        "books": _write_csv(folder / "books.csv", book_rows),
        "parts": _write_csv(folder / "parts.csv", part_rows),
    }


def print_report(report: EvaluationReport, console: Console) -> None:
    """The comparison, the subject's parts, its VaR backtest, and what it was measured on."""
    context = report.context
    console.print(
        f"[bold]{report.subject.name}[/bold]  {context['first_date']} .. {context['last_date']}, "
        f"{context['n_bars']} bars x {context['n_envs']} environment(s), "
        + ", ".join(f"{key} {value}" for key, value in context["facts"].items() if _is_short(value)),
        highlight=False,
    )
    _print_books(report, console)
    _print_parts(report, console)
    if report.verdict is not None:
        console.print(f"Verdict: {report.verdict.words}.", highlight=False)
    tests = report.var_tests
    if tests is not None:
        p_values = ", ".join(f"{test.name} {_num(test.adjusted)}" for test in tests.tests)
        console.print(
            f"VaR forecast: {tests.n_breaches} of {tests.n_days} trading days beyond it ({_pct(tests.breach_rate)} "
            f"against {_pct(tests.expected_rate)}); simulated p-values, adjusted for all: {p_values}",
            highlight=False,
        )
    prefix = "breaker_trips_"
    trips = {key[len(prefix) :]: n for key, n in report.subject.all_bars.values.items() if key.startswith(prefix)}
    levels = ", ".join(f"level {level} {count:,.0f}" for level, count in trips.items())
    console.print(f"Breakers tripped: {levels}", highlight=False)
    if report.subject.edits_by_rule:
        edits = ", ".join(f"{rule} {count:,}" for rule, count in report.subject.edits_by_rule.items())
        console.print(f"Risk edits: {edits}", highlight=False)
    console.print(f"Costs, bps of notional (spread/commission/slippage): {context['costs_line']}", highlight=False)
    for note in report.notes:
        console.print(f"- {note}", highlight=False)


def _print_books(report: EvaluationReport, console: Console) -> None:
    head = (
        "book",
        "Sharpe",
        "Sharpe*",
        "return",
        "vol",
        "max DD",
        "Sortino",
        "turn/y",
        "cost/y",
        "win",
        "gross",
        "edits",
    )
    names = [book.name for book in report.books]
    ends = [
        place
        for place, name in enumerate(names)
        if place == 0 or (not is_held(name) and place + 1 < len(names) and is_held(names[place + 1]))
    ]
    print_cells([head, *(_book_row(book) for book in report.books)], console, bold=[0], ends=ends)


def _book_row(book: BookReport) -> tuple[str, ...]:
    values = book.all_bars.values
    return (
        book.name,
        _sharpe_with_error(book.all_bars),
        _num(book.without_excluded.values["sharpe_ann"]),
        _pct(values["annual_return"]),
        _pct(values["volatility_ann"]),
        _pct(values["max_drawdown_frac"]),
        _num(values["sortino_ann"]),
        _num(values["turnover_ann"], 1),
        _pct(values["cost_frac_ann"]),
        _pct(values["win_rate"], 0),
        _num(values["exposure_gross"]),
        f"{values['risk_edits']:,.0f}",
    )


def _print_parts(report: EvaluationReport, console: Console) -> None:
    head = ("part", "net P&L", "Sharpe", "vol", "win", "profit f.", "turn/y", "costs", "financing", "gross", "edits")
    kinds = [part.kind for part in report.parts]
    ends = [place for place in range(len(kinds) - 1) if kinds[place + 1] != kinds[place]]
    title = f"{report.subject.name}, by domain and instrument"
    print_cells([head, *(_part_row(part) for part in report.parts)], console, title=title, ends=ends)


def _part_row(part: PartReport) -> tuple[str, ...]:
    values = part.summary.values
    return (
        part.name,
        f"{values['net_pnl_ccy']:,.0f}",
        _sharpe_with_error(part.summary),
        _pct(values["volatility_ann"]),
        _pct(values["win_rate"], 0),
        _num(values["profit_factor"]),
        _num(values["turnover_ann"], 1),
        f"{values['cost_ccy']:,.0f}",
        f"{values['financing_ccy']:,.0f}",
        _num(values["exposure_gross"]),
        f"{values['risk_edits']:,.0f}",
    )


def _sharpe_with_error(summary: Summary) -> str:
    value = summary.values["sharpe_ann"]
    return _num(value) if math.isnan(value) else f"{_num(value)} ±{_num(summary.standard_errors['sharpe_ann'])}"


def _num(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _pct(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}%}"


def _is_short(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and len(str(value)) <= 60


def _flat(summary: Summary) -> dict[str, float]:
    return {**summary.values, **{f"{name}_se": error for name, error in summary.standard_errors.items()}}


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
    return path


def _write_whole(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return path
