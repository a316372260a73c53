"""Finds the checkpoint that a trial resumes from: the newest that is whole, its own, and may be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.curriculum.attempt import Attempt
from mtquant_rllib.training.curriculum.phases import TrialPlan, at_bars
from mtquant_rllib.training.records import module_states, ownership
from mtquant_rllib.training.records.checkpoints import Checkpoint
from mtquant_rllib.training.records.signatures import KEY_VARIABLE, key_file
from mtquant_rllib.training.reporting.result_files import curve_of, mend, rows_of_results
from mtquant_rllib.training.run_store.checkpoint_survey import surveyed


@dataclass(frozen=True)
class ResumableTrial:
    """A trial's checkpoints that it may resume from: names, newest first, and the index of the newest."""

    names: list[str]
    newest: Checkpoint | None

    @property
    def finished(self) -> bool:
        return self.newest is not None and self.newest.finished


def resumable(attempt: Attempt, plan: TrialPlan) -> ResumableTrial:
    """The trial's checkpoints of this run, newest first; damaged ones are told of.

    Raises
    ------
    RunError
        When there are some, and none that is whole and may be loaded: beginning again would throw the work away, which
        is the person's to decide.
    """
    found = list(surveyed(attempt.run, attempt.manifest, plan.phase, plan.name))
    damaged = [one for one in found if one.index is None]
    for one in damaged:
        attempt.tell(f"damaged checkpoint, not used: {one.path}: {one.fault}")
    loadable = [one for one in found if one.own and (one.signed or attempt.trusted)]
    newest = loadable[0].index if loadable else None
    if newest is None and len(damaged) < len(found):
        strange, own = next((one.path, one.own) for one in found if one.index is not None)
        if not own:
            raise RunError(
                f"{strange}: this is a checkpoint of another run or trial, and phase {plan.phase} {plan.name} has none "
                f"of its own; {_ways_out(attempt, plan, 'one of them')}"
            )
        raise RunError(
            f"{strange}: this checkpoint was not signed by you (its run was begun by somebody else, or on another "
            "machine, or the file was changed). Checkpoints hold pickles, which run code when they are loaded. If it "
            f"is yours, bring the key of the machine that wrote it ({key_file()}, or ${KEY_VARIABLE}); if you trust "
            "whoever wrote it, resume with --trust"
        )
    if newest is None and damaged:
        raise RunError(
            f"phase {plan.phase} {plan.name}: none of its {len(damaged)} checkpoints is whole ({damaged[0].path}: "
            f"{damaged[0].fault}); {_ways_out(attempt, plan, 'one of them')}"
        )
    for one in found:
        if one.index is not None and one not in loadable:
            attempt.tell(f"checkpoint not used: {one.path} was not signed by you, or is another trial's")
    if newest is not None:
        _expect_best(attempt, plan, newest)
    curve = curve_of(attempt.run, plan.phase, plan.name)
    if newest is not None:
        known = rows_of_results(trial_folder_of(attempt, plan) / "result.json")
        known |= {one.index.iteration: one.index.row for one in loadable if one.index is not None and one.index.row}
        if said := mend(curve, known, newest.iteration):
            attempt.tell(said)
    elif curve.exists():
        attempt.tell(f"phase {plan.phase} {plan.name}: no checkpoint is left of it; it begins again at bar 0")
    return ResumableTrial([one.path.name for one in loadable], newest)


def _ways_out(attempt: Attempt, plan: TrialPlan, what: str) -> str:
    folder = trial_folder_of(attempt, plan)
    return f"bring a copy of {what} back, or remove {folder} to begin this trial again at bar 0"


def _expect_best(attempt: Attempt, plan: TrialPlan, newest: Checkpoint) -> None:
    """Raises RunError when the module states that were best so far are gone: the phase could not hand them on."""
    best = newest.result.get("best", {})
    if "bars" not in best:
        return
    folder = attempt.run / plan.folder / at_bars(int(best["bars"]))
    try:
        module_states.index(folder)
    except RunError as error:
        raise RunError(
            f"phase {plan.phase} {plan.name}: its best module states so far are gone or damaged, and could not be "
            f"handed over ({error}); {_ways_out(attempt, plan, str(folder))}"
        ) from error


def trial_folder_of(attempt: Attempt, plan: TrialPlan) -> Path:
    """Tune's folder of the trial: checkpoints, progress, logs."""
    return ownership.within(attempt.run, attempt.run / attempt.manifest.phase(plan.phase).experiment / plan.name)
