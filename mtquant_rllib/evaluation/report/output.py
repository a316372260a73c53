"""Output of a report: a table on the screen, JSON and CSV on disk."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mtquant_rllib import strict_json
from mtquant_rllib.evaluation.backtest.baselines import HOLD_PREFIX
from mtquant_rllib.evaluation.report.building import EvaluationReport, Summary

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
    print_whole(_books_table(report), console)
    print_whole(_parts_table(report), console)
    if report.verdict is not None:
        console.print(f"Verdict: {report.verdict.words}.", highlight=False)
    backtest = report.subject.var_backtest
    console.print(
        f"VaR forecast: {backtest.n_breaches} of {backtest.n_bars} trading days beyond it "
        f"({_pct(backtest.breach_rate)} against {_pct(backtest.expected_rate)}); p-values: "
        f"Kupiec {_num(backtest.coverage.p_value)}, Christoffersen {_num(backtest.independence.p_value)}, "
        f"both {_num(backtest.conditional_coverage.p_value)}",
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


def _books_table(report: EvaluationReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("book", no_wrap=True)
    for heading in (
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
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for position, book in enumerate(report.books):
        values = book.all_bars.values
        following = report.books[position + 1].name if position + 1 < len(report.books) else ""
        ends = position == 0 or (following.startswith(HOLD_PREFIX) and not book.name.startswith(HOLD_PREFIX))
        table.add_row(
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
            style="bold" if position == 0 else None,
            end_section=ends,
        )
    return table


def _parts_table(report: EvaluationReport) -> Table:
    table = Table(
        title=f"{report.subject.name}, by domain and instrument",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("part", no_wrap=True)
    for heading in ("net P&L", "Sharpe", "vol", "win", "profit f.", "turn/y", "costs", "financing", "gross", "edits"):
        table.add_column(heading, justify="right", no_wrap=True)
    kinds = [part.kind for part in report.parts]
    for position, part in enumerate(report.parts):
        values = part.summary.values
        table.add_row(
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
            end_section=position + 1 < len(kinds) and kinds[position + 1] != part.kind,
        )
    return table


def print_whole(table: Table, console: Console) -> None:
    """At its natural width: a narrow terminal wraps the lines, which is better than figures cut short."""
    table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.print(table, crop=False)


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
