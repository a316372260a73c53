"""One phase as a Tune experiment: its trials side by side, each going on from its newest whole checkpoint.

Every stretch of a run starts a new experiment in the phase's folder and never reads Tune's records of the one before:
what is finished, and where the rest goes on, stands in the trials' checkpoints. So the settings of a stretch are those
that it was started with, its count of failures begins at none, and a record that Tune was killed while writing costs
nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError, TrainingFailed
from mtquant_rllib.training.desk_algorithm import FAILURE
from mtquant_rllib.training.inspection.checkpoint_survey import surveyed
from mtquant_rllib.training.node_watch import LostNodes, SessionLost, Waiting
from mtquant_rllib.training.phases import TRIAL, TrialPlan, build_config
from mtquant_rllib.training.placement.planner import Placement, placed
from mtquant_rllib.training.records import checkpoints, ownership, patience, trust
from mtquant_rllib.training.records.checkpoints import Checkpoint
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.fallback_lines import FallbackLines
from mtquant_rllib.training.reporting.progress import Progress
from mtquant_rllib.training.reporting.result_files import (
    Curves,
    ProgressCSV,
    ResultJson,
    TensorBoard,
    curve_of,
    mend,
)
from mtquant_rllib.training.reporting.wandb_tracker import WandB
from mtquant_rllib.training.session.autoscaling import wait_for_nodes
from mtquant_rllib.training.session.interruption import Interruption
from mtquant_rllib.training.session.ray_seams import results_forgotten
from mtquant_rllib.training.session.ray_session import Machines
from mtquant_rllib.training.trial import NODES, PHASE, RESOURCES, RESUMABLE, RUN, STRETCH, PhaseTrial

logger = logging.getLogger("mtquant_rllib.training")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Stretch:
    """What one stretch of a run is started with, for all its phases."""

    run: Path
    manifest: Manifest
    machines: Machines
    interruption: Interruption
    trusted: bool
    """Load checkpoints that do not bear this user's signature."""
    tell: Tell


@dataclass(frozen=True)
class Found:
    """A trial's checkpoints that may be gone on from: names, newest first, and the index of the newest."""

    names: list[str]
    newest: Checkpoint | None

    @property
    def finished(self) -> bool:
        return self.newest is not None and self.newest.finished


def fit(stretch: Stretch, phase: int, plans: list[TrialPlan]) -> dict[str, dict[str, Any]]:
    """Train the phase's trials to their end; `desk_algorithm.summary` of each.

    Raises
    ------
    ConfigError
        When a setting cannot be honoured, before anything starts.
    RunError
        When checkpoints are damaged or were written by somebody else.
    TrainingFailed
        When a trial failed for good, or storage stayed away.
    Interrupted
        When a signal asked for an end.
    """
    manifest = stretch.manifest
    settings, record = manifest.load_settings(), manifest.phase(phase)
    while True:
        found = {plan.name: resumable(stretch, plan) for plan in plans}
        for name, trial in found.items():
            if trial.newest is not None and not trial.newest.finished:
                stretch.tell(f"phase {phase} {name}: goes on from {trial.names[0]}, {trial.newest.bars:,} bars")
        left = [plan for plan in plans if not found[plan.name].finished]
        if not left:
            break
        trust.user_key()  # made, or refused, before anything starts
        placement = _placed(stretch, settings, phase, [plan.name for plan in left])
        for plan in left:
            build_config(plan, manifest, placement.resources)
        for line in placement.table():
            stretch.tell(f"phase {phase} on {line}")
        if placement.resources.gpus and not torch.backends.cuda.is_built():
            stretch.tell(
                f"phase {phase}: torch {torch.__version__} is built without CUDA and learns on CPUs; on every node: "
                "pip install torch for its CUDA (https://pytorch.org/get-started/locally)"
            )
        config = {
            RUN: str(stretch.run),
            PHASE: phase,
            STRETCH: secrets.token_hex(8),
            RESUMABLE: {plan.name: found[plan.name].names for plan in left},
            RESOURCES: asdict(placement.resources),
            NODES: {plan.name: placement.nodes_of(plan.name) for plan in left},
        }
        if _fit(stretch, settings, record.experiment, config, placement):
            break
    return {plan.name: _end_of(stretch, plan) for plan in plans}


def _placed(stretch: Stretch, settings: Settings, phase: int, trials: list[str]) -> Placement:
    """The trials on the nodes there are, and on those that the autoscaler has started for them."""
    resources, nodes = settings.resources, stretch.machines.nodes()
    wanted = placed(resources, phase, trials, [*nodes, *stretch.machines.startable()])
    missing = wanted.to_be_started()
    if not missing:
        return wanted

    def stop() -> None:
        stretch.interruption.raise_if_asked(f"carry it on with `mtquant resume {stretch.run}`")

    started = wait_for_nodes(
        stretch.machines.nodes,
        [*nodes, *missing],
        resources.worker_start_seconds,
        lambda text: stretch.tell(f"phase {phase} {text}"),
        stop,
    )
    if not started:
        stretch.tell(
            f"phase {phase} begins on what there is: not all nodes were started within resources.worker_start_seconds "
            f"= {resources.worker_start_seconds:g}"
        )
    return placed(resources, phase, trials, stretch.machines.nodes())


def resumable(stretch: Stretch, plan: TrialPlan) -> Found:
    """The trial's checkpoints of this run, newest first; damaged ones are told of.

    Raises
    ------
    RunError
        When there are some, and none that is whole and may be loaded: beginning again would throw the work away, which
        is the person's to decide.
    """
    found = list(surveyed(stretch.run, stretch.manifest, plan.phase, plan.name))
    damaged = [one for one in found if one.index is None]
    for one in damaged:
        stretch.tell(f"damaged checkpoint, not used: {one.path}: {one.fault}")
    loadable = [one for one in found if one.own and (one.signed or stretch.trusted)]
    newest = loadable[0].index if loadable else None
    if newest is None and len(damaged) < len(found):
        strange = next(one.path for one in found if one.index is not None)
        raise RunError(
            f"{strange}: this checkpoint was not signed by you (its run was begun by somebody else, or on another "
            "machine, or the file was changed). Checkpoints hold pickles, which run code when they are loaded. If you "
            "trust whoever wrote it, resume with --trust"
        )
    if newest is None and damaged:
        raise RunError(
            f"phase {plan.phase} {plan.name}: none of its {len(damaged)} checkpoints is whole ({damaged[0].path}: "
            f"{damaged[0].fault}); bring a copy back, or remove {_folder(stretch, plan)} to begin this trial again at "
            "bar 0"
        )
    for one in found:
        if one.index is not None and one not in loadable:
            stretch.tell(f"checkpoint not used: {one.path} was not signed by you, or is another trial's")
    curve = curve_of(stretch.run, plan.phase, plan.name)
    if newest is not None:
        known = {one.index.iteration: one.index.row for one in loadable if one.index is not None}
        if said := mend(curve, known, newest.iteration):
            stretch.tell(said)
    elif curve.exists():
        stretch.tell(f"phase {plan.phase} {plan.name}: no checkpoint is left of it; it begins again at bar 0")
    return Found([one.path.name for one in loadable], newest)


def _folder(stretch: Stretch, plan: TrialPlan) -> Path:
    return ownership.within(stretch.run, stretch.run / stretch.manifest.phase(plan.phase).experiment / plan.name)


def _fit(stretch: Stretch, settings: Settings, experiment: str, config: dict[str, Any], placement: Placement) -> bool:
    """Run the experiment. False when it has to begin anew: storage went away under Tune itself, and is back, or a node
    that trials were bound to is gone."""
    # The signals are answered here (`interruption`).
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    keep = settings.checkpoints
    stretch.interruption.begin_anew()
    tuner = tune.Tuner(
        PhaseTrial,
        param_space={**config, TRIAL: tune.grid_search(list(config[NODES]))},
        tune_config=tune.TuneConfig(
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
            max_concurrent_trials=placement.side_by_side,
        ),
        run_config=tune.RunConfig(
            name=experiment,
            storage_path=str(stretch.run),
            stop=stretch.interruption,
            failure_config=tune.FailureConfig(max_failures=keep.max_failures),
            # How many are kept is the trial's own business: Tune knows those of this stretch alone.
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=None, checkpoint_frequency=keep.every_updates, checkpoint_at_end=True
            ),
            callbacks=_callbacks(stretch, settings, config[PHASE], placement),
            verbose=0,
        ),
    )
    try:
        with results_forgotten():
            grid = tuner.fit()
    except SessionLost as error:
        raise TrainingFailed(
            f"phase {config[PHASE]}: {error}; carry it on with `mtquant resume {stretch.run}`"
        ) from error
    except Exception as error:
        trouble = _storage_error(error)
        if trouble is None:
            raise
        stretch.tell(f"storage: {patience.reason(trouble)}; waiting for it")
        patience.patiently(
            lambda: _probe(stretch.run), f"the run's folder {stretch.run}", keep.storage_patience_seconds
        )
        return False
    results = [grid[number] for number in range(len(grid))]
    for result in results:
        if result.metrics and FAILURE in result.metrics:
            raise TrainingFailed(
                f"phase {config[PHASE]} {result.metrics[TRIAL]}: {result.metrics[FAILURE]}; its newest checkpoint is "
                "the last good one"
            )
    failed = [result for result in results if result.error is not None]
    if failed:
        name = Path(failed[0].path).name
        raise TrainingFailed(
            f"phase {config[PHASE]} {name} failed: {_last_line(failed[0].error)}\n  its folder: {failed[0].path}\n"
            f"  once the cause is gone: mtquant resume {stretch.run}"
        )
    return not stretch.interruption.node_lost


def _probe(run: Path) -> None:
    probe = run / ".probe"
    probe.write_bytes(b"x" * 4096)
    probe.unlink()


def _storage_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind an exception, if that is what it comes from."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _callbacks(stretch: Stretch, settings: Settings, phase: int, placement: Placement) -> list[tune.Callback]:
    run, tracking, waits = stretch.run, settings.tracking, settings.checkpoints.storage_patience_seconds
    watchers: list[tune.Callback] = [
        Signing(),
        Ends(stretch.interruption),
        LostNodes(phase, placement, stretch.machines, stretch.interruption, stretch.tell),
        Waiting(phase, placement, stretch.machines, stretch.tell),
        Curves(run, phase, waits),
        Progress(run, phase, tracking.progress_seconds),
        FallbackLines(phase, tracking.fallback_seconds),
        ProgressCSV(waits),
        ResultJson(waits),
        TensorBoard(waits),
    ]
    if tracking.wandb:
        watchers.append(WandB(run, stretch.manifest.id or run.name, phase, tracking.wandb_project))
    return watchers


class Signing(tune.Callback):
    """Signs every checkpoint that a trial of this stretch reports and could not sign where it ran."""

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        # The key is read each time: an attribute would be pickled into Tune's records.
        path, key = Path(checkpoint.path), trust.user_key()
        if not trust.is_ours(path, key):
            trust.sign(path, key)


class Ends(tune.Callback):
    """Tells the interruption which trials run no more."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._interruption.ended(trial.trial_id)

    on_trial_error = on_trial_recover = on_trial_complete


def _end_of(stretch: Stretch, plan: TrialPlan) -> dict[str, Any]:
    """The summary of a trial that is finished.

    Raises
    ------
    Interrupted, RunError
        When it is not.
    """
    folder, resume = _folder(stretch, plan), f"carry it on with `mtquant resume {stretch.run}`"
    there = checkpoints.listed(folder)
    newest = checkpoints.read_index(there[0]) if there else None
    if newest is not None and newest.finished:
        return newest.result
    bars = newest.bars if newest is not None else 0
    budget = stretch.manifest.phase(plan.phase).trials[plan.name].budget_bars
    where = (
        f"phase {plan.phase} {plan.name} has a checkpoint at {bars:,} of {budget:,} bars" if bars else "no bars lost"
    )
    stretch.interruption.raise_if_asked(f"{where}; {resume}")
    raise RunError(f"phase {plan.phase} {plan.name} was stopped after {bars:,} of {budget:,} bars; {resume}")


def _name_of(trial: Any) -> str:
    return str(trial.config[TRIAL])


def _last_line(error: BaseException | None) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)
