"""`mtquant`: the command line. Heavy imports wait until a command needs them, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mtquant_rllib import __version__
from mtquant_rllib.commands.bench import add_benches
from mtquant_rllib.commands.command import (
    DEFAULT_CONFIG,
    add_command,
    add_family,
    check_files,
    reproducible,
    settings_of,
    write_json,
)
from mtquant_rllib.commands.regimes import add_regimes
from mtquant_rllib.errors import ConfigError, MtquantError

EXIT_REFUSED = 2


class _Parser(argparse.ArgumentParser):
    """argparse that names the nearest right word when one is wrong."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}{self._nearest(message)}\n{self.format_usage().strip()}")

    def _nearest(self, message: str) -> str:
        wrong = re.search(r"invalid choice: '?([^'\s]+)|unrecognized arguments: (\S+)", message)
        if wrong is None:
            return ""
        word = (wrong[1] or wrong[2]).split("=")[0]
        commands, options = _words(self)
        near = difflib.get_close_matches(word, sorted(options if word.startswith("-") else commands), n=1, cutoff=0.5)
        return f"; did you mean {near[0]}?" if near else ""


def _words(parser: argparse.ArgumentParser) -> tuple[set[str], set[str]]:
    """Commands and options of a parser and of those below it."""
    commands: set[str] = set()
    options: set[str] = set()
    for action in parser._actions:
        options.update(action.option_strings)
        if isinstance(action.choices, dict):
            for name, below in action.choices.items():
                more = _words(below)
                commands |= {name, *more[0]}
                options |= more[1]
    return commands, options


class _UsageError(MtquantError):
    """A command line that cannot be read."""


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mtquant",
        description="Twelve RLlib policies trade eight instruments as one desk, with risk having the last word.",
        epilog="example:\n  mtquant train --run runs/first --budget-scale 0.02 && mtquant evaluate runs/first",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

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
        _data_import,
        "read history exports (MT4/MT5, Yahoo, generic CSV, Parquet) into one Parquet file",
        "mtquant data import EURUSD_D1.csv XAUUSD_D1.csv --out bars.parquet",
    )
    read.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files or folders, bars and macro alike")
    read.add_argument("--out", type=Path, metavar="FILE", help="write bars here, macro series beside them as *_macro")
    read.add_argument("--repair", action="store_true", help="sort, drop duplicates and bad rows, and say how many")
    read.add_argument("--symbol", help="the instrument, where the file does not name it")
    read.add_argument("--timezone", help="of the stamps, where the file does not say: UTC, New York+7, UTC+2")
    read.add_argument("--scale", type=int, metavar="N", help="divisor of prices that a file stores as integers")
    read.add_argument("--date-format", help="of the stamps, where it is ambiguous, such as %%d/%%m/%%Y")
    read.add_argument("--json", type=Path, metavar="FILE", help="write the import report here")

    drawn = add_command(
        kinds,
        "synth",
        _data_synth,
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
        _data_describe,
        "look through bars and point out what is suspect",
        "mtquant data describe bars.parquet --macro macro.parquet",
    )
    look.add_argument("market", type=Path, nargs="?", metavar="FILE", help="bars (default: the embedded market)")
    look.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    look.add_argument("--json", type=Path, metavar="FILE", help="write the findings here")
    add_regimes(kinds)

    train = add_command(
        commands,
        "train",
        _train,
        "train the desk through its three phases",
        "mtquant train --market bars.parquet --macro macro.parquet --budget-scale 0.02 --run runs/real",
    )
    train.add_argument(
        "--phase", type=int, choices=(1, 2, 3), help="this phase alone; 2 and 3 need a run with the one before"
    )
    train.add_argument(
        "--market", type=Path, metavar="FILE", help="bars, file or folder (default: the embedded market)"
    )
    train.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    train.add_argument(
        "--budget-scale", type=float, default=1.0, metavar="X", help="factor on the budgets (default: 1)"
    )
    train.add_argument("--run", type=Path, metavar="NAME", help="the run's folder; a bare name stands under runs/")

    carry = add_command(
        commands, "resume", _resume, "carry on a run that was stopped, from its manifest", "mtquant resume runs/real"
    )
    carry.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder, or its name under runs/")

    add_benches(commands)

    judge = add_command(
        commands,
        "evaluate",
        _evaluate,
        "play a run's policies and the baselines over a split and compare them",
        "mtquant evaluate runs/real --split test --json result.json",
    )
    judge.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder, or its name under runs/")
    judge.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    judge.add_argument(
        "--episodes", type=int, metavar="N", help="N random starts in place of the split from end to end"
    )
    judge.add_argument(
        "--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the last done)"
    )
    judge.add_argument("--json", type=Path, metavar="FILE", help="write the report here as well")

    why = add_command(
        commands,
        "explain",
        _explain,
        "write one interactive page, and pictures, of what a run's policies did and what their decisions rest on",
        "mtquant explain runs/real --agent forex_specialist --out why/",
    )
    why.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder, or its name under runs/")
    why.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    why.add_argument(
        "--agent", help="whose decisions to look into (default: the meta-controller's, or the allocator's)"
    )
    why.add_argument("--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the last done)")
    why.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/explain/SPLIT/AGENT")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, 2 with one clear message when it was refused."""
    try:
        args = build_parser().parse_args(argv)
        args.handler(args)
    except MtquantError as error:
        print(f"mtquant: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("mtquant: stopped", file=sys.stderr)
        return 130
    return 0


def _run_folder(name: Path) -> Path:
    """A bare name is a run under `runs/`, unless a folder of that name lies here."""
    if len(name.parts) == 1 and not name.is_dir():
        return Path("runs") / name
    return name


def _data_import(args: argparse.Namespace) -> None:
    from mtquant_rllib.config.loader import validate
    from mtquant_rllib.config.market import FileOptions
    from mtquant_rllib.market import importers

    settings = settings_of(args)
    options = None
    if args.symbol or args.timezone or args.scale or args.date_format:
        given = {key: getattr(args, key) for key in ("symbol", "timezone", "scale", "date_format")}
        options = validate(FileOptions, given, "mtquant data import")
    found = importers.import_paths(args.files, settings, options=options, repair=args.repair)
    for line in found.report.lines():
        print(line)
    if args.out is not None:
        if found.series:
            print(f"bars: {importers.write_bars(found.series, args.out)}")
        if found.macro is not None:
            beside = args.out if not found.series else args.out.with_name(f"{args.out.stem}_macro{args.out.suffix}")
            print(f"macro: {importers.write_macro(found.macro, beside)}")
    if args.json is not None:
        write_json(args.json, found.report.to_dict())


def _data_synth(args: argparse.Namespace) -> None:
    from mtquant_rllib.market import importers
    from mtquant_rllib.market.macro import MacroSeries
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
            dates=market.stamps[:-1].astype("datetime64[D]"), columns=market.macro_columns, values=market.macro[1:]
        )
        macro = importers.write_macro(known, args.out / f"path_{number:03d}_macro.parquet")
        print(f"{bars} and {macro.name}: {len(market):,} rows, {args.variant}, seed {seed}, path {number}")


def _data_describe(args: argparse.Namespace) -> None:
    import rich

    from mtquant_rllib.market.quality import describe

    settings = settings_of(args)
    if args.market is None:
        from mtquant_rllib.market.synthetic import synthesise

        size = settings.embedded.of("train")
        drawn = synthesise(
            settings, n_paths=1, n_years=size.years, seed=settings.embedded.seed, variant=settings.embedded.bars
        )
        market = drawn.markets[0]
    else:
        from mtquant_rllib.market.importers import load_market

        market, imported = load_market(settings, args.market, args.macro)
        for line in imported.lines():
            print(line)
    findings = describe(market, settings)
    rich.print(findings.render())
    if args.json is not None:
        write_json(args.json, findings.to_dict())


def _train(args: argparse.Namespace) -> None:
    if args.budget_scale <= 0:
        raise ConfigError(f"--budget-scale {args.budget_scale:g}: expected a factor above 0, such as 0.02")
    settings = settings_of(args)
    check_files(args.market, args.macro)
    reproducible()
    from mtquant_rllib.training.curriculum import train

    run = train(
        settings,
        run=None if args.run is None else _run_folder(args.run),
        market=args.market,
        macro=args.macro,
        budget_scale=args.budget_scale,
        phase=args.phase,
    )
    _compare(run)
    print(f"run: {run}\nnext: mtquant evaluate {run}")


def _resume(args: argparse.Namespace) -> None:
    if args.config != DEFAULT_CONFIG:
        raise ConfigError(f"--config {args.config}: a run goes on with its own settings; --set can move resources")
    run = _run_folder(args.run_folder)
    reproducible()
    from mtquant_rllib.training.curriculum import resume

    run = resume(run, overrides=args.overrides)
    _compare(run)
    print(f"run: {run}\nnext: mtquant evaluate {run}")


def _compare(run: Path) -> None:
    """Once the whole curriculum is done, say what came of it: the test bars, beside the baselines."""
    from rich.console import Console

    from mtquant_rllib.evaluation.report import print_report
    from mtquant_rllib.evaluation.reward_terms import print_terms
    from mtquant_rllib.training.assessment import evaluate_run, last_done
    from mtquant_rllib.training.learning_curves import plot_learning_curves
    from mtquant_rllib.training.manifest import Manifest, phases_of

    manifest = Manifest.read(run)
    plot_learning_curves(run, manifest.load_settings().evaluation.plot)
    if last_done(manifest, run) != phases_of(manifest.load_settings())[-1]:
        return
    done = evaluate_run(run)
    print_report(done.report, Console())
    if done.terms:
        print_terms(done.terms, Console())
    print(f"pictures: {done.files['picture']}, {run / 'learning_curves.png'}")


def _evaluate(args: argparse.Namespace) -> None:
    if args.episodes is not None and args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: expected at least 1")
    import shutil

    from rich.console import Console

    from mtquant_rllib.evaluation.report import print_report
    from mtquant_rllib.evaluation.reward_terms import print_terms
    from mtquant_rllib.policies.fallbacks import summary
    from mtquant_rllib.training.assessment import evaluate_run

    done = evaluate_run(
        _run_folder(args.run_folder),
        split=args.split,
        episodes=args.episodes,
        phase=args.phase,
        settings=settings_of(args) if args.config != DEFAULT_CONFIG else None,
        overrides=args.overrides,
    )
    print_report(done.report, Console())
    if done.terms:
        print_terms(done.terms, Console())
    for line in summary(done.fallbacks):
        print(line)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(done.files["json"], args.json)
    for kind, path in done.files.items():
        print(f"{kind}: {path}")


def _explain(args: argparse.Namespace) -> None:
    from mtquant_rllib.training.explanation import explain_run

    done = explain_run(
        _run_folder(args.run_folder),
        split=args.split,
        agent=args.agent,
        phase=args.phase,
        out=args.out,
        settings=settings_of(args) if args.config != DEFAULT_CONFIG else None,
        overrides=args.overrides,
    )
    for line in done.lines:
        print(line)
    for kind, path in done.files.items():
        print(f"{kind}: {path}")


if __name__ == "__main__":
    sys.exit(main())
