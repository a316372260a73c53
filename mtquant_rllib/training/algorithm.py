"""PPO on the desk: RLlib's, with the desk's runner and learner. One iteration is one update."""

from __future__ import annotations

import time

from ray.rllib.algorithms.ppo import PPO, PPOConfig

from mtquant_rllib.engine.learner import BatchedLearner
from mtquant_rllib.engine.runner import BatchedEnvRunner
from mtquant_rllib.engine.stock import StockEnvRunner, StockLearner
from mtquant_rllib.training.desk_algorithm import DeskAlgorithm, DeskConfig

ENGINES: dict[str, tuple[type, type]] = {
    "batched": (BatchedEnvRunner, BatchedLearner),
    "stock": (StockEnvRunner, StockLearner),
}
"""Runner and learner of each engine."""


class DeskPPOConfig(DeskConfig, PPOConfig):
    """PPOConfig plus `desk`, a dictionary of what the desk adds."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DeskPPO)
        self.engine("batched")
        self.desk = {}

    def engine(self, name: str) -> DeskPPOConfig:
        """Which engine samples and learns: `batched`, or `stock` for RLlib's own."""
        self._engine = name
        return self.env_runners(env_runner_cls=ENGINES[name][0])

    def get_default_learner_class(self) -> type:
        return ENGINES[self._engine][1]


class DeskPPO(DeskAlgorithm, PPO):
    """See the module's docstring."""

    @classmethod
    def get_default_config(cls) -> DeskPPOConfig:
        return DeskPPOConfig()

    def training_step(self) -> None:
        wanted = min(self.config.desk["bars_per_update"], self.bars_left)
        if wanted <= 0:
            return
        began = time.perf_counter()
        harvest = self._sample(wanted)
        sampled = time.perf_counter()
        bars = sum(part.bars for part in harvest)
        if not bars:
            return
        self.learn_from(
            harvest,
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
        )
        self._speed = {"sample_s": sampled - began, "learn_s": time.perf_counter() - sampled, "bars": bars}
