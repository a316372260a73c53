"""PPO on the desk: RLlib's, with the desk's runner and learner. One iteration is one update."""

from __future__ import annotations

import time

from ray.rllib.algorithms.ppo import PPO, PPOConfig

from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.rllib_reference import RLlibEnvRunner, RLlibLearner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.training.algorithm.algorithm_config import DeskAlgorithmConfig, used_up
from mtquant_rllib.training.algorithm.desk_algorithm import DeskAlgorithm

ENGINES: dict[str, tuple[type, type]] = {
    "batched": (BatchedEnvRunner, BatchedLearner),
    "rllib": (RLlibEnvRunner, RLlibLearner),
}
"""Runner and learner of each engine."""


class DeskPPOConfig(DeskAlgorithmConfig, PPOConfig):
    """`train_batch_size_per_learner` is the bars of one update: several learners share them."""

    algorithm = "ppo"
    rate_names = ("lr",)
    not_of_it = "sac"

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DeskPPO)
        self._begin()
        self.engine("batched")

    def engine(self, name: str) -> DeskPPOConfig:
        """Which engine samples and learns: `batched`, or `rllib` for RLlib's own."""
        self._engine = name
        return self.env_runners(env_runner_cls=ENGINES[name][0])

    def get_default_learner_class(self) -> type:
        return ENGINES[self._engine][1]

    def _check(self, trial: TrialConfig) -> None:
        super()._check(trial)
        owners = {"": vars(self)} | {
            f" of {module}": own for module, own in self.algorithm_config_overrides_per_module.items()
        }
        for of, settings in owners.items():
            for name in ("gamma", "lambda_", "clip_param", "vf_clip_param", "vf_loss_coeff", "kl_coeff", "kl_target"):
                value = settings.get(name, 0.0)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ConfigError(f"{name}{of} = {value!r}: expected a number")


class DeskPPO(DeskAlgorithm, PPO):
    """See the module's docstring."""

    @classmethod
    def get_default_config(cls) -> DeskPPOConfig:
        return DeskPPOConfig()

    def training_step(self) -> None:
        if self.bars_left <= 0 or self.early_stopped:
            raise RunError(used_up(self))
        wanted = min(self.config.train_batch_size_per_learner, self.bars_left)
        began = time.perf_counter()
        samples = self._sample(wanted)
        sampled = time.perf_counter()
        bars = sum(part.bars for part in samples)
        if not bars:
            return
        self.learn_from(
            samples,
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
        )
        self._speed = {"sample_s": sampled - began, "learn_s": time.perf_counter() - sampled, "bars": bars}
