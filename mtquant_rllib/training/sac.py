"""SAC on the desk: RLlib's seams, with the desk's runner, replay and learner.

An iteration is many rounds: sample a few bars, remember them, make the gradient steps that are due. Checkpoints hold
the replay, its generator and the episodes in progress, so that a restored run goes on as if it had never been stopped.
"""

from __future__ import annotations

import time
from typing import Any

from ray.rllib.algorithms.sac import SAC, SACConfig

from mtquant_rllib.engine.dealing import Copies
from mtquant_rllib.engine.runner import BatchedEnvRunner
from mtquant_rllib.engine.sac_learner import SACLearner
from mtquant_rllib.training.desk_algorithm import DeskAlgorithm, DeskConfig


class DeskSACConfig(DeskConfig, SACConfig):
    """SACConfig plus `desk`, a dictionary of what the desk adds, and `sac`, the settings' section as one.

    The numbers of the loss stand in `sac`; RLlib's own of that kind are not read.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DeskSAC)
        self.env_runners(env_runner_cls=BatchedEnvRunner)
        self.desk = {}
        self.sac: dict[str, Any] = {}
        # The learner keeps the replay; RLlib's would stand beside it, empty.
        self.replay_buffer_config = {**self.replay_buffer_config, "no_local_replay_buffer": True}
        # A report after every iteration, however short.
        self.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)

    def get_default_learner_class(self) -> type:
        return SACLearner


class DeskSAC(DeskAlgorithm, SAC):
    """See the module's docstring."""

    harvest = Copies

    @classmethod
    def get_default_config(cls) -> DeskSACConfig:  # type: ignore[override]
        return DeskSACConfig()

    def training_step(self) -> None:
        sac = self.config.sac
        until = self.bars_sampled + min(sac["bars_per_iteration"], self.bars_left)
        sample_s = learn_s = 0.0
        bars = 0
        while self.bars_sampled < until:
            began, before = time.perf_counter(), self.bars_sampled
            harvest = self._sample(min(sac["bars_per_round"], until - before))
            sampled = time.perf_counter()
            fresh = sum(part.bars for part in harvest)
            if not fresh:
                break
            self.learn_from(harvest, n_steps=self.steps_due(before + fresh) - self.steps_due(before))
            sample_s, learn_s = sample_s + sampled - began, learn_s + time.perf_counter() - sampled
            bars += fresh
        self._speed = {"sample_s": sample_s, "learn_s": learn_s, "bars": bars}

    def steps_due(self, bars: int) -> int:
        """Gradient steps that should have been made after so many bars."""
        sac = self.config.sac
        return max(0, bars - sac["learning_starts_bars"]) // sac["bars_per_update"]
