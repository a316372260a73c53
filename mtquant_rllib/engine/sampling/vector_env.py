"""The environments of one runner as arrays: a desk, one desk per domain where episodes play the domains in turn, or an
allocator.

These are the environments of `env.multi_agent`, B at a time: the same core and order of decisions, and the same random
draws, which are a pure function of (seed, runner, environment, episode).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import draw_episode
from mtquant_rllib.env.observations.spaces import spaces
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.prepared.source import open_market


class DomainEnvs:
    """B environments of one domain, of all domains, or of an allocator. playing: bool (B,), in the middle of an
    episode."""

    def __init__(
        self, settings: Settings, data: DeskData, n_envs: int, config: EnvironmentConfig, domain: int | None
    ) -> None:
        self.desk = core_for(settings, data, n_envs, EpisodeSetup(config.reward, domain), limited=config.limited)
        self.instrument_segments = data.instrument_segments(settings, domain)
        self.playing = np.zeros(n_envs, dtype=bool)
        self.episodes_begun = np.zeros(n_envs, dtype=np.int64)
        self.levels = self.desk.levels

    def active_instrument(self) -> np.ndarray:
        """Which of the domain's instruments is active in a single-domain desk, int8 (B,); 0 elsewhere."""
        return self.desk.active_instrument().astype(np.int8)


class VectorEnv:
    """All environments of a runner. Phase 1 without a domain plays the domains in turn.

    Attributes
    ----------
    bars_done
        Bars completed by each environment since it was made or its counters were set, (B,).
    """

    def __init__(self, config: EnvironmentConfig, n_envs: int, runner: int, seed: int) -> None:
        self.settings, phase = config.settings, config.phase
        universe, data = self.settings.universe, open_market(config)
        played: Sequence[int | None] = (config.domain_index,)
        if phase == 1 and config.domain is None and not universe.allocates:
            played = range(universe.n_domains)
        self.num_envs, self.runner, self.seed = n_envs, runner, seed
        self.domain_envs = [DomainEnvs(self.settings, data, n_envs, config, number) for number in played]
        self.episodes_begun = np.zeros(n_envs, dtype=np.int64)
        self.bars_done = np.zeros(n_envs, dtype=np.int64)
        # RLlib reads these attributes of an environment.
        observation, action = spaces(self.settings)
        agents = dict.fromkeys(agent for part in self.domain_envs for level in part.levels for agent in level.agents)
        self.single_observation_space = gym.spaces.Dict({agent: observation[agent] for agent in agents})
        self.single_action_space = gym.spaces.Dict({agent: action[agent] for agent in agents})
        self.observation_space, self.action_space = self.single_observation_space, self.single_action_space
        self.unwrapped = self

    def close(self) -> None:
        """Does nothing: only memory maps are open."""

    def start_over(self) -> None:
        """Begin an episode in every environment."""
        all_envs = np.arange(self.num_envs)
        if len(self.domain_envs) > 1:
            for part in self.domain_envs:
                # Valid market rows while another desk plays; not counted as an episode.
                self._reset(part, all_envs)
                part.desk.finish(all_envs)
        for part in self.domain_envs:
            part.playing[:] = False
        self.begin(all_envs)

    def begin(self, envs: np.ndarray) -> None:
        """Begin the next episode of each of `envs` (indices)."""
        domain = (envs + self.episodes_begun[envs]) % len(self.domain_envs)
        self.episodes_begun[envs] += 1
        for number, part in enumerate(self.domain_envs):
            here, left = envs[domain == number], envs[(domain != number) & part.playing[envs]]
            if len(left):
                part.desk.finish(left)
                part.playing[left] = False
            if len(here):
                self._reset(part, here)
                part.playing[here] = True
                part.episodes_begun[here] += 1

    def _reset(self, part: DomainEnvs, envs: np.ndarray) -> None:
        settings = self.settings
        allocations = (settings.rewards.specialist_allocation_low, settings.rewards.specialist_allocation_high)
        choices, bars, begun = part.instrument_segments, settings.desk.episode.bars, part.episodes_begun
        part.desk.reset(
            envs,
            [
                draw_episode(self.seed, self.runner, int(env), int(begun[env]), choices, bars, allocations)
                for env in envs
            ],
        )

    def get_state(self) -> list[dict[str, Any]]:
        """Counters of every environment, which determine all later episodes; an episode in progress is begun again."""
        return [
            {
                "episodes_begun": int(self.episodes_begun[env]),
                "bars_done": int(self.bars_done[env]),
                "domains": [int(part.episodes_begun[env]) for part in self.domain_envs],
            }
            for env in range(self.num_envs)
        ]

    def set_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        for env, counters in enumerate(state):
            self.episodes_begun[env] = counters["episodes_begun"]
            self.bars_done[env] = counters["bars_done"]
            for part, begun in zip(self.domain_envs, counters["domains"]):
                part.episodes_begun[env] = begun
