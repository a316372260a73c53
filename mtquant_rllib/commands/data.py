"""`mtquant data`: import, synthesise and describe bars; list regimes and features."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.command import add_command, add_family, check_files, settings_of, write_json
from mtquant_rllib.errors import ConfigError

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings
    from mtquant_rllib.market.alignment import BarSeries


def add_data(commands: Any) -> None:
    kinds = add_family(
        commands,
        "data",
        "read, draw and look through bars",
        "mtquant data import history/ --out bars.parquet",
        word="WHAT",
        dest="kind",
    )
    read = add_command(
        kinds,
        "import",
        _import,
        "read history exports (MT4/MT5, Yahoo, generic CSV, Parquet) into one Parquet file",
        "mtquant data import EURUSD_D1.csv XAUUSD_D1.csv --out bars.parquet",
    )
    read.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files or folders, bars and macro alike")
    read.add_argument("--out", type=Path, metavar="FILE", help="write bars here, macro series beside them as *_macro")
    read.add_argument("--repair", action="store_true", help="sort, drop duplicates and bad rows, and say how many")
    read.add_argument("--dry-run", action="store_true", help="read and show everything, write nothing")
    read.add_argument("--skip-refused", action="store_true", help="take the files that can be read, name the others")
    of_files = read.add_argument_group(
        "options of all files named", "(of some in a folder: --set 'market.files={\"*_H1.csv\": {timezone: UTC+2}}')"
    )
    of_files.add_argument("--symbol", help="the instrument, where the file does not name it")
    of_files.add_argument("--timezone", help="of the timestamps, where the file does not say: UTC, New York+7, UTC+2")
    of_files.add_argument("--scale", type=int, metavar="N", help="divisor of prices that a file stores as integers")
    of_files.add_argument("--date-format", help="of the timestamps, where it is ambiguous, such as %%d/%%m/%%Y")
    of_files.add_argument("--decimal", metavar="MARK", help="decimal mark, where the file does not tell: . or ,")
    of_files.add_argument("--thousands", metavar="MARK", help="mark between thousands: . , ' _ a blank, or none")
    of_files.add_argument(
        "--multiplier",
        action="append",
        default=[],
        dest="multipliers",
        metavar="LETTER=N",
        help="what a letter behind a volume stands for, such as M=1000000; repeatable",
    )
    read.add_argument("--reference", type=Path, metavar="FILE", help="bars whose clock is known, to find the lag by")
    read.add_argument("--json", type=Path, metavar="FILE", help="write the import report here")

    drawn = add_command(
        kinds,
        "synth",
        _synth,
        "draw synthetic histories of all instruments",
        "mtquant data synth --years 20 --variant planted --seed 7 --out synthetic/",
    )
    drawn.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a Parquet file of bars a path, and macro"
    )
    drawn.add_argument("--paths", type=int, default=1, help="independent histories (default: %(default)s)")
    drawn.add_argument("--years", type=float, default=20.0, help="length of each (default: %(default)s)")
    drawn.add_argument("--seed", type=int, help="of the draw (default: the setting `seed`)")
    drawn.add_argument("--variant", choices=("default", "planted", "null"), default="default", help="what is in it")

    look = add_command(
        kinds,
        "describe",
        _describe,
        "look through bars and point out what is suspect",
        "mtquant data describe bars.parquet --macro macro.parquet",
    )
    look.add_argument("market", type=Path, nargs="?", metavar="FILE", help="bars (default: the embedded market)")
    look.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    look.add_argument("--json", type=Path, metavar="FILE", help="write the findings here")

    labelled = add_command(
        kinds,
        "regimes",
        _regimes,
        "label the regimes of bars, and say their shares, durations and transitions",
        "mtquant data regimes bars.parquet --period 2020-03 --period 2017",
    )
    labelled.add_argument("market", type=Path, metavar="FILE", help="bars")
    labelled.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    labelled.add_argument(
        "--period", action="append", default=[], dest="periods", metavar="YEAR[-MONTH]", help="on its own; repeatable"
    )
    labelled.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")

    add_command(
        kinds,
        "features",
        _features,
        "list every market feature that the agents see, with its formula",
        "mtquant data features",
    )


def _import(args: argparse.Namespace) -> None:
    from mtquant_rllib.config.loader import validate
    from mtquant_rllib.config.sections.market import FileOptions
    from mtquant_rllib.market.importing import importers
    from mtquant_rllib.market.importing.preview import preview

    settings = settings_of(args)
    given = {key: getattr(args, key) for key in ("symbol", "timezone", "scale", "date_format", "decimal", "thousands")}
    given["multipliers"] = _multipliers(args.multipliers)
    named = {key: value for key, value in given.items() if value is not None}
    options = validate(FileOptions, named, "mtquant data import") if named else None
    found = importers.import_paths(
        args.files, settings, options=options, repair=args.repair, skip_refused=args.skip_refused
    )
    lines = found.report.lines()
    if args.reference is not None:
        lines += _agreements(found.series, args.reference, settings)
    shown = preview(found.series, found.macro, found.report, settings)
    print("\n".join([*lines, *shown]))
    if args.dry_run:
        print("nothing was written (--dry-run)")
        return
    report = {**found.report.to_dict(), "preview": shown}
    if args.out is not None:
        if found.series:
            print(f"bars: {importers.write_bars(found.series, args.out)}")
        if found.macro is not None:
            beside = args.out if not found.series else args.out.with_name(f"{args.out.stem}_macro{args.out.suffix}")
            print(f"macro: {importers.write_macro(found.macro, beside)}")
        beside = args.out.with_name(f"{args.out.stem}_report.json")
        write_json(beside, report)
        print(f"report: {beside}")
    if args.json is not None:
        write_json(args.json, report)


def _multipliers(named: list[str]) -> dict[str, Any] | None:
    """Letter -> number of `LETTER=N`; None where none is named."""
    pairs = [one.partition("=") for one in named]
    return {letter: number for letter, _, number in pairs} or None


def _agreements(series: Sequence[BarSeries], reference: Path, settings: Settings) -> list[str]:
    """A line for each instrument that the reference has intraday bars of too."""
    from mtquant_rllib.market.checking.clock_pattern import agreement_line
    from mtquant_rllib.market.importing.importers import import_paths

    known = {one.symbol: one for one in import_paths(reference, settings).series if not one.daily}
    mine = [one for one in series if not one.daily and one.symbol in known]
    if not mine:
        return [f"{reference} has intraday bars of no instrument that was read"]
    return [agreement_line(one, known[one.symbol], settings.market.clock_pattern) for one in mine]


def _synth(args: argparse.Namespace) -> None:
    from mtquant_rllib.market.importing import importers
    from mtquant_rllib.market.importing.macro import MacroSeries
    from mtquant_rllib.market.synthetic import synthesise

    settings = settings_of(args)
    if args.paths < 1 or args.years <= 0:
        raise ConfigError(f"--paths {args.paths} --years {args.years:g}: expected one path or more, and some years")
    seed = settings.seed if args.seed is None else args.seed
    drawn = synthesise(settings, n_paths=args.paths, n_years=args.years, seed=seed, variant=args.variant)
    for number, market in enumerate(drawn.markets):
        bars = importers.write_market(market, args.out / f"path_{number:03d}.parquet")
        # What is known at a row was published the business day before.
        known = MacroSeries(
            dates=market.timestamps[:-1].astype("datetime64[D]"), columns=market.macro_columns, values=market.macro[1:]
        )
        macro = importers.write_macro(known, args.out / f"path_{number:03d}_macro.parquet")
        print(f"{bars} and {macro.name}: {len(market):,} rows, {args.variant}, seed {seed}, path {number}")


def _describe(args: argparse.Namespace) -> None:
    import rich

    from mtquant_rllib.market.checking.quality import describe

    settings = settings_of(args)
    if args.market is None:
        from mtquant_rllib.market.synthetic import synthesise

        size = settings.embedded.of("train")
        drawn = synthesise(
            settings, n_paths=1, n_years=size.years, seed=settings.embedded.seed, variant=settings.embedded.bars
        )
        market = drawn.markets[0]
    else:
        from mtquant_rllib.market.importing.importers import load_market

        market, imported = load_market(settings, args.market, args.macro)
        for line in imported.lines():
            print(line)
    findings = describe(market, settings)
    rich.print(findings.render())
    if args.json is not None:
        write_json(args.json, findings.to_dict())


def _regimes(args: argparse.Namespace) -> None:
    settings = settings_of(args)
    check_files(args.market, args.macro)
    from mtquant_rllib.evaluation.regimes.market import market_regimes
    from mtquant_rllib.market.importing.importers import load_market

    market, _ = load_market(settings, args.market, args.macro)
    found = market_regimes(settings, market)
    # Whole before any is shown: a period without bars is refused alone.
    print("\n".join(found.lines(args.periods)))
    if args.json is not None:
        write_json(args.json, found.to_dict(args.periods))


def _features(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from mtquant_rllib.features.listing import list_features

    table = Table("group", "feature", "formula", box=None)
    for line in list_features(settings_of(args)):
        table.add_row(*line)
    Console().print(table)
