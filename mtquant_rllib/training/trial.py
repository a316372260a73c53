"""The Tune trainable: a trial that finds out from its run's manifest what it is.

Its Tune configuration is two words, the phase and its name. Nothing that belongs to a place or a version is pickled
into the experiment, so a run restores where it lies now and with the code that is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import PlacementGroupFactory

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.algorithm import DeskPPO
from mtquant_rllib.training.desk_algorithm import DeskAlgorithm, run_folder
from mtquant_rllib.training.manifest import Manifest
from mtquant_rllib.training.phases import TRIAL, Share, algorithm_of, build_config, plan_named, plan_phase
from mtquant_rllib.training.sac import DeskSAC

logger = logging.getLogger(__name__)


class _Trial(DeskAlgorithm):
    """config: {"phase": 1 | 2 | 3, "trial": name, "cpus": of the session, "gpus": of the session}."""

    def __init__(self, config: Any = None, *args: Any, **kwargs: Any) -> None:
        if config is None or "phase" not in config:
            super().__init__(config, *args, **kwargs)
            return
        self.tune_config = dict(config)
        manifest = Manifest.read(run_folder())
        plan = plan_named(manifest.load_settings(), config["phase"], config[TRIAL])
        super().__init__(build_config(plan, manifest, _share(manifest, config)), *args, **kwargs)

    def restore(self, checkpoint_path: Any) -> None:
        """Restore, and where the checkpoint is gone, from the newest one beside it that is whole.

        Tune deletes old checkpoints before it writes down that they are old; a driver killed in between leaves a record
        of one that is no more.
        """
        checkpoint = getattr(checkpoint_path, "checkpoint", checkpoint_path)
        path = Path(getattr(checkpoint, "path", checkpoint))
        if path.is_dir() or not path.parent.is_dir():
            super().restore(checkpoint_path)
            return
        for candidate in sorted(path.parent.glob("checkpoint_*"), reverse=True):
            try:
                super().restore(str(candidate))
                return
            except Exception as error:
                logger.warning("%s cannot be restored: %s", candidate, error)
        raise RunError(f"{path}: this checkpoint is gone, and no other in {path.parent} is whole")

    def step(self) -> dict[str, Any]:
        return {**super().step(), TRIAL: self.tune_config[TRIAL]}

    def get_auto_filled_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib would write its whole configuration, and with it all settings, beside every result."""
        return {**super().get_auto_filled_metrics(*args, **kwargs), "config": self.tune_config}

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        manifest = Manifest.read(run_folder())
        share = _share(manifest, config)
        resources = manifest.load_settings().resources
        gpus = {"GPU": share.gpus} if share.gpus else {}
        runners = [{"CPU": share.runner_cpus}] * resources.runners
        learners = [{"CPU": share.learner_cpus, **gpus}] * resources.learners
        return PlacementGroupFactory([{"CPU": share.cpus, **({} if learners else gpus)}, *runners, *learners])


class DeskTrial(_Trial, DeskPPO):
    """A trial of a phase that runs on PPO."""


class SACTrial(_Trial, DeskSAC):
    """A trial of a phase that runs on SAC."""


def trial_class(settings: Settings, phase: int) -> type[_Trial]:
    return SACTrial if algorithm_of(settings, phase) == "sac" else DeskTrial


def _share(manifest: Manifest, config: Mapping[str, Any]) -> Share:
    settings = manifest.load_settings()
    return Share.of(settings, len(plan_phase(settings, config["phase"])), config["cpus"], config["gpus"])
