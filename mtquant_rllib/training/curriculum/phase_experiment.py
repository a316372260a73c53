"""One phase as a Tune experiment: its trials side by side, each going on from its newest whole checkpoint.

Every attempt of a run starts a new experiment in the phase's folder and never reads Tune's records of the one before:
what is finished, and where the rest goes on, stands in the trials' checkpoints. So the settings of an attempt are those
that it was started with, its count of failures begins at none, and a record that Tune was killed while writing costs
nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError, TrainingFailed
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.curriculum.attempt import Attempt
from mtquant_rllib.training.curriculum.node_callbacks import LostNodes, SessionLost, Waiting
from mtquant_rllib.training.curriculum.phases import TrialPlan, expect_trainable
from mtquant_rllib.training.curriculum.resumption import resumable
from mtquant_rllib.training.curriculum.storage_wait import StorageAway, StorageWait, storage_error
from mtquant_rllib.training.curriculum.trial import PhaseTrial, TrialContext
from mtquant_rllib.training.placement.planner import Placement, free_of, placed
from mtquant_rllib.training.records import ownership, signatures
from mtquant_rllib.training.records.checkpoints import INDEX, SIGNATURE
from mtquant_rllib.training.reporting.fallback_lines import FallbackLines
from mtquant_rllib.training.reporting.progress import Progress
from mtquant_rllib.training.reporting.result_files import (
    Curves,
    ProgressCSV,
    ResultJson,
)
from mtquant_rllib.training.reporting.trackers import expect_trackers, tracker_callbacks
from mtquant_rllib.training.reporting.utilization_line import UtilizationLine
from mtquant_rllib.training.result_keys import FAILURE, TRIAL
from mtquant_rllib.training.run_store.checkpoint_survey import newest_whole
from mtquant_rllib.training.session.autoscaling import wait_for_nodes
from mtquant_rllib.training.session.driver_memory import DriverMemory
from mtquant_rllib.training.session.interruption import Interruption
from mtquant_rllib.training.session.ray_internals import bounded_tune_memory
from mtquant_rllib.training.storage import mirror, retries

logger = logging.getLogger("mtquant_rllib.training")


def fit(attempt: Attempt, phase: int, plans: list[TrialPlan]) -> dict[str, dict[str, Any]]:
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
    manifest = attempt.manifest
    settings, record = manifest.load_settings(), manifest.phase(phase)
    patience_s = settings.checkpoints.storage_patience_seconds
    storage = StorageWait(attempt, f"phase {phase}", patience_s)
    while True:
        signatures.user_key()  # made, or refused, before anything starts
        ownership.refuse_links(attempt.run, record.experiment)
        _fetched(attempt, record.experiment, patience_s)
        found = {plan.name: resumable(attempt, plan) for plan in plans}
        for name, trial in found.items():
            if trial.newest is not None and not trial.newest.finished:
                attempt.tell(f"phase {phase} {name}: goes on from {trial.names[0]}, {trial.newest.bars:,} bars")
        left = [plan for plan in plans if not found[plan.name].finished]
        if not left:
            break
        bars = sum(trial.newest.bars for trial in found.values() if trial.newest is not None)
        storage.reached(bars)
        placement = place(attempt, settings, phase, [plan.name for plan in left])
        for plan in left:
            build_config(plan, manifest, placement.resources)
        for line in placement.table():
            attempt.tell(f"phase {phase} on {line}")
        if placement.resources.gpus and not torch.backends.cuda.is_built():
            attempt.tell(
                f"phase {phase}: torch {torch.__version__} is built without CUDA and learns on CPUs; on every node: "
                "pip install torch for its CUDA (https://pytorch.org/get-started/locally)"
            )
        context = TrialContext(
            run=str(attempt.run),
            phase=phase,
            trial="",
            address=mirror.address_of_run(attempt.run),
            attempt=secrets.token_hex(8),
            checkpoints={plan.name: found[plan.name].names for plan in left},
            resources=placement.resources,
            nodes={plan.name: placement.nodes_of(plan.name) for plan in left},
            allowed=attempt.readiness.allowed(),
            storage_patience_seconds=patience_s,
        )
        mirror.begin_attempt(attempt.run, context.attempt)
        try:
            if _fit(attempt, settings, record.experiment, context, placement):
                break
        except StorageAway as away:
            storage.wait(away)
    _fetched(attempt, record.experiment, patience_s)
    return {plan.name: _end_of(attempt, plan) for plan in plans}


def _fetched(attempt: Attempt, experiment: str, patience_s: float) -> None:
    """Pull what trials on nodes with another copy of the run wrote."""
    fetch = partial(mirror.pull, attempt.run / experiment)
    retries.with_retries(fetch, f"{attempt.name}/{experiment}", patience_s, action="read")


def check(attempt: Attempt, phase: int, plans: list[TrialPlan]) -> None:
    """Raises ConfigError when the phase's trials cannot be placed or trained as the settings want it: before the
    manifest has these settings."""
    settings = attempt.manifest.load_settings()
    expect_trainable(settings, phase)
    expect_trackers(settings)
    nodes = [*attempt.nodes(), *attempt.machines.startable()]
    placed(settings.resources, phase, [plan.name for plan in plans], nodes)


def place(attempt: Attempt, settings: Settings, phase: int, trials: list[str]) -> Placement:
    """The trials on the nodes there are, and on those that the autoscaler has started for them."""
    resources, nodes, free = settings.resources, attempt.nodes(), attempt.machines.free()
    wanted = placed(resources, phase, trials, [*nodes, *attempt.machines.startable()], free)
    missing = wanted.to_be_started()
    if not missing:
        return wanted

    def stop() -> None:
        attempt.interruption.raise_if_asked(f"carry it on with `mtquant resume {attempt.name}`")

    started = wait_for_nodes(
        attempt.machines.nodes,
        [*(free_of(node, free) for node in nodes), *missing],
        resources.worker_start_seconds,
        lambda text: attempt.tell(f"phase {phase} {text}"),
        stop,
    )
    if not started:
        attempt.tell(
            f"phase {phase} begins on what there is: not all nodes were started within resources.worker_start_seconds "
            f"= {resources.worker_start_seconds:g}"
        )
    return placed(resources, phase, trials, attempt.nodes(), attempt.machines.free())


def _fit(attempt: Attempt, settings: Settings, experiment: str, context: TrialContext, placement: Placement) -> bool:
    """Run the experiment. False when it has to begin anew: a node that trials were bound to is gone.

    Raises
    ------
    StorageAway
        When storage went away under Tune itself: the run's, or that of Ray's sessions.
    """
    # The signals are answered here (`interruption`).
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    keep = settings.checkpoints
    attempt.interruption.begin_anew()
    tuner = tune.Tuner(
        PhaseTrial,
        param_space=context.param_space(),
        tune_config=tune.TuneConfig(
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
            max_concurrent_trials=placement.side_by_side,
        ),
        run_config=tune.RunConfig(
            name=experiment,
            storage_path=str(attempt.run),
            stop=attempt.interruption,
            failure_config=tune.FailureConfig(max_failures=keep.max_failures),
            # How many are kept is the trial's own business: Tune knows those of this attempt alone.
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=None, checkpoint_frequency=keep.every_updates, checkpoint_at_end=True
            ),
            callbacks=_callbacks(attempt, settings, context.phase, placement),
            verbose=0,
        ),
    )
    try:
        results = fitted(tuner)
    except SessionLost as error:
        raise TrainingFailed(
            f"phase {context.phase}: {error}; carry it on with `mtquant resume {attempt.name}`"
        ) from error
    for result in results:
        if result.metrics and FAILURE in result.metrics:
            raise TrainingFailed(
                f"phase {context.phase} {result.metrics[TRIAL]}: {result.metrics[FAILURE]}; its newest checkpoint is "
                "the last good one"
            )
    failed = [result for result in results if result.error is not None]
    if failed:
        name = Path(failed[0].path).name
        raise TrainingFailed(
            f"phase {context.phase} {name} failed: {_last_line(failed[0].error)}\n  its folder: {failed[0].path}\n"
            f"  once the cause is gone: mtquant resume {attempt.name}"
        )
    return not attempt.interruption.node_lost


def fitted(tuner: tune.Tuner) -> list[Any]:
    """The results of an experiment's trials.

    Raises
    ------
    StorageAway
        When storage went away under Tune itself.
    SessionLost
        When every node is gone.
    """
    try:
        with bounded_tune_memory():
            grid = tuner.fit()
    except SessionLost:
        raise
    except Exception as error:
        trouble = storage_error(error)
        if trouble is None:
            raise
        raise StorageAway(trouble) from error
    return [grid[number] for number in range(len(grid))]


def _callbacks(attempt: Attempt, settings: Settings, phase: int, placement: Placement) -> list[tune.Callback]:
    run, tracking, waits = attempt.run, settings.tracking, settings.checkpoints.storage_patience_seconds
    watchers: list[tune.Callback] = [
        SignCheckpoints(run / attempt.manifest.phase(phase).experiment),
        Ends(attempt.interruption),
        LostNodes(phase, placement, attempt.machines, attempt.interruption, attempt.tell),
        Waiting(phase, placement, attempt.machines, attempt.tell),
        Curves(run, phase, waits),
        Progress(run, phase, tracking.progress_seconds),
        FallbackLines(phase, tracking.fallback_seconds),
        UtilizationLine(phase, placement, tracking.gpu_percent_wanted, attempt.tell),
        ProgressCSV(waits),
        ResultJson(waits),
        DriverMemory(),
    ]
    return [*watchers, *tracker_callbacks(settings, run, phase)]


class SignCheckpoints(tune.Callback):
    """Signs every checkpoint that a trial of this attempt reports and could not sign where it ran."""

    def __init__(self, experiment: Path) -> None:
        self._experiment = experiment

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        # The key is read each time: an attribute would be pickled into Tune's records.
        path, key = self._experiment / trial.config[TRIAL] / Path(checkpoint.path).name, signatures.user_key()
        if path.exists():
            if not signatures.is_ours(path, key):
                signatures.sign(path, key)
                mirror.push(path / SIGNATURE)
        elif (index := mirror.read_remote(path / INDEX)) is not None:
            # It lies in the object store alone, and on the node that wrote it.
            mirror.write_remote(path / SIGNATURE, signatures.signature_of(index, key))


class Ends(tune.Callback):
    """Tells the interruption which trials have ended."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._interruption.ended(trial.trial_id)

    on_trial_error = on_trial_recover = on_trial_complete


def _end_of(attempt: Attempt, plan: TrialPlan) -> dict[str, Any]:
    """The summary of a trial that is finished.

    Raises
    ------
    Interrupted, RunError
        When it is not.
    """
    resume = f"carry it on with `mtquant resume {attempt.name}`"
    found = newest_whole(attempt.run, attempt.manifest, plan.phase, plan.name, indexes_alone=True)
    newest = found.index if found is not None else None
    if newest is not None and newest.finished:
        return newest.result
    bars = newest.bars if newest is not None else 0
    budget = attempt.manifest.phase(plan.phase).trials[plan.name].budget_bars
    where = (
        f"phase {plan.phase} {plan.name} has a checkpoint at {bars:,} of {budget:,} bars" if bars else "no bars lost"
    )
    attempt.interruption.raise_if_asked(f"{where}; {resume}")
    raise RunError(f"phase {plan.phase} {plan.name} was stopped after {bars:,} of {budget:,} bars; {resume}")


def _name_of(trial: Any) -> str:
    return str(trial.config[TRIAL])


def _last_line(error: BaseException | None) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)
