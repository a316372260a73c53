"""The Tune trainable of every trial: an RLlib algorithm that goes on from its newest whole checkpoint.

Its Tune configuration says where the run is and which trial this is; the rest stands in the run's manifest. The
algorithm is an attribute, not a base class, so that a checkpoint is one of `DeskPPO` or `DeskSAC`, which
`Algorithm.from_checkpoint` opens anywhere, and knows nothing of the run that wrote it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory

# Tune's class trainables return this from `save` and get it handed back in `restore`; there is no public name for it.
# tests/training/test_ray_internals.py would notice a change.
from ray.tune.trainable.trainable import _TrainingResult

from mtquant_rllib.engine.process_memory import freeze_long_lived_objects, in_actor, trim_memory, unfreeze_objects
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.algorithm.desk_algorithm import DeskAlgorithm, summary
from mtquant_rllib.training.curriculum.phases import TrialPlan, at_bars, plan_named
from mtquant_rllib.training.placement.placement_group import placement_group
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records import checkpoints, module_states, ownership, signatures
from mtquant_rllib.training.records.checkpoints import Checkpoint, DamagedCheckpoint
from mtquant_rllib.training.records.manifest import Manifest, versions
from mtquant_rllib.training.reporting.curve_columns import curve_row
from mtquant_rllib.training.result_keys import BARS_LIFETIME, TRIAL
from mtquant_rllib.training.storage import mirror
from mtquant_rllib.training.storage.retries import with_retries

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialContext:
    """What the trials of an attempt are started with; `trial` is which of them this is.

    address
        Of the run, where it lies in an object store.
    attempt
        Its random word: checkpoints that bear it may be gone on from, besides those named.
    checkpoints
        Names of those that each trial may go on from, newest first.
    nodes
        Ray's ids of the nodes of each trial's processes, None for any node; empty where nothing is bound.
    allowed
        Ids of the nodes that were found fit to train; empty where any may be used.
    storage_patience_seconds
        How long a trial waits, when it starts, for the run's folder to be there.
    """

    run: str
    phase: int
    trial: str
    address: str | None = None
    attempt: str = ""
    checkpoints: Mapping[str, list[str]] = field(default_factory=dict)
    resources: TrialResources = field(default_factory=lambda: TrialResources(1.0, 1.0, 0.0))
    nodes: Mapping[str, list[str | None]] = field(default_factory=dict)
    allowed: Sequence[str] = ()
    storage_patience_seconds: float = 0.0

    def param_space(self) -> dict[str, Any]:
        """As Tune's configuration, which it writes as JSON; one trial for each name in `nodes`."""
        return {**asdict(self), TRIAL: tune.grid_search(list(self.nodes))}

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TrialContext:
        """From Tune's configuration, to which Tune may add keys of its own."""
        own = {each.name: config[each.name] for each in fields(cls) if each.name in config}
        return cls(**{**own, "resources": TrialResources(**config["resources"])})


class PhaseTrial(tune.Trainable):
    """Its Tune configuration is a `TrialContext`."""

    def setup(self, config: dict[str, Any]) -> None:
        """Read what the trial is. Its algorithm, with processes of its own, is built by the first call that needs it:
        an actor that fails in its constructor, while processes that it started are not up, never ends (Ray waits for
        their answers), and Tune with it."""
        self.context = own = TrialContext.of(config)
        patience_s = own.storage_patience_seconds
        if own.address is None:
            self.run = Path(own.run)
            _await_folder(self.run, patience_s)
        else:
            join = partial(mirror.join_working_copy, own.address, own.attempt)
            self.run = with_retries(join, own.address, patience_s, action="read")
        self.manifest = Manifest.read(self.run)
        settings = self.manifest.load_settings()
        self.plan: TrialPlan = plan_named(settings, own.phase, own.trial)
        self.keeping = settings.checkpoints
        self.record = self.manifest.phase(self.plan.phase)
        self.folder = self.run / self.record.experiment / self.plan.name
        for place in (self.folder, self.run / self.plan.folder, self.run / (self.record.start or self.plan.folder)):
            with_retries(partial(mirror.pull, place), str(place), patience_s, action="read")
        named = own.checkpoints.get(own.trial, [])
        self._begin_from = [self.folder / name for name in named]
        """What the attempt began with, newest first. What it wrote since is gone on from where Tune names it: of a
        checkpoint that Tune has not heard of, the curves lack the result."""
        self._whole = [path for path in checkpoints.listed(self.folder) if path.name in named or self._wrote(path)]
        """Checkpoints that are taken to be whole, newest first; `keep` of them stay."""
        self._built: DeskAlgorithm | None = None
        self._frozen = False

    @property
    def algorithm(self) -> DeskAlgorithm:
        """The trial's algorithm, where the newest whole checkpoint left it that the attempt began with, or the one that
        Tune named (`restore`)."""
        return self._built or self._build(self._begin_from)

    @property
    def saved_iteration(self) -> int:
        """That of the newest whole checkpoint; 0 where there is none."""
        return checkpoints.number_of(self._whole[0]) if self._whole else 0

    @property
    def seconds(self) -> float:
        """Training time so far, over all attempts."""
        return float(self._time_total)

    def _build(self, candidates: list[Path]) -> DeskAlgorithm:
        """An algorithm that goes on from the first of these checkpoints that is whole, or without any from the phase's
        beginning.

        Raises
        ------
        RunError
            When there are candidates and none is whole: a trial never begins again unasked.
        """
        algorithm_config: Any = build_config(self.plan, self.manifest, self.context.resources)
        self._built = built = algorithm_config.algo_class(config=algorithm_config, storage=self._storage)
        built.module_folder, built.run_folder = self.run / self.plan.folder, self.run
        built.storage_patience_s = self.keeping.storage_patience_seconds
        newest = self._newest(candidates)
        if newest is not None:
            self._load(*newest)
        elif candidates:
            raise RunError(
                f"phase {self.plan.phase} {self.plan.name}: none of the checkpoints that it was to go on from is "
                "whole any more; bring a copy back and resume"
            )
        elif self.record.start is not None:
            built.load_modules(module_states.read(self.run / self.record.start))
        return built

    def _wrote(self, path: Path) -> bool:
        """Whether this attempt of the run wrote a checkpoint of this trial."""
        try:
            index = checkpoints.read_index(path)
        except DamagedCheckpoint:
            return False
        own = (index.run, index.phase, index.trial) == (self.manifest.id, self.plan.phase, self.plan.name)
        return own and bool(self.context.attempt) and index.attempt == self.context.attempt

    def step(self) -> dict[str, Any]:
        result = dict(self.algorithm.train())
        if not self._frozen:
            # Only now does all exist that lives as long as the algorithm.
            freeze_long_lived_objects()
            self._frozen = True
        trim_memory()
        # The whole configuration, with all settings, would stand beside every result.
        result["config"] = self.config
        return {**result, TRIAL: self.plan.name}

    def go_on(self) -> DeskAlgorithm:
        """The trial's algorithm, where its newest whole checkpoint left it: for callers that step it without Tune."""
        return self._built or self._build(list(self._whole))

    def take_over(self, source: Path, best: Path | None) -> None:
        """Go on from another trial's state, with this one's settings: modules, optimisers, replay, episodes and the
        best states so far. This trial's own state is gone then.

        source: a checkpoint of the same phase and trial of another run. best: the module states that were best so far.

        Raises
        ------
        DamagedCheckpoint
            When the checkpoint is not what was written.
        """
        index = checkpoints.verify(source)
        self.release()
        self._build([])
        self._load(source, index)
        found = index.result.get("best", {})
        if best is not None and "bars" in found:
            folder = self.run / self.plan.folder / at_bars(int(found["bars"]))
            module_states.write(folder, module_states.read(best), run=self.run, **found)
        self._last_result = None
        self._whole = []
        self.save()
        for path in checkpoints.listed(self.folder):
            if path != self._whole[0]:
                ownership.remove_own(path, self.run, ownership.is_checkpoint_or_empty)

    def release(self) -> None:
        """End the algorithm and its processes."""
        if self._built is not None:
            self._built.stop()
            self._built, self._frozen = None, False
            unfreeze_objects()

    def cleanup(self) -> None:
        if in_actor():
            # A learner that waits for one that died would keep this process, and its share of the machine, for as long.
            end = threading.Timer(self.keeping.stop_grace_seconds, os._exit, (0,))
            end.daemon = True
            end.start()
        self.release()

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save(self, checkpoint_dir: str | None = None) -> _TrainingResult:
        """Write a checkpoint into the trial's folder, whole and synced; see `training.records.checkpoints`.

        Tune's own way copies file by file into the final folder, where a kill leaves half of one.
        """
        result: dict[str, Any] = self._last_result or {}
        if self.algorithm.failure is not None:
            # Tune takes this for "no checkpoint": the one before stays the newest.
            nothing: Any = None
            return _TrainingResult(checkpoint=nothing, metrics=_brief(result))
        index = Checkpoint(
            run=self.manifest.id or "",
            phase=self.plan.phase,
            trial=self.plan.name,
            iteration=self.iteration,
            bars=self.algorithm.bars_sampled,
            attempt=self.context.attempt,
            finished=self.algorithm.finished,
            result=summary(self.algorithm, result),
            row={name: str(value) for name, value in curve_row(result).items()} if result else {},
            seconds=self._time_total,
            versions=versions(),
        )
        path = with_retries(
            lambda: checkpoints.write(
                self.run, self.folder, index, self.algorithm.save_to_path, signatures.sign_where_keyed
            ),
            f"the checkpoint {self.folder / index.name}",
            self.keeping.storage_patience_seconds,
        )
        self._whole = [path, *(one for one in self._whole if one != path)]
        try:
            checkpoints.prune(self.run, self.folder, self._whole, self.keeping.keep)
        except OSError as error:
            logger.warning("an old checkpoint was not removed: %s", error)
        self._whole = self._whole[: self.keeping.keep]
        return _TrainingResult(checkpoint=tune.Checkpoint.from_directory(str(path)), metrics=_brief(result))

    def restore(self, checkpoint_path: Any) -> None:
        """Go on from the checkpoint that Tune names, or where it is damaged, from the one before. Tune calls this when
        it starts a trial again."""
        checkpoint = getattr(checkpoint_path, "checkpoint", checkpoint_path)
        # By its name: on another node the run's working copy may lie elsewhere.
        named = self.folder / Path(getattr(checkpoint, "path", checkpoint)).name
        candidates = [named, *(path for path in self._whole if path != named)]
        if self._built is None:
            self._build(candidates)
            return
        newest = self._newest(candidates)
        if newest is None:
            raise RunError(f"{named}: this checkpoint is damaged or gone, and so is every one before it")
        if newest[1].iteration != self.iteration:
            self._load(*newest)

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        self.algorithm.restore_from_path(checkpoint_dir)

    def _newest(self, candidates: list[Path]) -> tuple[Path, Checkpoint] | None:
        for path in candidates:
            try:
                return path, checkpoints.verify(path)
            except DamagedCheckpoint as damage:
                logger.warning("%s; the checkpoint before is used", damage)
                self._whole = [one for one in self._whole if one != path]
        return None

    def _load(self, path: Path, index: Checkpoint) -> None:
        metrics = {"training_iteration": index.iteration, "time_total_s": index.seconds}
        super().restore(_TrainingResult(checkpoint=tune.Checkpoint.from_directory(str(path)), metrics=metrics))

    # -- resources ----------------------------------------------------------------------------------------------------

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        own = TrialContext.of(config)
        resources = Manifest.read(Path(own.run)).load_settings().resources
        return placement_group(
            own.resources, own.nodes.get(own.trial, []), own.allowed, resources.runners, resources.learners
        )


def _brief(result: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that Tune keeps with a checkpoint. It keeps those of all: whole results, of 80 kB each, would make
    the driver grow with every update."""
    return {key: result[key] for key in ("training_iteration", "time_total_s", BARS_LIFETIME, TRIAL) if key in result}


def _await_folder(run: Path, patience_s: float) -> None:
    """Wait for a run's folder that is away, as when a trial is started again while its storage is. A node on which not
    even the folder of runs is there does not share it, and no waiting would help."""
    if run.parent.is_dir():
        with_retries(partial(os.stat, run), str(run), patience_s, action="found")
