"""What a trial of a population hands over to others at the end of a round: checkpoints and best states of its runs.

    SWEEP/handover/round_1/trial_03/seed_0/forex/{checkpoint, best}

Copied when the round is decided, while every trial stands still: the trial that hands over trains on, and removes old
checkpoints of its own, before the ones that take over have found a place to run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mtquant_rllib import durable
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.curriculum.phases import at_bars, plan_phase
from mtquant_rllib.training.records import ownership
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.run_store.checkpoint_survey import newest_whole

FOLDER = "handover"
_CHECKPOINT, _BEST = "checkpoint", "best"


def folder_of(sweep: Path, number: int, trial: str, run: Path) -> Path:
    """What a run of a trial hands over at the end of round `number`."""
    return sweep / FOLDER / f"round_{number}" / trial / run.name.removeprefix(f"{trial}_")


def checkpoint_of(source: Path, plan: str) -> Path:
    return source / plan / _CHECKPOINT


def best_of(source: Path, plan: str) -> Path | None:
    """Best states so far; None where validation has found none yet."""
    folder = source / plan / _BEST
    return folder if folder.is_dir() else None


def keep(sweep: Path, number: int, trial: str, runs: list[Path]) -> None:
    """Copy what the runs of a trial hand over.

    Raises
    ------
    RunError
        When a run has no whole checkpoint.
    """
    for run in runs:
        place = folder_of(sweep, number, trial, run)
        _remove(sweep, place)
        half = durable.temporary_path(place)
        manifest = Manifest.read(run)
        phase = next(phase for phase in manifest.wanted if manifest.phase(phase).status != "done")
        for plan in plan_phase(manifest.load_settings(), phase):
            newest = newest_whole(run, manifest, phase, plan.name)
            if newest is None or newest.index is None:
                raise RunError(f"{run}: phase {phase} {plan.name} has no whole checkpoint to hand over")
            shutil.copytree(newest.path, half / plan.name / _CHECKPOINT)
            best = newest.index.result.get("best", {})
            if "bars" in best:
                shutil.copytree(run / plan.folder / at_bars(int(best["bars"])), half / plan.name / _BEST)
        os.rename(half, place)


def forget(sweep: Path, before: int | None = None) -> None:
    """Remove what was handed over, or what was in rounds before this one."""
    top = sweep / FOLDER
    for folder in sorted(top.glob("round_*")):
        if before is None or int(folder.name.removeprefix("round_")) < before:
            _remove(sweep, folder)
    if before is None:
        _remove(sweep, top)


def _remove(sweep: Path, folder: Path) -> None:
    """Remove a folder of what is handed over, which bears its mark in its name: it lies in the sweep's own FOLDER."""
    ownership.remove_own(folder, sweep, lambda path: FOLDER in path.relative_to(sweep.resolve()).parts)
