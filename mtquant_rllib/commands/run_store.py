"""`mtquant runs`: list, show, verify, export and prune runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.command import DEFAULT_CONFIG, add_command, add_family, settings_of
from mtquant_rllib.commands.runs import run_folder
from mtquant_rllib.errors import ConfigError, RunError

if TYPE_CHECKING:
    from mtquant_rllib.training.run_store.overview import RunFacts, RunLine, TrialFacts


class DamagedRun(RunError):
    """A run of which some part is not as it was written."""

    exit_code = 1


def add_run_store(commands: Any) -> None:
    kinds = add_family(
        commands,
        "runs",
        "list runs, look into one, check it, tag it, take its policies out, make room",
        "mtquant runs list && mtquant runs show real",
        word="WHAT",
        dest="what",
    )
    table = add_command(
        kinds, "list", _list, "list the runs in a folder, damaged ones included", "mtquant runs list /mnt/backup/runs"
    )
    table.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="FOLDER", help="default: %(default)s/"
    )

    look = add_command(
        kinds,
        "show",
        _show,
        "say what a run is, how far it is, where its newest checkpoints lie and how it goes on",
        "mtquant runs show runs/real --newest 3/desk",
    )
    _add_run(look)
    look.add_argument("--json", action="store_true", help="all of it as JSON")
    look.add_argument(
        "--newest",
        metavar="PHASE/TRIAL",
        help="nothing but the path of the newest whole checkpoint of this trial; 3 alone where phase 3 has one trial",
    )

    check = add_command(
        kinds,
        "verify",
        _verify,
        "check every part of a run against its checksums; exit code 1 where one is damaged",
        "mtquant runs verify runs/real",
    )
    _add_run(check)

    export = add_command(
        kinds,
        "export-policy",
        _export,
        "write a run's policies as safetensors and one JSON, without pickles",
        "mtquant runs export-policy runs/real --out policies/ --agent EURUSD forex_specialist",
    )
    _add_run(export)
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    export.add_argument(
        "--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the last done)"
    )
    export.add_argument("--agent", nargs="+", metavar="NAME", help="these agents alone (default: all)")

    prune = add_command(
        kinds,
        "prune",
        _prune,
        "say what of a run may be removed to make room; with --yes, remove it",
        "mtquant runs prune runs/real --keep 1 --yes",
    )
    _add_run(prune)
    prune.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="newest whole checkpoints of each trial that stay (default: the run's checkpoints.keep, and none of a "
        "phase that is done)",
    )
    prune.add_argument("--yes", action="store_true", help="remove it")

    tag = add_command(
        kinds,
        "tag",
        _tag,
        "give a run tags, by which `mtquant compare --group TAG` finds it, or take them away",
        "mtquant runs tag runs/real good june --remove draft",
    )
    _add_run(tag)
    tag.add_argument("tags", nargs="*", metavar="TAG", help="none: say which ones it has")
    tag.add_argument("--remove", nargs="+", default=[], metavar="TAG", help="take these away")

    remove = add_command(
        kinds,
        "rm",
        _rm,
        "say how large a run is; with --yes, remove it whole",
        "mtquant runs rm runs/real --yes",
    )
    _add_run(remove)
    remove.add_argument("--yes", action="store_true", help="remove it")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder, or its name under runs/")


def _refuse_settings(args: argparse.Namespace) -> None:
    if args.config != DEFAULT_CONFIG or args.overrides:
        raise ConfigError("--config, --set: this command looks at a run with its own settings, and takes no others")


def _list(args: argparse.Namespace) -> None:
    _refuse_settings(args)
    from mtquant_rllib.training.run_store.overview import list_runs

    lines = list_runs(args.folder)
    if not lines:
        print(f"no runs in {args.folder}")
        return
    head = ("run", "created", "phases", "bars", "of", "best validation Sharpe", "size", "state")
    print_table(head, [_row(line) for line in lines], right=(3, 4, 6))


def _row(line: RunLine) -> tuple[str, ...]:
    name, size = printable(line.folder.name), size_in_words(line.bytes)
    if line.fault is not None:
        return (name, "", "", "", "", "", size, f"damaged: {printable(line.fault)}")
    phases = " ".join(f"{number} {status}" for number, status in (line.phases or {}).items())
    best = "" if line.best is None else f"{line.best[0]:.2f} (phase {line.best[1]} {line.best[2]})"
    state = "running" if line.running else "done" if line.finished else "stopped"
    created = line.created.replace("T", " ")[:16]
    return (name, created, phases, f"{line.bars:,}", f"{line.budget_bars:,}", best, size, state)


def _show(args: argparse.Namespace) -> None:
    from mtquant_rllib.training.run_store.overview import look, newest_checkpoint

    facts = look(run_folder(args.run_folder), settings_of(args))
    if args.newest is not None:
        print(newest_checkpoint(facts, args.newest))
    elif args.json:
        from mtquant_rllib import strict_json

        print(strict_json.dumps(asdict(facts), indent=1))
    else:
        _print_facts(facts, args.config)


def _print_facts(facts: RunFacts, config: str) -> None:
    versions = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    print(f"run         {printable(facts.name)} ({facts.run_id}) in {facts.folder}, {size_in_words(facts.bytes)}")
    print(f"created     {facts.created}, last written {facts.updated}")
    print(f"market      {printable(facts.market)} ({facts.market_content})")
    print(f"seed        {facts.seed}, budgets times {facts.budget_scale:g}")
    print(f"versions    {versions}")
    print(f"settings    {len(facts.changed)} differ from {config}{':' if facts.changed else ''}")
    for key, (own, other) in facts.changed.items():
        print(f"              {key} = {printable(own)}    (there: {printable(other)})")
    for phase in facts.phases:
        policies = f", policies in {facts.folder}/{phase.policies}" if phase.policies else ""
        print(f"phase {phase.number}     {phase.status}{policies}")
        for trial in phase.trials:
            _print_trial(trial, facts.folder)
    for number, line in enumerate(facts.errors):
        print(f"{'errors' if number == 0 else '':<12}{printable(line)}")
    if any(trial.checkpoint for phase in facts.phases for trial in phase.trials):
        print("to load     Algorithm.from_checkpoint(PATH), of ray.rllib.algorithms.algorithm, with a path from above")
    print(f"next        {facts.go_on}")


def _print_trial(trial: TrialFacts, folder: str) -> None:
    best = "" if trial.best_sharpe is None else f", best Sharpe {trial.best_sharpe:.2f} at {trial.best_bars:,} bars"
    print(f"  {trial.name:<12}{trial.status}, {trial.bars:,} of {trial.budget_bars:,} bars{best}")
    if trial.checkpoint is not None:
        signed = "" if trial.signed else "    (not signed by you)"
        print(f"              checkpoint  {Path(trial.checkpoint).absolute()}{signed}")
    for line in trial.damaged:
        print(f"              not used    {printable(line)}")
    if trial.modules is not None:
        print(f"              best states {folder}/{trial.modules}")


def _verify(args: argparse.Namespace) -> None:
    _refuse_settings(args)
    from mtquant_rllib.training.run_store.verification import verify_run

    run, damaged, total = run_folder(args.run_folder), 0, 0
    for finding in verify_run(run):
        damaged, total = damaged + (not finding.whole), total + 1
        print(f"{'whole  ' if finding.whole else 'DAMAGED'}  {printable(finding.part)}: {printable(finding.said)}")
    if damaged:
        raise DamagedRun(f"{run}: {damaged} of {total} parts are damaged")
    print(f"{run}: all {total} parts are whole")


def _export(args: argparse.Namespace) -> None:
    _refuse_settings(args)
    from mtquant_rllib.training.inspection.policy_export import export_policies

    document = export_policies(run_folder(args.run_folder), args.out, phase=args.phase, agents=args.agent)
    for agent, entry in document.agents.items():
        module = document.modules[entry.module]
        widths = f"{entry.observation_width} -> {len(entry.action)}"
        print(f"{agent:<24}{args.out / entry.file}  ({module.network}, {widths})")
    print(f"policies after phase {document.source['phase']}: {args.out / 'policy.json'}")
    print(f"in Python: mtquant_rllib.policies.exported.load_exported({str(args.out)!r})")


def _tag(args: argparse.Namespace) -> None:
    _refuse_settings(args)
    from mtquant_rllib.training.run_store.tags import change_tags, tags_of
    from mtquant_rllib.training.storage.mirror import pushing_changes

    run = run_folder(args.run_folder)
    if not args.tags and not args.remove:
        tags = tags_of(run)
    else:
        with pushing_changes(run):
            tags = change_tags(run, args.tags, args.remove)
    print(f"{run}: {printable(', '.join(tags)) or 'no tags'}")


def _rm(args: argparse.Namespace) -> None:
    _refuse_settings(args)
    from mtquant_rllib.training.run_store.removal import remove_run

    run = run_folder(args.run_folder)
    size = size_in_words(remove_run(run, remove=args.yes))
    if args.yes:
        print(f"{run}: removed, {size}; the ledger still counts it as a trial")
    else:
        print(f"{run}: {size}; `mtquant runs rm {run} --yes` removes it")


def _prune(args: argparse.Namespace) -> None:
    _refuse_settings(args)
    if args.keep is not None and args.keep < 0:
        raise ConfigError(f"--keep {args.keep}: expected 0 or more checkpoints")
    from mtquant_rllib.training.run_store.pruning import prune_run

    run = run_folder(args.run_folder)
    plan = prune_run(run, keep=args.keep, remove=args.yes)
    rows = [
        (printable(str(item.path.relative_to(run.resolve()))), size_in_words(item.bytes), item.why)
        for item in plan.removable
    ]
    if rows:
        print_table(("removed" if args.yes else "may go", "size", "why"), rows, right=(1,))
    for line in plan.left_alone:
        print(f"left alone: {printable(line)}")
    freed = f"{len(rows)} things, {size_in_words(plan.bytes)}"
    if not rows:
        print(f"{run}: nothing to remove")
    elif args.yes:
        print(f"{run}: removed {freed}")
    else:
        print(f"{run}: {freed} may go; `mtquant runs prune {run} --yes` removes them")


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Columns as wide as what stands in them, never cut off: the output may go into a pipe."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        print("  ".join(cells).rstrip())


def size_in_words(count: int) -> str:
    """Bytes with a unit, three digits at most."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"


def printable(text: str) -> str:
    """Text without control characters, which a terminal would execute."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
