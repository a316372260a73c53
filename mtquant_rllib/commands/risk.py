"""`mtquant risk`: a book of one's own against the desk's rules and under stress, the risk report of a run, and the
backtest of VaR forecasts."""

from __future__ import annotations

import argparse
import datetime as dt
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.command import DEFAULT_CONFIG, add_command, add_family, check_files, settings_of, write_json
from mtquant_rllib.errors import ConfigError, MtquantError

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings
    from mtquant_rllib.evaluation.book_risk.book_file import BookFile
    from mtquant_rllib.evaluation.book_risk.check import BookCheck
    from mtquant_rllib.evaluation.book_risk.market_risk import MarketRisk
    from mtquant_rllib.evaluation.book_risk.stress_test import StressTest


class BookBreaksRules(MtquantError):
    """A book that does not pass."""

    exit_code = 1


def add_risk(commands: Any) -> None:
    family = add_family(
        commands,
        "risk",
        "check and stress a book of your own by the desk's risk rules; report a run's risk; backtest VaR forecasts",
        "mtquant risk check book.csv --market bars.parquet --macro macro.parquet",
        word="WHAT",
        dest="what",
    )
    for name, run, help in (
        (
            "check",
            _check,
            "measure a book, and say what the rules would make of it; exit code 1 where it does not pass",
        ),
        ("stress", _stress, "say what a book loses in windows of history, under shocks, and what would stop the desk"),
    ):
        parser = add_command(
            family, name, run, help, f"mtquant risk {name} book.csv --market bars.parquet --at 2020-02-19"
        )
        parser.add_argument(
            "book", type=Path, metavar="BOOK.csv", help="columns symbol, and weight or notional_ccy; current if any"
        )
        parser.add_argument("--market", type=Path, required=True, metavar="FILE", help="bars, file or folder")
        parser.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
        parser.add_argument("--at", metavar="DATE", help="the last day that is known (default: the last of the bars)")
        parser.add_argument(
            "--equity", type=float, metavar="CCY", help="account currency (default: the desk's at the start)"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="write it here as well")

    report = add_command(
        family,
        "report",
        _report,
        "say how near its limits a run's book lived, what the rules changed, and whether its VaR forecast was true",
        "mtquant risk report runs/real --evaluation test",
    )
    report.add_argument("run_folder", metavar="RUN", help="the run's folder, or its name under runs/")
    report.add_argument(
        "--evaluation", default="test", metavar="NAME", help="folder of the evaluation (default: %(default)s)"
    )
    report.add_argument("--book", metavar="NAME", help="another book of the evaluation, such as reference")

    backtest = add_command(
        family,
        "backtest",
        _backtest,
        "test VaR and shortfall forecasts of an equal-weight and a momentum book, by every method and covariance",
        "mtquant risk backtest --market bars.parquet --confidence 0.95,0.99",
    )
    backtest.add_argument("--market", type=Path, required=True, metavar="FILE", help="bars, file or folder")
    backtest.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    backtest.add_argument("--methods", metavar="A,B", help="of risk.var_method (default: all)")
    backtest.add_argument(
        "--covariances", metavar="A,B", help="of features.moments.covariance (default: all that can be computed here)"
    )
    backtest.add_argument("--confidence", default="0.95,0.99", metavar="P,Q", help="default: %(default)s")
    backtest.add_argument(
        "--simulations", type=int, metavar="N", help="records behind each p-value (default: by the number of days)"
    )
    backtest.add_argument("--json", type=Path, metavar="FILE", help="write it here as well")


def _backtest(args: argparse.Namespace) -> None:
    settings = settings_of(args)
    check_files(args.market, args.macro)
    if args.simulations is not None and args.simulations < 99:
        raise ConfigError(f"--simulations {args.simulations}: expected 99 or more, or no p-value is small")
    from rich.console import Console

    from mtquant_rllib.evaluation.book_risk import forecast_backtest as backtest
    from mtquant_rllib.evaluation.book_risk.backtest_lines import passing_lines, print_backtest
    from mtquant_rllib.evaluation.book_risk.market_risk import daily_returns
    from mtquant_rllib.market.importing.importers import load_market

    market, _ = load_market(settings, args.market, args.macro)
    days, returns = daily_returns(market)
    found = backtest.backtest_forecasts(
        settings,
        days,
        returns,
        methods=backtest.METHODS if args.methods is None else args.methods.split(","),
        covariances=backtest.computable() if args.covariances is None else args.covariances.split(","),
        confidences=_confidences(args.confidence),
        simulations=args.simulations,
        progress=lambda line: print(line, file=sys.stderr),
    )
    significance = settings.evaluation.var_test_significance
    print_backtest(found, days, significance, Console())
    for line in passing_lines(found, significance):
        print(line)
    if args.json is not None:
        write_json(
            args.json, {"first": str(days[0]), "last": str(days[-1]), "forecasts": [asdict(one) for one in found]}
        )


def _confidences(given: str) -> list[float]:
    try:
        values = [float(one) for one in given.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(0.5 < value < 1 for value in values):
        raise ConfigError(f"--confidence {given}: expected numbers between 0.5 and 1, such as 0.95,0.99")
    return values


def _report(args: argparse.Namespace) -> None:
    if args.config != DEFAULT_CONFIG or args.overrides:
        raise ConfigError("--config, --set: a run is held to the limits of its own settings")
    from rich.console import Console

    from mtquant_rllib.evaluation.risk_report.page import print_risk_report
    from mtquant_rllib.training.inspection.run_risk import report_risk
    from mtquant_rllib.training.records.run_names import existing_run
    from mtquant_rllib.training.storage.mirror import pushing_changes

    run = existing_run(args.run_folder)
    with pushing_changes(run):
        found = report_risk(run, evaluation=args.evaluation, book=args.book)
    print_risk_report(found.report, Console())
    print(f"page: {found.page}\nfigures: {found.figures}")


def _inputs(args: argparse.Namespace) -> tuple[Settings, MarketRisk, BookFile, float]:
    settings = settings_of(args)
    check_files(args.book, args.market, args.macro)
    equity = settings.desk.account.start_equity_ccy if args.equity is None else args.equity
    if not 0 < equity < math.inf:
        raise ConfigError(f"--equity {equity:g}: expected an amount above 0")
    try:
        at = None if args.at is None else dt.date.fromisoformat(args.at)
    except ValueError:
        raise ConfigError(f"--at {args.at}: expected a day such as 2020-02-19") from None
    from mtquant_rllib.evaluation.book_risk.book_file import read_book
    from mtquant_rllib.evaluation.book_risk.market_risk import load_market_risk

    book = read_book(args.book, settings, equity)
    return settings, load_market_risk(settings, args.market, args.macro, at), book, equity


def _check(args: argparse.Namespace) -> None:
    settings, market, book, equity = _inputs(args)
    from mtquant_rllib.evaluation.book_risk.check import check_book

    found = check_book(settings, market, book, equity)
    _print_check(found)
    if args.json is not None:
        write_json(args.json, asdict(found))
    if not found.passes:
        raise BookBreaksRules(f"{args.book}: {len(found.reasons)} reasons not to pass: {'; '.join(found.reasons)}")
    print(f"{args.book}: passes all rules")


def _print_check(found: BookCheck) -> None:
    from rich.console import Console

    from mtquant_rllib.evaluation.report.terminal_tables import print_cells

    console = Console()
    rows = [
        (name, f"{value:.4f}", f"{found.limits[name]:.4f}", "over" if value > found.limits[name] * (1 + 1e-9) else "")
        for name, value in found.measures.items()
    ]
    title = f"fractions of equity at the close of {found.timestamp[:10]}"
    print_cells([("measure", "book", "limit", ""), *rows], console, title=title, words=(0, 3))
    print(f"the rule's VaR is {found.var_method}; with it goes an expected shortfall of {found.shortfall:.4f}")
    rules = {edit.instrument: edit.rule for edit in found.edits}
    head = ("position", "weight", "allowed", "rule", "share of VaR", "marginal VaR")
    numbers = ((one, (one.weight, one.executed), (one.component, one.marginal)) for one in found.positions)
    cells = [
        (one.symbol, *(f"{x:+.4f}" for x in weights), rules.get(one.symbol, ""), *(f"{x:+.5f}" for x in parts))
        for one, weights, parts in numbers
    ]
    print_cells([head, *cells], console, words=(0, 3))
    tails: list[tuple[str, ...]] = [
        (f"one day, {found.confidence:.0%}", "VaR", "shortfall", "VaR between", "shortfall between")
    ]
    for tail in found.tails:
        between = (_interval(ends) for ends in (tail.var_interval, tail.shortfall_interval))
        tails.append((tail.method, f"{tail.var:.4f}", f"{tail.shortfall:.4f}", *between))
    print_cells(tails, console)


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.4f}, {ends[1]:.4f}"


def _stress(args: argparse.Namespace) -> None:
    settings, market, book, _ = _inputs(args)
    from mtquant_rllib.evaluation.book_risk.stress_test import stress_book

    found = stress_book(settings, market, book.row(settings.universe.symbols))
    _print_stress(found, settings)
    if args.json is not None:
        write_json(
            args.json,
            {**asdict(found), "reverse": {**asdict(found.reverse), "returns": found.reverse.returns.tolist()}},
        )


def _print_stress(found: StressTest, settings: Settings) -> None:
    from rich.console import Console

    from mtquant_rllib.evaluation.report.terminal_tables import print_cells

    console = Console()
    rows = []
    for one in found.scenarios:
        worst = f"{one.worst_day_loss:.1%} on {one.worst_day}" if one.worst_day else ""
        hurt = sorted(one.by_instrument.items(), key=lambda item: -item[1])[:2]
        most = ", ".join(f"{symbol} {lost:.1%}" for symbol, lost in hurt if lost > 0)
        rows.append((one.name, f"{one.loss:.1%}", worst, f"level {one.breaker}" if one.breaker else "", most))
    head = ("scenario", "loss", "worst day", "breaker", "lost most by")
    print_cells([head, *rows], console, title=f"the book of {found.timestamp[:10]}", words=(0, 2, 3, 4))
    for name in found.missing:
        print(f"{name}: the bars do not have these days")
    print(
        f"all correlations one against the book: one-day VaR {found.correlated_var:.2%} "
        f"({found.parametric_var:.2%} as they are)"
    )
    reverse = found.reverse
    if math.isinf(reverse.deviations):
        print("the book has no risk: no shock stops the desk")
        return
    moves = ", ".join(
        f"{symbol} {move:+.1%}" for symbol, move in zip(settings.universe.symbols, reverse.returns) if abs(move) >= 5e-4
    )
    print(
        f"what loses {reverse.loss:.0%}, which halts the desk, most likely: {moves}; {reverse.deviations:.1f} "
        "deviations of the book's day"
    )
