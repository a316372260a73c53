"""Artifacts of a run, and how they hang together: market -> trial -> policies -> next phase's trial -> evaluation.

What a run uses is logged with its content and marked as used: W&B knows it again by its digest, so that lineage needs
no server while a run is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtquant_rllib.training.curriculum.phases import TrialPlan, plan_phase
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.weights_and_biases.identity import run_id

BEST = "best"
_ID_SHOWN = 8


def market_name(manifest: Manifest) -> str:
    return f"market-{manifest.market.content}"


def policies_name(manifest: Manifest, trial: str) -> str:
    """Of the collection of a trial's policies; the phases are its versions."""
    return f"{manifest.name}-{run_id(manifest)[:_ID_SHOWN]}-{trial}"


def evaluation_name(manifest: Manifest, folder: str) -> str:
    return f"{manifest.name}-{run_id(manifest)[:_ID_SHOWN]}-evaluation-{folder}"


def market(manifest: Manifest) -> Any:
    """What was traded: names and hashes, not the bars, which may be nobody's to pass on."""
    import wandb

    record = manifest.market
    facts = {
        "kind": record.kind,
        "content": record.content,
        "arrays": record.arrays,
        "bars": record.bars and Path(record.bars).name,
        "macro": record.macro and Path(record.macro).name,
    }
    made = wandb.Artifact(market_name(manifest), type="dataset", metadata=facts)
    with made.new_file("market.json") as file:
        json.dump(facts, file, indent=1, sort_keys=True, allow_nan=False)
    return made


def policies(run: Path, manifest: Manifest, plan: TrialPlan) -> Any | None:
    """The best states of the modules that a trial taught, as its phase handed them on; None where it has not yet."""
    import wandb

    record = manifest.phase(plan.phase)
    if record.status != "done" or record.result is None or not module_states.exists(run / record.result):
        return None
    trial, folder = record.trials[plan.name], run / record.result
    hashes = module_states.index(folder)["modules"]
    taught = [module for module in plan.learning if module in hashes]
    made = wandb.Artifact(
        policies_name(manifest, plan.name),
        type="model",
        metadata={
            "phase": plan.phase,
            "trial": plan.name,
            "validation_sharpe": trial.best_sharpe,
            "bars": trial.best_bars,
            "modules": {module: hashes[module] for module in taught},
        },
    )
    for module in taught:
        made.add_file(str(folder / f"{module}.npz"), name=f"{module}.npz")
    return made


def aliases(manifest: Manifest, plan: TrialPlan) -> list[str]:
    """`phase_N` and `latest`, and `best` where no other phase so far brought this trial's collection a better
    validation."""
    named = [f"phase_{plan.phase}", "latest"]
    own = manifest.phase(plan.phase).trials[plan.name].best_sharpe
    others = [
        record.trials[plan.name].best_sharpe
        for number, record in manifest.phases.items()
        if int(number) < plan.phase and record.status == "done" and plan.name in record.trials
    ]
    scores = [score for score in others if score is not None]
    if not scores or (own is not None and own > max(scores)):
        named.append(BEST)
    return named


def handed_over(manifest: Manifest, phase: int) -> list[TrialPlan]:
    """The trials whose policies a phase begins with; none for the first."""
    if str(phase - 1) not in manifest.phases or manifest.phase(phase - 1).status != "done":
        return []
    trials = manifest.phase(phase - 1).trials
    return [plan for plan in plan_phase(manifest.load_settings(), phase - 1) if plan.name in trials]


def use(wandb_run: Any, artifact: Any, named: list[str]) -> None:
    """Mark an artifact as one that a run used. What `Run.use_artifact` does with a draft, which it refuses offline
    although the record it writes is read by `wandb sync`."""
    wandb_run._log_artifact(artifact, aliases=named, is_user_created=True, use_after_commit=True)
