"""The environment under its name in RLlib, and the plain configuration that it is made from.

Importing this file registers `ENV`, so that it is known wherever a checkpoint of the desk's algorithms is opened, and
RLlib's own algorithms can be given it by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from mtquant_rllib.config import Settings
from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.engine.rllib_reference import PausingEnv
from mtquant_rllib.env.multi_agent import desk_env
from mtquant_rllib.errors import ConfigError

ENV = "mtquant_desk"
"""RLlib's name of the environment."""


class DomainCyclingEnv(MultiAgentEnv):
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

    def set_env_index(self, runner: int, environment: int) -> None:
        self._environment = environment
        for desk in self._desks:
            desk.set_env_index(runner, environment)

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
    """The environment creator: phase 1 without a domain plays them all in turn."""
    own = EnvironmentConfig.of(config)
    if own.phase == 1 and own.domain is None:
        return PausingEnv(DomainCyclingEnv(config, tuple(domain.name for domain in own.settings.universe.domains)))
    return PausingEnv(desk_env(config))


def register() -> None:
    """Give the environment its name. Tune forgets names with the session in which they were given, so this is done
    whenever one is about to be used, and on import for whoever uses RLlib's own algorithms."""
    register_env(ENV, make_env)


register()


def env_config(
    settings: Settings | str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    market: str | Path | None = None,
    macro: str | Path | None = None,
    phase: int = 3,
    domain: str | None = None,
    split: str = "train",
) -> dict[str, Any]:
    """Prepare a market and return what `ENV` is made from, plain values all: `env_config` of an RLlib configuration.

    Parameters
    ----------
    settings
        Settings, or the name of a file of them ("laptop.yaml"); the default ones where None. overrides: changes to a
        file's, "recipe.environments=4".
    market, macro
        Files of bars and of macro series; without, the embedded synthetic market.
    phase, domain
        Who plays: in phase 1 the agents of one domain, or of all in turn; afterwards all twelve.
    split
        `train`, `validation` or `test`.

    Raises
    ------
    ConfigError
        When the settings are an allocator's, or there is no such phase, domain or split.
    MarketDataError
        When the bars cannot be used.
    """
    from mtquant_rllib.training.preparation import centred, prepare

    register()
    if isinstance(settings, Settings):
        if overrides:
            raise ConfigError("overrides with settings that are loaded already: pass them to Settings.load")
    else:
        settings = (
            Settings.load(overrides=overrides) if settings is None else Settings.load(settings, overrides=overrides)
        )
    if settings.allocator is not None:
        raise ConfigError(
            "env_config: an allocator's account is no multi-agent environment; it trains by `mtquant train`"
        )
    played = {"phase": phase, "domain": domain, "split": split, "seed": settings.seed}
    EnvironmentConfig.of({"data": ".", "settings": settings, **played})  # Before the market is prepared.
    record = prepare(settings, None if market is None else Path(market), None if macro is None else Path(macro))
    prepared = {"data": record.data, "market": record.recipe, "settings": centred(settings, record)}
    return EnvironmentConfig.of({**prepared, **played}).plain()
