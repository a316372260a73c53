"""Which environment a trial's runners build from its plain configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from mtquant_rllib.config import Settings
from mtquant_rllib.engine.stock import Paced
from mtquant_rllib.env.multi_agent import desk_env


class DomainRota(MultiAgentEnv):
    """Phase 1 over several domains: each episode plays one domain, in turn.

    Needed where one module serves instruments of every domain and so cannot be trained domain by domain.
    """

    def __init__(self, config: Mapping[str, Any], domains: tuple[str, ...]) -> None:
        super().__init__()
        self._desks: list[Any] = [desk_env(EnvContext({**config, "domain": domain}, 0)) for domain in domains]
        self._episodes_begun = self._environment = 0
        self._now = self._desks[0]
        self.observation_spaces = {k: v for desk in self._desks for k, v in desk.observation_spaces.items()}
        self.action_spaces = {k: v for desk in self._desks for k, v in desk.action_spaces.items()}
        self.possible_agents = [agent for desk in self._desks for agent in desk.possible_agents]
        self.agents = list(self._now.agents)

    @property
    def bars_done(self) -> int:
        return sum(desk.bars_done for desk in self._desks)

    def seat(self, runner: int, environment: int) -> None:
        self._environment = environment
        for desk in self._desks:
            desk.seat(runner, environment)

    def get_state(self) -> dict[str, Any]:
        return {"episodes_begun": self._episodes_begun, "desks": [desk.get_state() for desk in self._desks]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._episodes_begun = state["episodes_begun"]
        for desk, own in zip(self._desks, state["desks"]):
            desk.set_state(own)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._now = self._desks[(self._environment + self._episodes_begun) % len(self._desks)]
        self._episodes_begun += 1
        result = self._now.reset(seed=seed, options=options)
        self.agents = list(self._now.agents)
        return result

    def step(self, action_dict: Any) -> Any:
        return self._now.step(action_dict)


def make_env(config: EnvContext) -> MultiAgentEnv:
    """The environment creator of every trial: phase 1 without a domain plays them all in turn."""
    return Paced(_turn_by_turn(config))


def _turn_by_turn(config: EnvContext) -> MultiAgentEnv:
    if config["phase"] == 1 and config["domain"] is None:
        universe = Settings.model_validate(config["settings"]).universe
        return DomainRota(config, tuple(domain.name for domain in universe.domains))
    return desk_env(config)
