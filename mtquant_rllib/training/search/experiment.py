"""An attempt of a sweep as a Tune experiment: the trials that are not over, placed, stepped and compared.

As with a phase's experiment, Tune's records of the attempt before are never read: what is over and what was decided
stands in the sweep's results, and where the rest goes on in the runs' checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.training import ResourcesConfig
from mtquant_rllib.errors import RunError, TrainingFailed
from mtquant_rllib.training.curriculum.attempt import Attempt
from mtquant_rllib.training.curriculum.node_callbacks import LostNodes, SessionLost, Waiting
from mtquant_rllib.training.curriculum.phase_experiment import Ends, fitted, place
from mtquant_rllib.training.curriculum.phases import plan_phase
from mtquant_rllib.training.curriculum.resumption import resumable
from mtquant_rllib.training.curriculum.storage_wait import StorageAway, StorageWait
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import Placement
from mtquant_rllib.training.records import ownership, signatures
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.progress import Progress
from mtquant_rllib.training.reporting.result_files import TensorBoard
from mtquant_rllib.training.reporting.trackers import TENSORBOARD, tracked_by
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.search import handover, lineage, table
from mtquant_rllib.training.search.optuna_searcher import OptunaSearcher
from mtquant_rllib.training.search.record import EXPERIMENT, SweepRecord
from mtquant_rllib.training.search.results import Results
from mtquant_rllib.training.search.schedulers import WHOLE, make_scheduler
from mtquant_rllib.training.search.search_trial import SearchContext, SearchTrial
from mtquant_rllib.training.search.watchers import ResultsTableCallback, SignRunCheckpoints
from mtquant_rllib.training.session.driver_memory import DriverMemory

Begin = Callable[[str], None]
"""Makes the runs of a trial, where they are not there yet."""


def fit(attempt: Attempt, record: SweepRecord, results: Results, begin: Begin) -> None:
    """Train the trials that are not over to their ends.

    Raises
    ------
    RunError
        When checkpoints are damaged or were written by somebody else.
    TrainingFailed
        When storage stayed away, or every node is gone.
    Interrupted
        When a signal asked for an end.
    """
    settings = record.load_settings()
    storage = StorageWait(attempt, "the sweep", settings.checkpoints.storage_patience_seconds)
    while True:
        signatures.user_key()
        ownership.refuse_links(attempt.run, EXPERIMENT)
        left = [name for name in record.names if not results.rows[name].over]
        unasked = record.n_trials - len(record.trials)
        if not left and not unasked:
            return
        storage.reached(sum(row.bars for row in results.rows.values()))
        placement = _placed(attempt, settings, record, left or [record.name_of(len(record.trials))])
        for line in placement.table():
            attempt.tell(f"sweep on {line}")
        context = SearchContext(
            run=str(attempt.run),
            trial="",
            attempt=secrets.token_hex(8),
            checkpoints=_resumable(attempt, record, results, left),
            handovers={name: results.rows[name].handovers for name in left if results.rows[name].handovers},
            milestones_pct=_milestones(settings),
            **_processes(settings.resources, len(record.seeds)),
            resources=placement.resources,
            nodes={name: placement.nodes_of(name) for name in left},
            allowed=attempt.readiness.allowed(),
            storage_patience_seconds=settings.checkpoints.storage_patience_seconds,
        )
        _expect_trusted(attempt, record, context.handovers)
        try:
            if _fit(attempt, settings, record, results, context, placement, begin):
                go_on = f"carry it on with `mtquant resume {attempt.name}`"
                attempt.interruption.raise_if_asked(go_on)
                if open_still := [row.name for row in results.rows.values() if not row.over]:
                    raise RunError(f"{', '.join(open_still)} did not come to an end; {go_on}")
                return
        except StorageAway as away:
            storage.wait(away)


def _milestones(settings: Settings) -> list[float]:
    """Per cents of the budget at which states are handed over."""
    search = settings.search
    rounds = search.pbt.rounds if search.scheduler == "pbt" else 1
    return [WHOLE * number / rounds for number in range(1, rounds)]


def _processes(resources: ResourcesConfig, runs: int) -> dict[str, int]:
    return {"runners": resources.runners * runs, "learners": resources.learners * runs}


def resources_of(settings: Settings, runs: int) -> ResourcesConfig:
    """What one trial asks for: one process, and the runners and learners of all of its runs."""
    return settings.resources.model_copy(update=_processes(settings.resources, runs))


def at_a_time(resources: ResourcesConfig, nodes: Sequence[Node], trials: int) -> int:
    """How many trials run side by side at most: a CPU for each process. More would only take memory."""
    cpus = sum(node.cpus for node in nodes)
    cpus = cpus if resources.cpus is None else min(cpus, resources.cpus)
    return min(trials, max(1, math.floor(cpus / (1 + resources.runners + resources.learners))))


def _placed(attempt: Attempt, settings: Settings, record: SweepRecord, trials: list[str]) -> Placement:
    resources = resources_of(settings, len(record.seeds))
    nodes = [*attempt.nodes(), *attempt.machines.startable()]
    side_by_side = at_a_time(resources, nodes, len(trials))
    changed = settings.model_copy(update={"resources": resources})
    return place(attempt, changed, record.phases[0], trials[:side_by_side])


def _resumable(
    attempt: Attempt, record: SweepRecord, results: Results, left: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Run -> trial of its phase -> the checkpoints that it may go on from, newest first."""
    found: dict[str, dict[str, list[str]]] = {}
    for trial in left:
        for run in record.runs_of(attempt.run, trial):
            if not run.is_dir():
                continue
            manifest = Manifest.read(run, trust=attempt.trusted)
            running = [phase for phase in manifest.wanted if manifest.phase(phase).status == "running"]
            own = dataclasses.replace(attempt, run=run, manifest=manifest)
            decided = max((one["round"] for one in results.rows[trial].handovers), default=0)
            if running and decided <= lineage.newest_round(run):
                plans = plan_phase(manifest.load_settings(), running[0])
                found[run.name] = {plan.name: resumable(own, plan).names for plan in plans}
    return found


def _expect_trusted(attempt: Attempt, record: SweepRecord, handovers: Mapping[str, list[dict[str, Any]]]) -> None:
    """Raises RunError for a state that is to be taken over and does not bear this user's signature."""
    key = signatures.user_key()
    for name, taken in handovers.items():
        for run, donor in zip(record.runs_of(attempt.run, name), record.runs_of(attempt.run, taken[-1]["from"])):
            if taken[-1]["round"] <= lineage.newest_round(run) or attempt.trusted:
                continue
            source = handover.folder_of(attempt.run, taken[-1]["round"], taken[-1]["from"], donor)
            for checkpoint in source.glob("*/checkpoint"):
                if not signatures.is_ours(checkpoint, key):
                    raise RunError(f"{checkpoint}: was not signed by you; if you trust whoever wrote it, add --trust")


def _fit(
    attempt: Attempt,
    settings: Settings,
    record: SweepRecord,
    results: Results,
    context: SearchContext,
    placement: Placement,
    begin: Begin,
) -> bool:
    """Run the experiment. False when it has to begin anew: a node that trials were bound to is gone."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Tune's own progress.csv and result.json would tell of the iterations of an attempt; the runs have curves.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    search, space = settings.search, record.load_space()
    attempt.interruption.begin_anew()
    left = [name for name in record.names if not results.rows[name].over]
    asks = search.searcher != "random"
    tuner = tune.Tuner(
        SearchTrial,
        param_space=context.param_space(None if asks else left),
        tune_config=tune.TuneConfig(
            scheduler=make_scheduler(
                search.scheduler,
                results,
                space,
                settings.seed,
                search.asha,
                search.pbt,
                partial(_hand_over, attempt.run, record, results),
                attempt.tell,
                attempt.interruption.ended,
            ),
            search_alg=OptunaSearcher(attempt.run, record, results, begin, left) if asks else None,
            num_samples=len(left) + record.n_trials - len(record.trials) if asks else 1,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
            # A population waits for all of its trials; the machine holds as many as it was planned for.
            max_concurrent_trials=None if search.scheduler == "pbt" else placement.side_by_side,
        ),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(attempt.run),
            stop=attempt.interruption,
            failure_config=tune.FailureConfig(max_failures=settings.checkpoints.max_failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            callbacks=_callbacks(attempt, settings, record, results, placement),
            verbose=0,
        ),
    )
    try:
        fitted(tuner)
    except SessionLost as error:
        raise TrainingFailed(f"{error}; carry it on with `mtquant resume {attempt.name}`") from error
    finally:
        results.end_attempt()
        table.write(results)
    return not attempt.interruption.node_lost


def _hand_over(sweep: Path, record: SweepRecord, results: Results, number: int, trial: str) -> None:
    """Keep what a trial hands over at the end of a round; earlier rounds as long as a trial that failed has not
    taken over what it was to."""
    handover.keep(sweep, number, trial, record.runs_of(sweep, trial))
    waited_for = [
        int(one["round"])
        for name, row in results.rows.items()
        for run in record.runs_of(sweep, name)
        for one in row.handovers[-1:]
        if run.is_dir() and int(one["round"]) > lineage.newest_round(run)
    ]
    handover.forget(sweep, before=min([number, *waited_for]))


def _callbacks(
    attempt: Attempt, settings: Settings, record: SweepRecord, results: Results, placement: Placement
) -> list[tune.Callback]:
    tracking, phase = settings.tracking, record.phases[0]
    several = [SignRunCheckpoints(record, attempt.run)] if len(attempt.nodes()) > 1 else []
    return [
        *several,
        Ends(attempt.interruption),
        ResultsTableCallback(results, tracking.progress_seconds, attempt.tell),
        LostNodes(phase, placement, attempt.machines, attempt.interruption, attempt.tell),
        Waiting(phase, placement, attempt.machines, attempt.tell),
        Progress(attempt.run, phase, tracking.progress_seconds),
        *([TensorBoard(settings.checkpoints.storage_patience_seconds)] if tracked_by(settings, TENSORBOARD) else []),
        DriverMemory(),
    ]


def _name_of(trial: Any) -> str:
    return str(trial.config[TRIAL])
