"""What a phase hands over to the next: the best state of every module, in a folder of its own, and the proof that what
was frozen has not moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.curriculum.phases import LAST, TrialPlan, at_bars, budget_bars
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import FrozenRecord, Manifest, PhaseRecord, TrialRecord
from mtquant_rllib.training.result_keys import BARS_LIFETIME, SHARPE


def predecessor(manifest: Manifest, phase: int) -> str:
    """Folder of the policies that a phase begins with, relative to the run's."""
    result = manifest.phase(phase - 1).result
    if result is None:
        raise RunError(f"phase {phase} begins with the policies of phase {phase - 1}, which is not done in this run")
    return result


def begin_phase(run: Path, manifest: Manifest, phase: int, plans: list[TrialPlan]) -> None:
    """Record which trials a phase has and what they begin with, where it has not begun yet."""
    record = manifest.phase(phase)
    if record.status != "pending":
        return
    settings = manifest.load_settings()
    record.start = None if phase == 1 else predecessor(manifest, phase)
    record.trials = {
        plan.name: TrialRecord(budget_bars=budget_bars(settings, plan, manifest.budget_scale)) for plan in plans
    }
    record.status = "running"
    manifest.write(run)


def _record_trial(run: Path, trial: TrialRecord, plan: TrialPlan, metrics: dict[str, Any]) -> None:
    trial.bars = metrics[BARS_LIFETIME]
    trial.last = f"{plan.folder}/{LAST}"
    best = metrics["best"]
    if "bars" in best:
        trial.best_sharpe, trial.best_bars = float(best[SHARPE]), int(best["bars"])
        trial.best = f"{plan.folder}/{at_bars(int(best['bars']))}"
    else:
        trial.best = trial.last
    trial.hashes = module_states.index(run / trial.best)["modules"]


def hand_over(run: Path, phase: int, record: PhaseRecord, plans: list[TrialPlan], results: dict[str, Any]) -> None:
    """Record what the trials came to, copy their best states and prove what was frozen. May be done again."""
    for plan in plans:
        _record_trial(run, record.trials[plan.name], plan, results[plan.name])
    record.result = f"policies/phase_{phase}"
    _copy_best(run, record, plans)
    for plan in plans:
        if plan.frozen:
            record.frozen = _prove_frozen(run, record, plan)


def _copy_best(run: Path, record: PhaseRecord, plans: list[TrialPlan]) -> None:
    """Copy the best states of all trials into one folder that does not depend on theirs.

    A module that did not learn is handed over as it came: with the value network or the critics of the phase
    that it learned in, whatever this one's algorithm was.
    """
    assert record.result is not None
    modules: dict[str, Any] = {}
    for plan in plans:
        folder = record.trials[plan.name].best
        assert folder is not None
        modules |= module_states.read(run / folder, plan.modules)
    frozen = [name for name in modules if not any(name in plan.learning for plan in plans)]
    if frozen:
        assert record.start is not None
        modules |= module_states.read(run / record.start, frozen)
    module_states.write(run / record.result, modules, run=run, phase=plans[0].phase)


def _prove_frozen(run: Path, record: PhaseRecord, plan: TrialPlan) -> FrozenRecord:
    """Hashes of the policies of the modules that were not to learn, as handed over and as they left. Raises RunError if
    one differs."""
    assert record.start is not None
    assert record.result is not None
    frozen = plan.frozen
    before = module_states.read(run / record.start, frozen)
    proof = FrozenRecord(
        before={module: module_states.sha256(module_states.acting(state)) for module, state in before.items()}, after={}
    )
    for folder in (record.trials[plan.name].last, record.result):
        modules = module_states.read(run / str(folder), frozen)
        proof.after = {module: module_states.sha256(module_states.acting(state)) for module, state in modules.items()}
        changed = [module for module in frozen if proof.after[module] != proof.before[module]]
        if changed:
            raise RunError(
                f"{', '.join(changed)} changed while only {', '.join(plan.learning)} was to learn ({folder})"
            )
    return proof
