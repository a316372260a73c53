"""RLlib's own runner, connectors and PPO learner for the desk, sampling by bars: the reference for the batched engine.

A bar takes two or three of RLlib's steps, one per turn. Two things are added: bars are counted instead of turns, and an
environment that has played its share of a call pauses. A paused environment returns no observations; RLlib keeps its
open rows for the next call.

RLlib's own semantics remain: modules that do not learn explore and are stored like the others, epochs follow the module
with the most rows, and discounts follow decisions.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from mtquant_rllib.engine.learning.ppo.learner import ScheduledPPOLearner
from mtquant_rllib.engine.randomness import NOISE, seed_torch
from mtquant_rllib.engine.sampling.runner_base import BarRunner

logger = logging.getLogger(__name__)


class PausingEnv(MultiAgentEnv):
    """An environment that plays up to `bar_limit` bars and then pauses, keeping its next observations."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.env = env
        self.bar_limit: float = math.inf  # under a runner that sets none, it never pauses
        self._kept_observations: dict[str, Any] | None = None
        self.possible_agents, self.agents = env.possible_agents, env.agents
        self.observation_spaces, self.action_spaces = env.observation_spaces, env.action_spaces

    @property
    def bars_done(self) -> int:
        return self.env.bars_done

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin the next episode. RLlib's seed is not used: draws follow the run's seed and the environment's index."""
        self._kept_observations = None
        result = self.env.reset()
        self.agents = self.env.agents
        return result

    def step(self, action_dict: dict[Any, Any]) -> Any:
        paused, over = self.bars_done >= self.bar_limit, False
        rewards: dict[str, float] = {}
        terminateds = truncateds = {"__all__": False}
        infos: dict[str, Any] = {}
        if self._kept_observations is not None:
            observations = self._kept_observations
        else:
            observations, rewards, terminateds, truncateds, infos = self.env.step(action_dict)
            paused, over = self.bars_done >= self.bar_limit, terminateds["__all__"] or truncateds["__all__"]
        self._kept_observations = observations if paused and not over else None
        return ({} if self._kept_observations is not None else observations), rewards, terminateds, truncateds, infos


class RLlibEnvRunner(BarRunner):
    """RLlib's `MultiAgentEnvRunner`, sampling by bars."""

    def __init__(self, config: AlgorithmConfig, **kwargs: Any) -> None:
        torch.set_num_threads(1)
        super().__init__(config, **kwargs)
        self.bars_sampled = 0
        self._bars_seen = 0

    def make_env(self) -> None:
        super().make_env()
        for environment, env in enumerate(self.env.envs):
            env.unwrapped.env.set_env_index(self.worker_index or 0, environment)

    def sample(self, *, num_timesteps: Any = None, **kwargs: Any) -> Any:
        seed_torch(self.config.seed or 0, self.worker_index or 0, self.bars_sampled, NOISE)
        envs = [env.unwrapped for env in self.env.envs]
        before = sum(env.bars_done for env in envs)
        for number, env in enumerate(envs):
            share, rest = divmod(num_timesteps or 0, self.num_envs)
            turn = (number - self.bars_sampled) % self.num_envs
            env.bar_limit = env.bars_done + share + (turn < rest) if num_timesteps is not None else math.inf
        self._bars_seen = before
        samples = super().sample(num_timesteps=num_timesteps, **kwargs)
        self.bars_sampled += sum(env.bars_done for env in envs) - before
        return samples

    def _increase_sampled_metrics(self, num_steps: int, next_obs: Any, episode: Any) -> int:
        """Count the bars completed since the last call instead of steps."""
        done = sum(env.unwrapped.bars_done for env in self.env.envs)
        passed, self._bars_seen = done - self._bars_seen, done
        return super()._increase_sampled_metrics(passed, next_obs, episode)

    def environment_counters(self) -> list[dict[str, Any]]:
        return [] if self.env is None else [env.unwrapped.env.get_state() for env in self.env.envs]

    def set_environment_counters(self, counters: list[dict[str, Any]]) -> None:
        for env, own in zip(self.env.envs, counters):
            env.unwrapped.env.set_state(own)


class RLlibLearner(ScheduledPPOLearner):
    """RLlib's PPO learner, with learning rates scheduled by bars."""

    def build(self) -> None:
        super().build()
        without_auxiliary = [
            name
            for name in list(self.module.keys())
            if self.should_module_be_updated(name) and self._module[name].policy.has_auxiliary_losses
        ]
        if without_auxiliary:
            logger.warning(
                "networks.attention.losses: no part in RLlib's own loss; %s learn from their rewards alone "
                "(resources.engine = batched adds them)",
                ", ".join(without_auxiliary),
            )
