"""RLlib's own runner, connectors and PPO learner for the desk, asked for bars.

The reference that the batched engine is measured against. A bar takes two or three of RLlib's steps, one per turn, so
two things are added and nothing is taken away: bars are counted instead of turns, and an environment that has played
its share waits. Whoever waits sees nothing and is asked for nothing; RLlib keeps its open rows for the next call.

What RLlib's engine cannot do stays undone: modules that do not learn explore and are stored like the others, epochs
follow the module with the most rows, and discounts follow decisions.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from mtquant_rllib.engine.learning.ppo_learner import BarSchedule
from mtquant_rllib.engine.randomness import NOISE, seed_torch
from mtquant_rllib.engine.sampling.runner_base import BarRunner

logger = logging.getLogger(__name__)


class Paced(MultiAgentEnv):
    """An environment that plays up to `goal` bars and then waits, with what it would show next in hand."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.env = env
        self.goal: float = math.inf  # under a runner that gives it none, it never waits
        self._in_hand: dict[str, Any] | None = None
        self.possible_agents, self.agents = env.possible_agents, env.agents
        self.observation_spaces, self.action_spaces = env.observation_spaces, env.action_spaces

    @property
    def bars_done(self) -> int:
        return self.env.bars_done

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin the next episode. RLlib's seed is left alone: draws follow the run's seed and the seat."""
        self._in_hand = None
        result = self.env.reset()
        self.agents = self.env.agents
        return result

    def step(self, action_dict: dict[Any, Any]) -> Any:
        waiting, over = self.bars_done >= self.goal, False
        rewards: dict[str, float] = {}
        terminateds = truncateds = {"__all__": False}
        infos: dict[str, Any] = {}
        if self._in_hand is not None:
            observations = self._in_hand
        else:
            observations, rewards, terminateds, truncateds, infos = self.env.step(action_dict)
            waiting, over = self.bars_done >= self.goal, terminateds["__all__"] or truncateds["__all__"]
        self._in_hand = observations if waiting and not over else None
        return ({} if self._in_hand is not None else observations), rewards, terminateds, truncateds, infos


class RLlibEnvRunner(BarRunner):
    """`MultiAgentEnvRunner`, counted in bars."""

    def __init__(self, config: AlgorithmConfig, **kwargs: Any) -> None:
        torch.set_num_threads(1)
        super().__init__(config, **kwargs)
        self.bars_sampled = 0
        self._bars_seen = 0

    def make_env(self) -> None:
        super().make_env()
        for environment, env in enumerate(self.env.envs):
            env.unwrapped.env.seat(self.worker_index or 0, environment)

    def sample(self, *, num_timesteps: Any = None, **kwargs: Any) -> Any:
        seed_torch(self.config.seed or 0, self.worker_index or 0, self.bars_sampled, NOISE)
        envs = [env.unwrapped for env in self.env.envs]
        before = sum(env.bars_done for env in envs)
        for number, env in enumerate(envs):
            share, rest = divmod(num_timesteps or 0, self.num_envs)
            turn = (number - self.bars_sampled) % self.num_envs
            env.goal = env.bars_done + share + (turn < rest) if num_timesteps is not None else math.inf
        self._bars_seen = before
        samples = super().sample(num_timesteps=num_timesteps, **kwargs)
        self.bars_sampled += sum(env.bars_done for env in envs) - before
        return samples

    def _increase_sampled_metrics(self, num_steps: int, next_obs: Any, episode: Any) -> int:
        """Count the bars completed since the last call instead of the step taken."""
        done = sum(env.unwrapped.bars_done for env in self.env.envs)
        passed, self._bars_seen = done - self._bars_seen, done
        return super()._increase_sampled_metrics(passed, next_obs, episode)

    def environment_counters(self) -> list[dict[str, Any]]:
        return [] if self.env is None else [env.unwrapped.env.get_state() for env in self.env.envs]

    def set_environment_counters(self, counters: list[dict[str, Any]]) -> None:
        for env, own in zip(self.env.envs, counters):
            env.unwrapped.env.set_state(own)


class RLlibLearner(BarSchedule):
    """RLlib's PPO learner, with rates that follow bars."""

    def build(self) -> None:
        super().build()
        untaught = [
            name
            for name in list(self.module.keys())
            if self.should_module_be_updated(name) and self._module[name].policy.teaches
        ]
        if untaught:
            logger.warning(
                "networks.attention.losses: no part in RLlib's own loss; %s learn from their rewards alone "
                "(resources.engine = batched teaches them)",
                ", ".join(untaught),
            )
