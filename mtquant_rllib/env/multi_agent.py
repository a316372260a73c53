"""The desk as a turn-based RLlib `MultiAgentEnv`, and the wrapper that gives risk the last word.

A bar takes two or three calls of `step`: the meta-controller on the bars where it decides, then the specialists, then
the instruments, whose actions carry the desk to the next close. Rewards of all agents arrive with that close. At the
end of an episode every agent receives a final observation, on turn or not: without it RLlib drops the last transition
of those off turn.

`DeskEnv` has no limits of its own. `RiskWrapper` puts a risk manager between what is proposed and what is executed;
it is a `MultiAgentEnv`, because RLlib reads spaces through `unwrapped`, where a `gym.Wrapper` would vanish.
`desk_env` builds both from RLlib's `env_config` (`config.environment.EnvironmentConfig`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.utils.typing import MultiAgentDict

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import draw_episode
from mtquant_rllib.env.levels import Level
from mtquant_rllib.env.observations.spaces import spaces
from mtquant_rllib.env.prepared.source import open_market
from mtquant_rllib.env.risk_layer import RiskEdit, RiskLayer
from mtquant_rllib.errors import ConfigError

Step = tuple[MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict]
"""Observations, rewards, terminateds, truncateds, infos."""


class DeskEnv(MultiAgentEnv):
    """One desk, turn by turn, without limits.

    Attributes
    ----------
    bars_done
        Bars completed since construction (or since the state that was restored), over all episodes.
    desk
        The batched core with one environment.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        own = EnvironmentConfig.of(config)
        self.settings = own.settings
        if own.plays_domains_in_turn:
            raise ConfigError("no domain named: this environment plays one; `make_env` plays them in turn")
        data = open_market(own)
        self.desk = Desk(self.settings, data.execution, data.features, 1, EpisodeSetup(own.reward, own.domain_index))
        self._instrument_segments = data.instrument_segments(self.settings, own.domain_index)
        self.seed_of_run = self.settings.seed if own.seed is None else own.seed
        self.set_env_index(getattr(config, "worker_index", 0), getattr(config, "vector_index", 0) or 0)
        self.bars_done = 0
        self._episodes_begun = 0
        self.observation_spaces, self.action_spaces = spaces(self.settings)
        self.possible_agents = [agent for level in self.desk.levels for agent in level.agents]
        self.agents = list(self.possible_agents)
        self._turns = [
            list(levels) for _, levels in groupby(self.desk.levels, key=lambda level: level.group.decision_order)
        ]
        self._turn = 0
        self._streams: list[tuple[int, Any]] = []

    def set_env_index(self, runner: int, environment: int) -> None:
        """Set the indices of the runner and of the environment in it: draws depend on (seed, runner, environment,
        episode)."""
        self.runner, self.environment = runner, environment

    def get_state(self) -> dict[str, int]:
        """Counters that determine the following episodes; an episode in progress is not part of it and is begun
        again."""
        return {"episodes_begun": self._episodes_begun, "bars_done": self.bars_done}

    def set_state(self, state: Mapping[str, int]) -> None:
        self._episodes_begun = int(state["episodes_begun"])
        self.bars_done = int(state["bars_done"])

    # -- gymnasium ----------------------------------------------------------------------------------------------------

    def reset(  # type: ignore[override]  # RLlib's own differs from gymnasium's
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[MultiAgentDict, MultiAgentDict]:
        """Begin the next episode. `seed`, when given, replaces the run's seed and starts again from the first
        episode."""
        if seed is not None:
            self.seed_of_run, self._episodes_begun = int(seed), 0
        universe = self.settings.universe
        rewards = self.settings.rewards
        draw = draw_episode(
            self.seed_of_run,
            self.runner,
            self.environment,
            self._episodes_begun,
            self._instrument_segments,
            self.settings.desk.episode.bars,
            (rewards.specialist_allocation_low, rewards.specialist_allocation_high),
        )
        self._episodes_begun += 1
        self.desk.reset(np.array([0]), [draw])
        self.agents = [agent for level in self.desk.levels for agent in _acting_agents(level)]
        stream_of: MultiAgentDict = {agent: stream for stream, agent in enumerate(universe.agent_ids)}
        self._streams = [(stream_of[agent], agent) for agent in self.agents]
        return self._next_turn(0), {}

    def step(self, action_dict: MultiAgentDict) -> Step:  # type: ignore[override]  # RLlib's own differs from gymnasium's
        """Take the actions of the agents on turn."""
        desk = self.desk
        running: MultiAgentDict = {"__all__": False}
        for level in self._turns[self._turn]:
            level.decide(np.stack([action_dict[agent] for agent in _acting_agents(level)])[None])
        if self._turn < len(self._turns) - 1:
            return self._next_turn(self._turn + 1), {}, running, dict(running), {}
        result = desk.advance()
        self.bars_done += 1
        rewards: MultiAgentDict = {agent: float(result.rewards[0, stream]) for stream, agent in self._streams}
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        if not (terminated or truncated):
            return self._next_turn(0), rewards, running, dict(running), {}
        terminateds: MultiAgentDict = dict.fromkeys([*self.agents, "__all__"], terminated)
        truncateds: MultiAgentDict = dict.fromkeys([*self.agents, "__all__"], truncated)
        return self._all_observations(), rewards, terminateds, truncateds, {}

    # -- turns --------------------------------------------------------------------------------------------------------

    def _next_turn(self, first: int) -> MultiAgentDict:
        """Advance to the first turn from `first` on at which an agent decides. Returns the observations of that
        turn."""
        self._turn = next(
            number
            for number in range(first, len(self._turns))
            if any(bool(level.due()[0]) for level in self._turns[number])
        )
        return _observations(self._turns[self._turn])

    def _all_observations(self) -> MultiAgentDict:
        return _observations(self.desk.levels)


def _acting_agents(level: Level) -> list[Any]:
    """Ids of the agents that act in the one environment."""
    return [level.agents[index] for index in level.acting_agents(1)[0]]


def _observations(levels: Iterable[Level]) -> MultiAgentDict:
    """Observations of the levels' agents."""
    return {agent: obs for level in levels for agent, obs in zip(_acting_agents(level), level.observe()[0])}


class RiskWrapper(MultiAgentEnv):
    """Puts the risk manager between proposed and executed positions of a `DeskEnv`, and keeps the record of its
    edits."""

    def __init__(self, env: DeskEnv) -> None:
        super().__init__()
        self.env = env
        env.desk.risk = self.risk = RiskLayer(env.settings, env.desk.n_envs, env.desk.setup)
        self.possible_agents = env.possible_agents
        self.agents = env.agents
        self.observation_spaces, self.action_spaces = env.observation_spaces, env.action_spaces

    @property
    def desk(self) -> Desk:
        return self.env.desk

    @property
    def bars_done(self) -> int:
        return self.env.bars_done

    def edits(self) -> list[RiskEdit]:
        """What risk changed in the last bar: proposed, executed, binding rule, measure and limit of each."""
        return self.risk.edits(0)

    def set_env_index(self, runner: int, environment: int) -> None:
        self.env.set_env_index(runner, environment)

    def get_state(self) -> dict[str, int]:
        return self.env.get_state()

    def set_state(self, state: Mapping[str, int]) -> None:
        self.env.set_state(state)

    def reset(  # type: ignore[override]  # RLlib's own differs from gymnasium's
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[MultiAgentDict, MultiAgentDict]:
        result = self.env.reset(seed=seed, options=options)
        self.agents = self.env.agents
        return result

    def step(self, action_dict: MultiAgentDict) -> Step:  # type: ignore[override]  # RLlib's own differs from gymnasium's
        return self.env.step(action_dict)


def desk_env(config: Mapping[str, Any]) -> RiskWrapper | DeskEnv:
    """The environment that is trained in: a desk under its risk manager, unless the recipe trains without."""
    desk = DeskEnv(config)
    return RiskWrapper(desk) if EnvironmentConfig.of(config).limited else desk
