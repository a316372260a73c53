"""Opens what decides: an exported folder, a run, an ensemble, or a checkpoint of a run.

An exported folder is opened by this package alone. The others belong to `training`, which is imported here and only
when one of them is asked for: Ray stays out of a process that decides from a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtquant_rllib.errors import RunError
from mtquant_rllib.serving.closes import Calendar
from mtquant_rllib.serving.exported_system import DOCUMENT, is_exported, open_system
from mtquant_rllib.serving.policies import DecidingPolicies

_CHECKPOINT = "checkpoint.json"
"""In the folder of a checkpoint of a run."""
_CALENDAR_SPLIT = "test"
"""Split whose bars are counted: those of a history from files are the same for every split."""


def open_deciding(path: str | Path, *, phase: int | None = None) -> DecidingPolicies:
    """The policies at a path; see `TradingSystem.from_checkpoint`."""
    folder = Path(path)
    if is_exported(folder):
        _refuse_phase(phase, "an exported folder")
        return open_system(folder)
    if (folder / _CHECKPOINT).is_file():
        _refuse_phase(phase, "a checkpoint")
        return _of_checkpoint(folder)
    if folder.is_dir() and (folder / "policy.json").is_file():
        raise RunError(
            f"{folder}: this folder holds policies without what deciding needs; expected one that `mtquant export RUN` "
            "wrote"
        )
    return of_run(path, phase=phase)


def _refuse_phase(phase: int | None, what: str) -> None:
    if phase is not None:
        raise RunError(f"phase {phase}: {what} holds the policies of one phase; name its run to choose another")


def of_run(run: str | Path, *, phase: int | None = None) -> DecidingPolicies:
    """The policies of a run or of an ensemble after a phase, by default the newest that is done."""
    from mtquant_rllib.training.inspection.opened_policies import OpenedRun, open_policies
    from mtquant_rllib.training.records.manifest_file import is_run
    from mtquant_rllib.training.records.run_names import existing_run
    from mtquant_rllib.training.search.record import is_sweep

    folder = existing_run(run)
    if not is_run(folder) and not is_sweep(folder):
        raise RunError(
            f"{folder}: nothing here decides; expected a run, an ensemble, a checkpoint of a run, or a folder with "
            f"{DOCUMENT} that `mtquant export RUN` wrote"
        )
    opened: OpenedRun = open_policies(folder, _CALENDAR_SPLIT, phase=phase)
    return DecidingPolicies(
        opened.settings,
        tuple(opened.members),
        equal_allocation=opened.phase == 1 and not opened.settings.universe.allocates,
        calendar=Calendar.of(opened.data.execution),
        source={
            "run": opened.run.name,
            "phase": opened.phase,
            "seeds": [manifest.seed for manifest in opened.manifests],
            "market": dict(opened.market),
        },
    )


def _of_checkpoint(folder: Path) -> DecidingPolicies:
    from mtquant_rllib.training.inspection.opened_checkpoint import open_checkpoint

    found = open_checkpoint(folder, _CALENDAR_SPLIT)
    return DecidingPolicies(
        found.settings,
        (found.states,),
        equal_allocation=found.phase == 1 and not found.settings.universe.allocates,
        calendar=Calendar.of(found.data.execution),
        source={
            "run": found.run.name,
            "phase": found.phase,
            "checkpoint": f"{found.trial}/{folder.name}",
            "bars": found.bars,
            "seeds": [found.seed],
        },
    )


def members_of(run: str | Path) -> Sequence[Path]:
    """The run itself, or the members of an ensemble."""
    from mtquant_rllib.training.records.run_names import existing_run
    from mtquant_rllib.training.search import record

    folder = existing_run(run)
    return record.members_of(folder) if record.is_sweep(folder) else (folder,)
