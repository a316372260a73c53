"""`mtquant train`, `resume`, `evaluate`, `explain`."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mtquant_rllib.commands.command import (
    DEFAULT_CONFIG,
    add_command,
    check_files,
    reproducible,
    settings_of,
    write_json,
)
from mtquant_rllib.commands.sweep import resume_sweep
from mtquant_rllib.commands.training_options import add_address, add_training_options, training_settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.paths import is_address
from mtquant_rllib.training.records.ownership import SWEEP
from mtquant_rllib.training.records.run_names import existing_run, run_path

if TYPE_CHECKING:
    from mtquant_rllib.training.inspection.run_evaluation import RunEvaluation
    from mtquant_rllib.training.inspection.unseen_bars import UnseenBars

T = TypeVar("T")


def add_training(commands: Any) -> None:
    """`train` and `resume`."""
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
    add_training_options(train)
    train.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train N members with seeds of their own; the run acts by the mean of their actions (default: 1)",
    )
    train.add_argument(
        "--resume",
        action="store_true",
        dest="resume_existing",
        help="carry the run on where it exists: for jobs that a scheduler starts again",
    )

    carry = add_command(
        commands, "resume", _resume, "carry on a run that was stopped, from its manifest", "mtquant resume runs/real"
    )
    carry.add_argument("run_folder", metavar="RUN", help="the run's folder, or its name under runs/")
    carry.add_argument(
        "--trust",
        action="store_true",
        help="load checkpoints that this user did not write; loading them runs whatever code they name",
    )
    add_address(carry)


def add_judging(commands: Any) -> None:
    """`evaluate` and `explain`."""
    judge = add_command(
        commands,
        "evaluate",
        _evaluate,
        "play a run's policies and the baselines over a split and compare them",
        "mtquant evaluate runs/real --split test --json result.json\n"
        "  mtquant evaluate runs/real --market newer.parquet --macro macro.parquet --after 2022-12-31",
    )
    judge.add_argument("run_folder", metavar="RUN", help="the run's folder, or its name under runs/")
    judge.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    judge.add_argument("--market", type=Path, metavar="FILE", help="bars that the run has never seen, not a split")
    judge.add_argument("--macro", type=Path, metavar="FILE", help="macro series of --market")
    judge.add_argument(
        "--after", metavar="DATE", help="judge what comes after this day (default: what the run has not seen)"
    )
    judge.add_argument(
        "--holdout",
        action="store_true",
        help="judge the bars that the run's market holds out (market.splits.holdout_from), which opens once",
    )
    judge.add_argument(
        "--episodes", type=int, metavar="N", help="N random starts in place of the split from end to end"
    )
    judge.add_argument(
        "--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the last done)"
    )
    judge.add_argument("--json", type=Path, metavar="FILE", help="write the report here as well")
    _add_place(judge)

    why = add_command(
        commands,
        "explain",
        _explain,
        "write one interactive page, and pictures, of what a run's policies did and what their decisions rest on",
        "mtquant explain runs/real --agent forex_specialist --out why/",
    )
    why.add_argument("run_folder", metavar="RUN", help="the run's folder, or its name under runs/")
    why.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    why.add_argument(
        "--agent", help="whose decisions to look into (default: the meta-controller's, or the allocator's)"
    )
    why.add_argument("--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the last done)")
    why.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/explain/SPLIT/AGENT")
    _add_place(why)


def add_inspection(commands: Any) -> None:
    """`inspect` and `trace`."""
    look = add_command(
        commands,
        "inspect",
        _inspect,
        "show one bar from end to end: messages, decisions, risk edits, fills, profit",
        "mtquant inspect runs/real --at 2020-03-12 --json bar.json",
    )
    look.add_argument("run_folder", metavar="RUN", help="the run's folder, or its name under runs/")
    look.add_argument("--at", metavar="DATE", required=True, help="the bar: a day, or a moment of shorter bars")
    look.add_argument(
        "--split", choices=("train", "validation", "test"), help="where to look (default: the last split that has it)"
    )
    look.add_argument("--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the last done)")
    look.add_argument("--json", type=Path, metavar="FILE", help="write it here as well")

    trace = add_command(
        commands,
        "trace",
        _trace,
        "write every message that the levels of a desk sent each other over a split",
        "mtquant trace runs/real --split test --out messages.parquet",
    )
    trace.add_argument("run_folder", metavar="RUN", help="the run's folder, or its name under runs/")
    trace.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    trace.add_argument(
        "--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the last done)"
    )
    trace.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/messages/SPLIT/messages.parquet")


def _trace(args: argparse.Namespace) -> None:
    run = run_folder(args.run_folder)
    from mtquant_rllib.training.inspection.message_trace import trace_run
    from mtquant_rllib.training.storage.mirror import pushing_changes

    with pushing_changes(run):
        found = trace_run(run, split=args.split, phase=args.phase, out=args.out)
    for (kind, sender, receiver), count in found.counts.items():
        print(f"{count:>9,}  {kind} from {sender} to {'everybody' if receiver == '*' else receiver}")
    print(f"messages: {found.path}")


def _inspect(args: argparse.Namespace) -> None:
    run = run_folder(args.run_folder)
    from mtquant_rllib.training.inspection.inspected_bar import inspect_run, lines

    bar = inspect_run(run, args.at, split=args.split, phase=args.phase)
    print("\n".join(lines(bar)))
    if args.json is not None:
        write_json(args.json, bar.tree())


def _add_place(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="do it on a node of this Ray cluster, `auto` for the one of this machine (default: here)",
    )


def _looked(run: Path, address: str | None, look: Callable[..., T], **named: Any) -> T:
    """The result of `look(run, **named)`, here or on a cluster; what it writes is pushed to the run's store."""
    from mtquant_rllib.training.inspection.remote_inspection import on_cluster
    from mtquant_rllib.training.storage.mirror import pushing_changes

    if address is not None:
        return on_cluster(address, run, look, print, **named)
    with pushing_changes(run):
        return look(run, **named)


def run_folder(name: str | Path) -> Path:
    """The folder of a run that is there; a bare name stands under `runs/`. Raises RunError when it is no run's name."""
    return existing_run(name)


def _train(args: argparse.Namespace) -> None:
    if args.seeds > 1 and args.run is not None and is_address(args.run):
        raise RunError(
            f"--run {args.run}: an ensemble lies in a folder that every node mounts; stores hold single runs"
        )
    run = None if args.run is None else run_path(args.run)
    settings = training_settings(args)
    reproducible()
    from mtquant_rllib.training.curriculum.driver import train

    how: dict[str, Any] = {
        "run": run,
        "market": args.market,
        "macro": args.macro,
        "budget_scale": args.budget_scale,
        "phase": args.phase,
        "address": args.address,
        "resume_existing": args.resume_existing,
    }
    if args.seeds > 1:
        from mtquant_rllib.training.search.ensemble import train_ensemble

        _judge_ensemble(train_ensemble(settings, args.seeds, **how))
        return
    run = train(settings, **how)
    _compare(run)
    _tell_what_next(run)


def _resume(args: argparse.Namespace) -> None:
    if args.config != DEFAULT_CONFIG:
        raise ConfigError(f"--config {args.config}: a run goes on with its own settings; --set can move resources")
    run = run_folder(args.run_folder)
    if (run / SWEEP).is_file():
        resume_sweep(args.run_folder, args.address, args.overrides, trust=args.trust)
        from mtquant_rllib.training.search.record import is_ensemble

        if is_ensemble(run):
            _judge_ensemble(run)
        return
    reproducible()
    from mtquant_rllib.training.curriculum.driver import resume

    run = resume(run, args.address, args.overrides, trust=args.trust)
    _compare(run)
    _tell_what_next(run)


def _judge_ensemble(run: Path) -> None:
    """Evaluate an ensemble whose members are through all phases."""
    from mtquant_rllib.training.inspection.run_evaluation import evaluate_run
    from mtquant_rllib.training.records.manifest import phases_of
    from mtquant_rllib.training.search.record import SweepRecord

    record = SweepRecord.read(run)
    if phases_of(record.load_settings())[-1] not in record.phases:
        return
    done = evaluate_run(run)
    _tell(done)
    print(f"picture: {done.files['picture']}")


def _tell_what_next(run: Path) -> None:
    from mtquant_rllib.training.storage.mirror import named

    print(f"run: {named(run)}\nnext: mtquant evaluate {named(run)}")


def _compare(run: Path) -> None:
    """Evaluate a run whose curriculum is complete on the test split, beside the baselines."""
    from mtquant_rllib.training.inspection.opened_policies import last_done
    from mtquant_rllib.training.inspection.run_evaluation import evaluate_run
    from mtquant_rllib.training.records.manifest import Manifest, phases_of
    from mtquant_rllib.training.reporting.learning_curves import plot_learning_curves
    from mtquant_rllib.training.reporting.weights_and_biases.launcher import brought_up
    from mtquant_rllib.training.storage.mirror import pushing_changes

    manifest = Manifest.read(run)
    with pushing_changes(run):
        plot_learning_curves(run, manifest.load_settings().evaluation.plot)
        if last_done(manifest, run) != phases_of(manifest.load_settings())[-1]:
            return
        done = evaluate_run(run)
    _tell(done)
    brought_up(run, print)
    print(f"pictures: {done.files['picture']}, {run / 'learning_curves.png'}")


def _tell(done: RunEvaluation) -> None:
    """Print the comparison: all bars, by regime, and for an allocator the terms of its reward."""
    from rich.console import Console

    from mtquant_rllib.evaluation.regimes.report import print_by_regime
    from mtquant_rllib.evaluation.report.output import print_report
    from mtquant_rllib.evaluation.report.reward_terms import print_terms

    console = Console()
    print_report(done.report, console)
    print_by_regime(done.regimes, console)
    if done.terms:
        print_terms(done.terms, console)
    if done.kept is not None:
        print(f"an earlier evaluation came out otherwise, and is kept in {done.kept}")


def _evaluate(args: argparse.Namespace) -> None:
    if args.episodes is not None and args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: expected at least 1")
    run = run_folder(args.run_folder)
    unseen = _unseen(args, run)
    import shutil

    from mtquant_rllib.policies.attention.fallbacks import summary
    from mtquant_rllib.training.inspection.run_evaluation import evaluate_run
    from mtquant_rllib.training.reporting.weights_and_biases.launcher import brought_up
    from mtquant_rllib.training.search.record import is_sweep

    done = _looked(
        run,
        args.address,
        evaluate_run,
        split=args.split,
        episodes=args.episodes,
        phase=args.phase,
        settings=settings_of(args) if args.config != DEFAULT_CONFIG else None,
        overrides=args.overrides,
        unseen=unseen,
    )
    if not is_sweep(run):
        brought_up(run.resolve(), print)
    _tell(done)
    for line in summary(done.fallbacks):
        print(line)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(done.files["json"], args.json)
    for kind, path in done.files.items():
        print(f"{kind}: {path}")


def _unseen(args: argparse.Namespace, run: Path) -> UnseenBars | None:
    """The bars of --holdout or of --market, which stand in place of a split."""
    if args.holdout:
        if args.market is not None or args.after is not None or args.split != "test" or args.episodes is not None:
            raise ConfigError("--holdout: it names its bars by itself, and is played once from end to end")
        if args.overrides or args.config != DEFAULT_CONFIG:
            raise ConfigError("--holdout: the run is judged with its own settings")
        from mtquant_rllib.training.inspection.unseen_bars import UnseenBars
        from mtquant_rllib.training.records.manifest import Manifest
        from mtquant_rllib.training.search.record import is_ensemble, members_of

        return UnseenBars.held_out(Manifest.read(members_of(run)[0] if is_ensemble(run) else run))
    if args.market is None:
        for name in ("macro", "after"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name} without --market: it belongs to bars that the run has never seen")
        return None
    if args.split != "test":
        raise ConfigError(f"--split {args.split} with --market: bars of one's own have no splits")
    check_files(args.market, args.macro)
    try:
        after = None if args.after is None else dt.date.fromisoformat(args.after)
    except ValueError:
        raise ConfigError(f"--after {args.after}: expected a date such as 2022-12-31") from None
    from mtquant_rllib.training.inspection.unseen_bars import UnseenBars

    return UnseenBars(args.market, args.macro, after)


def _explain(args: argparse.Namespace) -> None:
    run = run_folder(args.run_folder)
    from mtquant_rllib.training.inspection.run_explanation import explain_run

    if args.address is not None and args.out is not None:
        raise ConfigError(f"--out {args.out}: with --address the page is written into the run; leave one of them out")
    done = _looked(
        run,
        args.address,
        explain_run,
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
