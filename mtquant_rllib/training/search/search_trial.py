"""The Tune trainable of a sweep: one trial, which is a few runs with the same settings and seeds of their own.

An iteration is one update of every run. Tune stops, pauses and restarts the trial as one, and hears of its score alone.
Where the runs are stands in their own checkpoints: a trial that is started again, by Tune or by the next attempt of the
sweep, goes on from them, and says where it stands before it trains on, so that a decision that was lost is made.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory
from ray.tune.trainable.trainable import _TrainingResult

from mtquant_rllib.config.search_space import Values
from mtquant_rllib.engine.process_memory import in_actor
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.curriculum.trial import TrialContext
from mtquant_rllib.training.placement.placement_group import placement_group
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.result_keys import BARS_LIFETIME, ENV_FAULTS, FAILURE, SHARPE, TRIAL, VALIDATION
from mtquant_rllib.training.search import handover, lineage
from mtquant_rllib.training.search.keys import COMPLETE, NEWEST, PROGRESS, SCORE, SCORES, SECONDS
from mtquant_rllib.training.search.member import Member
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import mean_and_error
from mtquant_rllib.training.storage import run_lock

LOCK_PATIENCE_S, LOCK_LOOK_S = 60.0, 0.2
"""How long a trial waits for the process that had its runs before, and between two looks."""


@dataclass(frozen=True)
class SearchContext:
    """What the trials of a sweep are started with; `trial` is which of them this is. As of `TrialContext`, but:

    run
        The sweep's folder.
    checkpoints
        Run -> trial of its phase -> names of those that it may go on from, newest first.
    handovers
        By trial: the rounds in which it took over a state, whose, and its values since.
    milestones_pct
        Shares of the budget at which the runs write checkpoints, however often they do otherwise.
    runners, learners
        How many a trial has, those of all of its runs together.
    """

    run: str
    trial: str
    attempt: str = ""
    checkpoints: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    handovers: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    milestones_pct: Sequence[float] = ()
    runners: int = 0
    learners: int = 0
    resources: TrialResources = field(default_factory=lambda: TrialResources(1.0, 1.0, 0.0))
    nodes: Mapping[str, list[str | None]] = field(default_factory=dict)
    allowed: Sequence[str] = ()
    storage_patience_seconds: float = 0.0

    def param_space(self, trials: Sequence[str] | None) -> dict[str, Any]:
        """As Tune's configuration; one trial for each name, or without names as many as its searcher names."""
        own = asdict(self)
        del own[TRIAL]
        return own if trials is None else {**own, TRIAL: tune.grid_search(list(trials))}

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> SearchContext:
        """From Tune's configuration, to which Tune may add keys of its own."""
        own = {each.name: config[each.name] for each in fields(cls) if each.name in config}
        return cls(**{**own, "resources": TrialResources(**config["resources"])})


class SearchTrial(tune.Trainable):
    """Its Tune configuration is a `SearchContext`."""

    def setup(self, config: dict[str, Any]) -> None:
        self.context = own = SearchContext.of(config)
        self.sweep, self.name = Path(own.run), own.trial
        self.record = SweepRecord.read(self.sweep)
        self._runs = self.record.runs_of(self.sweep, self.name)
        self._members: list[Member] | None = None
        self._locks = contextlib.ExitStack()

    @property
    def members(self) -> list[Member]:
        """The runs. Their algorithms, with processes of their own, are built by the first step: an actor that fails in
        its constructor, while processes that it started are not up, never ends."""
        if self._members is None:
            for run in self._runs:
                self._locks.enter_context(_held(run))
            own, named = self.context, self.context.checkpoints
            common = TrialContext(
                run="",
                phase=0,
                trial="",
                attempt=own.attempt,
                resources=own.resources,
                storage_patience_seconds=own.storage_patience_seconds,
            )
            self._members = [Member(run, common, named.get(run.name, {}), self._storage) for run in self._runs]
            self._take_over()
            for member in self._members:
                member.begin()
        return self._members

    def _take_over(self) -> None:
        """Take the state of another trial, where that was decided and is not done."""
        decided = self.context.handovers.get(self.name, [])
        for member in self._members or []:
            for one in decided:
                if one["round"] > lineage.newest_round(member.run):
                    source = handover.folder_of(self.sweep, one["round"], one["from"], self._donor(member, one))
                    values: Values = one["values"]
                    member.take_over(source, values)
                    lineage.note(member.run, one)

    def _donor(self, member: Member, one: dict[str, Any]) -> Path:
        """The run of the trial that hands over with the same seed as the member's."""
        return self.record.runs_of(self.sweep, one["from"])[self._runs.index(member.run)]

    def step(self) -> dict[str, Any]:
        began = time.perf_counter()
        fresh = self._members is None
        members = self.members
        before, progress = self._bars(), self._progress()
        if not fresh or not before:
            for member in members:
                member.step()
            if any(progress < milestone <= self._progress() for milestone in self.context.milestones_pct):
                self.save()
        self._iteration = max(max(member.iteration for member in members) - 1, 0)
        return self._result(time.perf_counter() - began, before)

    def _bars(self) -> int:
        return sum(member.bars for member in self.members)

    def _progress(self) -> float:
        """Per cent of the budget of all runs."""
        if all(member.phase is None for member in self.members):
            return 100.0
        return 100.0 * sum(member.covered for member in self.members) / sum(member.budget for member in self.members)

    def _result(self, seconds: float, before: int) -> dict[str, Any]:
        members = self.members
        budget, bars = sum(member.budget for member in members), self._bars()
        covered = sum(member.covered for member in members)
        scores = [member.score for member in members]
        score, error = mean_and_error(scores)
        failure = next((f"{one.run.name} {one.failure}" for one in members if one.failure is not None), None)
        complete = all(member.phase is None for member in members)
        speed = (bars - before) / max(seconds, 1e-9)
        result = {
            TRIAL: self.name,
            SCORE: math.nan if score is None else score,
            NEWEST: float(sum(member.newest for member in members) / len(members)),
            "score_se": math.nan if error is None else error,
            SCORES: scores,
            PROGRESS: self._progress(),
            COMPLETE: complete,
            "phase": members[0].phase or self.record.phases[-1],
            SECONDS: sum(member.seconds for member in members),
            BARS_LIFETIME: bars,
            "timesteps_total": bars,
            "bars_budget": budget,
            "bars_per_s": speed,
            "seconds_left": (budget - covered) / speed if speed else math.nan,
            VALIDATION: {SHARPE: float(sum(member.sharpe for member in members) / len(members))},
            "best": {SHARPE: math.nan if score is None else score},
            "done": complete or failure is not None,
            "config": self.config,
        }
        faults = [fault for member in members for fault in member.take_faults()]
        faults_row = {ENV_FAULTS: "; ".join(faults)} if faults else {}
        return {**result, **faults_row} if failure is None else {**result, **faults_row, FAILURE: failure}

    def save(self, checkpoint_dir: str | None = None) -> _TrainingResult:
        """See to it that the runs have checkpoints of where they stand. Tune is told of none: a trial that starts again
        knows its own."""
        for member in self._members or []:
            member.save()
        nothing: Any = None
        return _TrainingResult(checkpoint=nothing, metrics={})

    def cleanup(self) -> None:
        members = self._members or []
        if members and in_actor():
            # A learner that waits for one that died would keep this process, and its share of the machine, for as long.
            grace = members[0].manifest.load_settings().checkpoints.stop_grace_seconds
            end = threading.Timer(grace, os._exit, (0,))
            end.daemon = True
            end.start()
        for member in members:
            member.close()
        self._locks.close()

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        own = SearchContext.of(config)
        return placement_group(own.resources, own.nodes.get(own.trial, []), own.allowed, own.runners, own.learners)


@contextlib.contextmanager
def _held(run: Path) -> Iterator[None]:
    """Hold a run's lock. The process that held it before, of the same trial, may still be ending."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(run_lock.held(run))
                break
            except RunError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_LOOK_S)
        yield
