"""Whether everything that a run needs is there and as it was written, part by part, and what damage costs.

Nothing is loaded but plain arrays, checked by their hashes; nothing is repaired.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtquant_rllib.env.prepared.files import verify_prepared
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.training.curriculum.phases import LAST, at_bars, plan_phase
from mtquant_rllib.training.inspection.opened_run import opened
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.manifest_file import BACKUP, FILE
from mtquant_rllib.training.run_store.checkpoint_survey import Surveyed, surveyed, trial_folder

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile)
"""What numpy, zipfile and json say of files that are not what they should be."""


@dataclass(frozen=True)
class PartStatus:
    """One part of a run: whether it is whole, and what there is to say of it."""

    part: str
    whole: bool
    said: str


def verify_run(run: Path) -> Iterator[PartStatus]:
    """Look at every part of a run, in the order in which a resume would need them.

    Raises
    ------
    RunError
        When the folder is not there, or no run.
    """
    if not run.is_dir() or not any((run / name).exists() for name in (FILE, BACKUP)):
        Manifest.read(run)
    try:
        manifest, settings = opened(run)
    except MtquantError as error:
        yield PartStatus(FILE, False, f"{_first_line(error)}; without it nothing else of this run can be found")
        yield from _backup(run)
        return
    yield PartStatus(FILE, True, f"run {manifest.id}, updated {manifest.updated}")
    yield from _backup(run)
    for number in sorted(map(int, manifest.phases)):
        record = manifest.phase(number)
        if record.status == "pending":
            continue
        for plan in plan_phase(settings, number):
            if plan.name not in record.trials:
                yield PartStatus(f"{FILE}, phase {number}", False, f"it has no record of the trial {plan.name}")
                continue
            yield from _checkpoints(run, manifest, number, plan.name)
            yield from _trial_states(run, manifest, number, plan.name, plan.folder)
            yield from _curve(run, number, plan.name)
        if record.result is not None:
            cost = (
                f"phase {number + 1}, evaluate and export cannot begin from it; the trials' best states hold the same"
            )
            yield from verify_states(run, record.result, cost)
    yield _market(manifest)


def _backup(run: Path) -> Iterator[PartStatus]:
    path = run / BACKUP
    if not path.exists():
        return
    try:
        tree = json.loads(path.read_text())
        yield PartStatus(BACKUP, isinstance(tree, dict), f"as of {tree.get('updated')}")
    except (*UNREADABLE, AttributeError) as error:
        yield PartStatus(BACKUP, False, f"{_first_line(error)}; it is written again with the next change")


def _checkpoints(run: Path, manifest: Manifest, phase: int, trial: str) -> Iterator[PartStatus]:
    done = manifest.phase(phase).status == "done"
    place = trial_folder(run, manifest, phase, trial)
    found = list(surveyed(run, manifest, phase, trial))
    if not found:
        said = "none is left; the phase is done and needs none" if done else "none yet; the trial begins at bar 0"
        yield PartStatus(f"{place.relative_to(run)}/checkpoint_*", True, said)
    for number, one in enumerate(found):
        part = str(one.path.relative_to(run))
        if one.index is None:
            yield PartStatus(part, False, f"{one.fault}; {_instead(found, number, done)}")
        elif not one.own:
            yield PartStatus(part, True, "whole, but written by another run or trial: it is never resumed from")
        else:
            whose = "signed by you" if one.signed else "not signed by you: it is resumed from with --trust alone"
            yield PartStatus(part, True, f"{one.index.bars:,} bars, {len(one.index.files)} files, {whose}")


def _instead(found: list[Surveyed], number: int, done: bool) -> str:
    """What a resume does without this checkpoint."""
    if done:
        return "the phase is done and needs none"
    usable = [(place, one) for place, one in enumerate(found) if one.index is not None and one.own]
    if not usable:
        return "no other is whole: the trial cannot go on; bring a copy back, or remove its folder to begin at bar 0"
    place, newest = usable[0]
    assert newest.index is not None
    if place < number:
        return f"{newest.path.name}, which is newer, is used"
    return f"{newest.path.name} is used, at {newest.index.bars:,} bars; what came after it is trained again"


def _trial_states(run: Path, manifest: Manifest, phase: int, trial: str, folder: str) -> Iterator[PartStatus]:
    record, done = manifest.phase(phase).trials[trial], manifest.phase(phase).status == "done"
    needed = {record.best, record.last} - {None}
    if not done:
        for one in surveyed(run, manifest, phase, trial, indexes_alone=True):
            if one.index is not None and one.own:
                best = one.index.result.get("best", {})
                needed = {f"{folder}/{at_bars(int(best['bars']))}"} if "bars" in best else set()
                needed |= {f"{folder}/{LAST}"} if one.index.finished else set()
                break
    there = run / folder
    others = {f"{folder}/{path.name}" for path in there.iterdir() if _is_states_name(path)} if there.is_dir() else set()
    lost = "the phase is done and has handed its states over" if done else "the phase cannot hand its best policies on"
    for name in sorted(map(str, needed | others)):
        if done and not there.is_dir():
            yield PartStatus(name, True, "not there; the phase is done and has handed its states over")
            continue
        yield from verify_states(
            run, name, lost if name in needed else "it is neither best nor last, and nothing needs it"
        )


def _is_states_name(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def verify_states(run: Path, name: str, cost: str = "") -> Iterator[PartStatus]:
    """One finding on a folder of module states, each compared with its hash. cost: what damage to it means."""
    folder = run / name
    try:
        modules = module_states.index(folder)["modules"]
    except (MtquantError, *UNREADABLE) as error:
        yield PartStatus(name, False, _and_cost(_first_line(error).removeprefix(f"{folder}: "), cost))
        return
    damaged = []
    for module in modules:
        try:
            module_states.read(folder, [module])
        except (MtquantError, *UNREADABLE) as error:
            damaged.append(f"{module}.npz: {_first_line(error).removeprefix(f'{folder / module}.npz: ')}")
    if damaged:
        yield PartStatus(name, False, _and_cost("; ".join(damaged), cost))
    else:
        yield PartStatus(name, True, f"{len(modules)} modules")


def _curve(run: Path, phase: int, trial: str) -> Iterator[PartStatus]:
    path = run / "curves" / f"phase_{phase}_{trial}.csv"
    part = str(path.relative_to(run))
    cost = "learning_curves.png lacks it; training does not need it"
    if not path.exists():
        yield PartStatus(part, True, "not there yet")
        return
    try:
        text = path.read_text()
        header, *rows = list(csv.reader(text.splitlines(), strict=True)) or [[]]
        broken = sum(len(row) != len(header) or not row[header.index("iteration")].isdigit() for row in rows[:-1])
        # A write that was cut short may end inside the last number.
        broken += bool(rows) and (len(rows[-1]) != len(header) or not text.endswith("\n"))
    except (*UNREADABLE, csv.Error) as error:
        yield PartStatus(part, False, f"cannot be read ({_first_line(error)}); {cost}")
        return
    if broken:
        yield PartStatus(part, False, f"{broken} of {len(rows)} rows are broken; {cost}")
    else:
        yield PartStatus(part, True, f"{len(rows)} iterations")


def _market(manifest: Manifest) -> PartStatus:
    folder = Path(manifest.market.data)
    part = f"market {folder.name}"
    if not folder.is_dir():
        return PartStatus(part, True, f"not prepared here ({folder}); a resume prepares it again and compares its hash")
    try:
        verify_prepared(folder)
    except MtquantError as error:
        return PartStatus(part, False, f"{_first_line(error)}; a resume sets it aside and prepares it again")
    return PartStatus(part, True, "every array is as it was prepared")


def _and_cost(fault: str, cost: str) -> str:
    return f"{fault}; {cost}" if cost else fault


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
