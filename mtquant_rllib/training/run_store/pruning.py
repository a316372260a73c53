"""What of a run may be removed to make room, and its removal: checkpoints, module states and records that no resume,
evaluation or export needs.

A folder is removed only where it bears this project's mark (`checkpoint.json` of this run, or an `index.json` of module
states), lies in the run with no symbolic link on the way, and only while nobody trains the run. The newest whole
checkpoint of a phase that is not done always stays: the run goes on from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtquant_rllib import durable
from mtquant_rllib.errors import ConfigError, MtquantError, RunError
from mtquant_rllib.training.curriculum.phases import LAST, TrialPlan, at_bars, plan_phase
from mtquant_rllib.training.inspection.opened_run import opened
from mtquant_rllib.training.records import checkpoints, module_states, ownership
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.run_store.checkpoint_survey import Surveyed, surveyed, trial_folder
from mtquant_rllib.training.run_store.overview import size_of
from mtquant_rllib.training.run_store.verification import verify_states
from mtquant_rllib.training.storage import exclusive_access, mirror, run_lock

_BARS = re.compile(r"bars_\d{9}")
_TUNE = ("experiment_state-*.json", "basic-variant-state-*.json")
"""Tune's records of an attempt, which this project never reads back; the newest stays for whoever wants to look."""


@dataclass(frozen=True)
class Removable:
    """Something that may go."""

    path: Path
    why: str
    bytes: int


@dataclass
class PruningPlan:
    """What may go, and what was left alone although it looks as if it might, with the reason."""

    removable: list[Removable] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.removable)


def prune_run(run: Path, *, keep: int | None = None, remove: bool = False) -> PruningPlan:
    """Find what may go, and with `remove` remove it.

    Parameters
    ----------
    keep
        Newest whole checkpoints of each trial that stay. By default the run's `checkpoints.keep`, and none of a phase
        that is done.

    Raises
    ------
    RunError
        When the folder is no run, or the run is being trained.
    """
    if keep is not None and keep < 0:
        raise ConfigError(f"--keep {keep}: expected 0 or more checkpoints")
    manifest, _ = opened(run)
    if (holder := run_lock.holder(run)) is not None:
        raise RunError(f"{run}: {holder} trains this run at this moment, and removes old checkpoints itself")
    if not remove:
        return _plan(run, manifest, keep)
    with exclusive_access.held(run, print):
        plan = _plan(run, opened(run)[0], keep)
        for item in plan.removable:
            _remove(run, item)
    return plan


def _plan(run: Path, manifest: Manifest, keep: int | None) -> PruningPlan:
    settings, plan = manifest.load_settings(), PruningPlan()
    for number in sorted(map(int, manifest.phases)):
        record = manifest.phase(number)
        done = record.status == "done"
        if done and (fault := _result_fault(run, record.result)) is not None:
            plan.left_alone.append(f"phase {number}: {fault}; its checkpoints and states may be the only copy")
            continue
        for trial in (plan for plan in plan_phase(settings, number) if plan.name in record.trials):
            stay = (settings.checkpoints.keep if keep is None and not done else keep) or 0
            found = list(surveyed(run, manifest, number, trial.name))
            staying = _staying(found, stay, done)
            _plan_checkpoints(plan, run, manifest, found, staying, done)
            _plan_states(plan, run, manifest, trial, staying, done)
        for pattern in _TUNE:
            for path in sorted((run / record.experiment).glob(pattern))[:-1]:
                if path.is_file():
                    _add(plan, run, path, "an old record of Tune's, which is never read back")
    for path in _half_written(run, manifest):
        _add(plan, run, path, "half-written by a process that is gone")
    return plan


def _result_fault(run: Path, result: str | None) -> str | None:
    if result is None:
        return "it names no policies that it handed over"
    return next((f"{result} is damaged ({one.said})" for one in verify_states(run, result) if not one.whole), None)


def _staying(found: list[Surveyed], keep: int, done: bool) -> list[Surveyed]:
    """Whole checkpoints that stay; one at least of a trial that may have to go on."""
    whole = [one for one in found if one.index is not None and one.own]
    return whole[: keep if done else max(keep, 1)]


def _plan_checkpoints(
    plan: PruningPlan, run: Path, manifest: Manifest, found: list[Surveyed], staying: list[Surveyed], done: bool
) -> None:
    for one in found:
        if one in staying:
            continue
        name = one.path.relative_to(run)
        if not _marked(one.path, manifest):
            plan.left_alone.append(f"{name}: it has no {checkpoints.INDEX} of this run")
        elif one.index is not None and not one.own:
            plan.left_alone.append(f"{name}: another trial wrote it")
        elif not done and not staying:
            plan.left_alone.append(f"{name}: damaged, but no checkpoint of this trial is whole")
        else:
            old = (
                f"checkpoint older than the {len(staying)} that stay"
                if staying
                else "checkpoint of a phase that is done"
            )
            _add(plan, run, one.path, "damaged checkpoint" if one.index is None else old)


def _marked(path: Path, manifest: Manifest) -> bool:
    try:
        return checkpoints.read_index(path).run == manifest.id
    except MtquantError:
        return False


def _plan_states(
    plan: PruningPlan, run: Path, manifest: Manifest, trial: TrialPlan, staying: list[Surveyed], done: bool
) -> None:
    """Module states that are neither last nor the best as of any checkpoint that the trial may go on from."""
    record, folder = manifest.phase(trial.phase).trials[trial.name], run / trial.folder
    needed = {Path(name).name for name in (record.best, record.last, LAST) if name is not None}
    reached = record.bars
    if not done:
        going_on = [one.index for one in staying if one.index is not None]
        if not going_on:
            return
        needed |= {at_bars(int(index.result["best"]["bars"])) for index in going_on if "bars" in index.result["best"]}
        reached = going_on[0].bars
    for path in sorted(folder.glob("bars_*")) if folder.is_dir() else ():
        if path.name in needed or not _BARS.fullmatch(path.name) or path.name > at_bars(reached):
            continue
        if not (path / module_states.INDEX).is_file():
            plan.left_alone.append(f"{path.relative_to(run)}: it has no {module_states.INDEX}")
        else:
            _add(plan, run, path, "module states that are neither best nor last")


def _half_written(run: Path, manifest: Manifest) -> Iterator[Path]:
    folders = {run, run / "policies", run / "curves"}
    for number, record in manifest.phases.items():
        for trial in record.trials:
            folders |= {trial_folder(run, manifest, int(number), trial), run / f"phase_{number}" / "modules" / trial}
    for folder in sorted(folders):
        if folder.is_dir():
            yield from (path for path in sorted(folder.glob(f"{durable.HALF}*")) if durable.left_behind(path))


def _add(plan: PruningPlan, run: Path, path: Path, why: str) -> None:
    real, base = path.resolve(), run.resolve()
    if path.is_symlink() or real != base / path.relative_to(run):
        plan.left_alone.append(f"{path.relative_to(run)}: a symbolic link stands on the way to it")
        return
    plan.removable.append(Removable(real, why, size_of(real)))


def _remove(run: Path, item: Removable) -> None:
    if item.path.is_dir():
        ownership.remove_own(item.path, run)
        mirror.remove_remote(item.path)
        return
    with durable.named_errors(item.path):
        ownership.within(run, item.path).unlink(missing_ok=True)
        mirror.remove_remote(item.path)
