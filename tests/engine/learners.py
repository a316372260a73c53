"""Learners outside of Ray, what is in them, and what they put together again from what is sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from mtquant_rllib.config import Settings
from mtquant_rllib.engine.fragments import LevelColumns, reconstruct_observations
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.env.observations.reconstruction import ObservationReconstruction
from mtquant_rllib.env.prepared.data import DeskData


class Linear:
    """An objective with given gradients: the sum of the outputs times them (`objective.Objective`)."""

    def __init__(self, *gradients: torch.Tensor) -> None:
        self._gradients = gradients

    def loss(self, *outputs: torch.Tensor) -> torch.Tensor:
        return torch.stack([(one * its).sum() for one, its in zip(outputs, self._gradients)]).sum()

    def gradients(self, *outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._gradients


AS_THEY_STAND = Settings.load().learner.model_copy(
    update={"precision": "float32", "checkpoint_activations": False, "compile": False}
)
TIMES = {"bars": 0, NUM_ENV_STEPS_SAMPLED_LIFETIME: 200}


def built(cls: type, config: Any, runner: BatchedEnvRunner) -> Any:
    learner = cls(config=config, module_spec=config.get_multi_rl_module_spec(env=None, spaces=runner.get_spaces()))
    learner.build()
    return learner


def seen_in(runner: BatchedEnvRunner, level: LevelColumns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole observations of a level: at decisions, where episodes were cut off, after the last bar."""
    data = DeskData.open(Path(runner.config.env_config["data"]), "train")
    return reconstruct_observations(
        level, ObservationReconstruction(runner.env.settings, data.features, level.agents, level.domain)
    )


def parameters(learner: Any) -> dict[str, np.ndarray]:
    return {
        f"{module}/{name}": np.array(array)
        for module, state in learner.get_state(components=COMPONENT_RL_MODULE)[COMPONENT_RL_MODULE].items()
        for name, array in state.items()
    }
