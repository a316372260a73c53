"""SAC on the desk: RLlib's algorithm with the desk's runner, replay and learner.

An iteration is many rounds: sample a few bars, remember them, make the gradient steps that are due. Checkpoints hold
the replay, its generator and the episodes in progress, so that a restored run goes on as if it had never been stopped.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from ray.rllib.algorithms.sac import SAC, SACConfig

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.config.sections.sac import SACConfig as Numbers
from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.engine.learning.sac.learner import SACLearner
from mtquant_rllib.engine.learning.sharding import ReplicatedBatch
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.training.algorithm.algorithm_config import DeskAlgorithmConfig, used_up
from mtquant_rllib.training.algorithm.desk_algorithm import DeskAlgorithm
from mtquant_rllib.training.algorithm.rllib_settings import BATCHED

_MODULES = "modules are made from it before: a new run, or rl_module(rl_module_spec=...)"
_ELSEWHERE = {
    "gamma": "training(gamma=...)",
    "learning_rates": "training(actor_lr=..., critic_lr=..., alpha_lr=...)",
    "learning_starts_frac": "training(sac={'learning_starts_bars': ...}), in bars",
    "initial_alpha": _MODULES,
    "initial_std": _MODULES,
    "min_std": _MODULES,
    "critic": _MODULES,
}
"""Of SAC's numbers, what is read elsewhere."""


@contextlib.contextmanager
def _muted(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class DeskSACConfig(DeskAlgorithmConfig, SACConfig):
    """The numbers of the loss stand in `trial.sac`; RLlib's own of that kind are refused, but for the discount and the
    rates."""

    algorithm = "sac"
    rate_names = ("actor_lr", "critic_lr", "alpha_lr")
    not_of_it = "learner_threads"

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DeskSAC)
        self._begin()
        self._engine = BATCHED
        self.env_runners(env_runner_cls=BatchedEnvRunner)
        # The learner keeps the replay; RLlib's would stand beside it, empty.
        self.replay_buffer_config = {**self.replay_buffer_config, "no_local_replay_buffer": True}
        # A report after every iteration, however short.
        self.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)

    def get_default_learner_class(self) -> type:
        return SACLearner

    def validate(self) -> None:
        # RLlib's says with every call that SAC runs on the new API stack. Ours runs on no other.
        with _muted("ray.rllib.algorithms.sac.sac"):
            super().validate()

    def _check(self, trial: TrialConfig) -> None:
        super()._check(trial)
        if trial.sac is None:
            raise ConfigError("training(sac=...): missing; begin with the configuration of a checkpoint")
        before = EnvironmentConfig.of(self.env_config).settings.sac
        for name, instead in _ELSEWHERE.items():
            if getattr(trial.sac, name) != getattr(before, name):
                raise ConfigError(f"sac.{name} = {getattr(trial.sac, name)!r}: not read here; {instead}")


class DeskSAC(DeskAlgorithm, SAC):
    """See the module's docstring."""

    batch_class = ReplicatedBatch

    @property
    def _sac(self) -> Numbers:
        assert self.trial.sac is not None
        return self.trial.sac

    def __init__(self, config: Any = None, **kwargs: Any) -> None:
        # RLlib's names no argument, and `from_checkpoint(path, config=...)` goes by names: it would ignore the config.
        super().__init__(config, **kwargs)

    @classmethod
    def get_default_config(cls) -> DeskSACConfig:  # type: ignore[override]
        return DeskSACConfig()

    def training_step(self) -> None:
        if self.bars_left <= 0 or self.early_stopped:
            raise RunError(used_up(self))
        sac = self._sac
        until = self.bars_sampled + min(sac.bars_per_iteration, self.bars_left)
        sample_s = learn_s = 0.0
        bars = 0
        while self.bars_sampled < until:
            began, before = time.perf_counter(), self.bars_sampled
            samples = self._sample(min(sac.rollout_bars, until - before))
            sampled = time.perf_counter()
            fresh = sum(part.bars for part in samples)
            if not fresh:
                break
            self.learn_from(samples, n_steps=self.steps_due(before + fresh) - self.steps_due(before))
            sample_s, learn_s = sample_s + sampled - began, learn_s + time.perf_counter() - sampled
            bars += fresh
        self._speed = {"sample_s": sample_s, "learn_s": learn_s, "bars": bars}

    def steps_due(self, bars: int) -> int:
        """Gradient steps that should have been made after so many bars."""
        sac = self._sac
        return max(0, bars - sac.learning_starts_bars) // sac.bars_per_gradient_step
