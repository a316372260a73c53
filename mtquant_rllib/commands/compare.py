"""`mtquant compare`: runs side by side, as a table and as one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import DEFAULT_CONFIG, add_command, settings_of
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.records.run_names import RUNS, existing_run


def add_comparison(commands: Any) -> None:
    parser = add_command(
        commands,
        "compare",
        _compare,
        "set runs beside each other on the same bars: figures, how sure a difference is, and the settings that differ",
        "mtquant compare runs/a runs/b runs/my_sweep --html comparison.html --table comparison.csv",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="runs or sweeps; the first run is what the others are compared with"
    )
    parser.add_argument("--group", metavar="TAG", help="all runs below --folder that bear this tag (mtquant runs tag)")
    parser.add_argument("--folder", type=Path, default=RUNS, help="where --group looks (default: %(default)s/)")
    parser.add_argument(
        "--evaluation",
        metavar="NAME",
        help="folder of the evaluation in each run, such as validation (default: the test split, by the last phase)",
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="evaluate the runs that have not been, on the test split"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one interactive page that needs nothing else")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table: .csv, .json or .parquet")


def _compare(args: argparse.Namespace) -> None:
    if args.config != DEFAULT_CONFIG:
        raise ConfigError("--config: runs are compared as they were judged, with their own settings")
    if not args.runs and args.group is None:
        raise ConfigError("no run named; name two or more, or a sweep, or a tag with --group")
    settings = settings_of(args)
    from mtquant_rllib.evaluation.compare.table import check_table_name

    if args.table is not None:
        check_table_name(args.table)
    named = [existing_run(name) for name in args.runs]
    from rich.console import Console

    from mtquant_rllib.evaluation.compare.comparison import compare
    from mtquant_rllib.evaluation.compare.table import print_comparison, write_table
    from mtquant_rllib.training.inspection.run_comparison import load, runs_named, without_evaluation

    folders = runs_named(named, args.group, args.folder)
    if args.evaluate:
        _evaluate(without_evaluation(folders, args.evaluation), args.evaluation)
    comparison = compare(load(folders, args.evaluation), settings.evaluation.bootstrap, settings.evaluation.verdict)
    print_comparison(comparison, Console())
    if args.table is not None:
        print(f"table: {write_table(comparison, args.table)}")
    if args.html is not None:
        from mtquant_rllib.evaluation.compare.page import build_page

        names = ", ".join(Path(name).name for name in args.runs[:3]) or args.group
        more = f" and {len(args.runs) - 3} more" if len(args.runs) > 3 else ""
        page = build_page(comparison, f"Comparison: {names}{more}", settings.evaluation.explain.line_points)
        print(f"page: {page.write(args.html)}")


def _evaluate(runs: list[Path], evaluation: str | None) -> None:
    if not runs:
        return
    if evaluation is not None:
        raise ConfigError(f"--evaluate with --evaluation {evaluation}: it makes the one on the test split alone")
    from mtquant_rllib.training.inspection.run_evaluation import evaluate_run
    from mtquant_rllib.training.storage.mirror import pushing_changes

    for run in runs:
        print(f"evaluating {run}")
        with pushing_changes(run):
            evaluate_run(run)
