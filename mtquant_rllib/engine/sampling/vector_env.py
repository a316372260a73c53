"""The environments of one runner as arrays: a desk, one desk per domain where episodes play the domains in turn, or an
allocator.

Everything that is drawn is a pure function of (seed, runner, environment, episode), as in `env.multi_agent`, whose
environments these are, B at a time: the same draws, the same order of decisions, the same core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.allocator import Allocator
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.cores import core_for
from mtquant_rllib.env.data import DeskData
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import draw_episode
from mtquant_rllib.env.market_source import open_market
from mtquant_rllib.env.recall import private_columns
from mtquant_rllib.env.spaces import action_width, observation_width, spaces
from mtquant_rllib.universe import ALLOCATOR, META


@dataclass(frozen=True)
class Level:
    """One kind of agent of a desk, in the order of decision: n seats an environment.

    agents
        Agent ids that seats count; `streams` are their indices among all agents.
    seats
        Who sits: int (B, n), indices into `agents`; None where seat i is agent i for ever.
    private
        Columns of an observation that the feature table does not know (`env.recall`), int64 (p,).
    observe, decide, due
        Observations (B, n, F); take raw actions (B, n, A); whose turn it is, bool (B,).
    """

    agents: tuple[str, ...]
    streams: np.ndarray
    n_seats: int
    observation: int
    actions: int
    private: np.ndarray
    observe: Callable[[], np.ndarray]
    decide: Callable[[np.ndarray], None]
    due: Callable[[], np.ndarray]
    seats: Callable[[], np.ndarray] | None = None

    def seated(self, n_envs: int) -> np.ndarray:
        """(B, n) indices into `agents`."""
        return np.broadcast_to(np.arange(self.n_seats), (n_envs, self.n_seats)) if self.seats is None else self.seats()


class Table:
    """One desk of B environments and its levels. `playing` (B,): where an episode is on."""

    def __init__(self, settings: Settings, data: DeskData, n_envs: int, phase: int, domain: int | None) -> None:
        self.desk = core_for(settings, data, n_envs, EpisodeSetup(phase, domain))
        self.playing = np.zeros(n_envs, dtype=bool)
        self.episodes_begun = np.zeros(n_envs, dtype=np.int64)
        self.levels = self._levels(settings, self.desk) if isinstance(self.desk, Desk) else [self._allocates(settings)]

    def turns(self) -> np.ndarray:
        """Which of the domain's instruments is on turn in a single-domain desk, int8 (B,); 0 elsewhere."""
        desk = self.desk
        if desk.setup.domain is None:
            return np.zeros(desk.n_envs, dtype=np.int8)
        part = desk.universe.domain_slices[desk.setup.domain]
        return desk.state.active[:, part].argmax(axis=1).astype(np.int8)

    def _allocates(self, settings: Settings) -> Level:
        core = self.desk
        assert isinstance(core, Allocator)
        everyone = np.ones(core.n_envs, dtype=bool)
        return Level(
            (ALLOCATOR,),
            np.zeros(1, dtype=np.int64),
            1,
            observation_width(settings, ALLOCATOR),
            action_width(settings, ALLOCATOR),
            private_columns(settings, ALLOCATOR),
            observe=lambda: core.observe()[:, None],
            decide=lambda raw: core.decide(raw[:, 0]),
            due=lambda: everyone,
        )

    def _levels(self, settings: Settings, desk: Desk) -> list[Level]:
        universe = settings.universe
        stream_of = {agent: stream for stream, agent in enumerate(universe.agent_ids)}

        def level(agents: Sequence[str], n_seats: int, **calls: Any) -> Level:
            return Level(
                tuple(agents),
                np.array([stream_of[agent] for agent in agents]),
                n_seats,
                observation_width(settings, agents[0]),
                action_width(settings, agents[0]),
                private_columns(settings, agents[0]),
                **calls,
            )

        def specialist(d: int) -> Level:
            return level(
                universe.specialists[d : d + 1],
                1,
                observe=lambda: desk.observe_specialist(d)[:, None],
                decide=lambda raw: desk.decide_specialist(d, raw[:, 0]),
                due=lambda: desk.specialists_are_due,
            )

        everyone = np.ones(desk.n_envs, dtype=bool)
        if desk.setup.domain is None:
            meta = level(
                (META,),
                1,
                observe=lambda: desk.observe_meta()[:, None],
                decide=lambda raw: desk.decide_meta(raw[:, 0]),
                due=lambda: desk.meta_is_due,
            )
            instruments = level(
                universe.symbols,
                universe.n_instruments,
                observe=desk.observe_instruments,
                decide=desk.decide_instruments,
                due=lambda: everyone,
            )
            return [meta, *(specialist(d) for d in range(universe.n_domains)), instruments]

        part = universe.domain_slices[desk.setup.domain]
        envs = np.arange(desk.n_envs)

        def on_turn() -> np.ndarray:
            return desk.state.active[:, part].argmax(axis=1)

        def decide_on_turn(raw: np.ndarray) -> None:
            everywhere = np.zeros((desk.n_envs, universe.n_instruments, raw.shape[2]))
            everywhere[envs, part.start + on_turn()] = raw[:, 0]
            desk.decide_instruments(everywhere)

        single = level(
            universe.symbols[part],
            1,
            observe=lambda: desk.observe_instruments()[envs, part.start + on_turn()][:, None],
            decide=decide_on_turn,
            due=lambda: everyone,
            seats=lambda: on_turn()[:, None],
        )
        return [specialist(desk.setup.domain), single]


class VectorEnv:
    """All environments of a runner. `config` is the plain dictionary that `env.multi_agent.desk_env` takes; phase 1
    without a domain plays the domains in turn.

    Attributes
    ----------
    bars_done
        Bars completed by each environment since it was made or its counters were set, (B,).
    """

    def __init__(self, config: Mapping[str, Any], n_envs: int, runner: int, seed: int) -> None:
        settings = config["settings"]
        self.settings = settings if isinstance(settings, Settings) else Settings.model_validate(settings)
        universe, phase, domain = self.settings.universe, config["phase"], config.get("domain")
        data = open_market({**config, "settings": self.settings})
        played: Sequence[int | None] = (None,)
        if phase == 1 and not universe.allocates:
            names = [own.name for own in universe.domains]
            played = range(universe.n_domains) if domain is None else [names.index(domain)]
        self.num_envs, self.runner, self.seed = n_envs, runner, seed
        self.stretches = data.stretches
        self.tables = [Table(self.settings, data, n_envs, phase, number) for number in played]
        self.episodes_begun = np.zeros(n_envs, dtype=np.int64)
        self.bars_done = np.zeros(n_envs, dtype=np.int64)
        # What RLlib asks of an environment.
        observation, action = spaces(self.settings)
        agents = dict.fromkeys(agent for table in self.tables for level in table.levels for agent in level.agents)
        self.single_observation_space = gym.spaces.Dict({agent: observation[agent] for agent in agents})
        self.single_action_space = gym.spaces.Dict({agent: action[agent] for agent in agents})
        self.observation_space, self.action_space = self.single_observation_space, self.single_action_space
        self.unwrapped = self

    def close(self) -> None:
        """Nothing is held open but memory maps."""

    def start_over(self) -> None:
        """Begin an episode in every environment."""
        everyone = np.arange(self.num_envs)
        if len(self.tables) > 1:
            for table in self.tables:
                # Rows to stand on while another desk plays; not an episode, and not counted.
                self._reset(table, everyone)
                table.desk.park(everyone)
        for table in self.tables:
            table.playing[:] = False
        self.begin(everyone)

    def begin(self, envs: np.ndarray) -> None:
        """Begin the next episode of each of `envs` (indices)."""
        turn = (envs + self.episodes_begun[envs]) % len(self.tables)
        self.episodes_begun[envs] += 1
        for number, table in enumerate(self.tables):
            here, left = envs[turn == number], envs[(turn != number) & table.playing[envs]]
            if len(left):
                table.desk.park(left)
                table.playing[left] = False
            if len(here):
                self._reset(table, here)
                table.playing[here] = True
                table.episodes_begun[here] += 1

    def _reset(self, table: Table, envs: np.ndarray) -> None:
        settings, domain = self.settings, table.desk.setup.domain
        allocations = (settings.rewards.phase_1_allocation_low, settings.rewards.phase_1_allocation_high)
        n_turns = 1 if domain is None else len(settings.universe.domains[domain].symbols)
        bars, begun = settings.desk.episode.bars, table.episodes_begun
        table.desk.reset(
            envs,
            [
                draw_episode(
                    self.seed, self.runner, int(env), int(begun[env]), self.stretches, bars, allocations, n_turns
                )
                for env in envs
            ],
        )

    def get_state(self) -> list[dict[str, Any]]:
        """Counters of every environment, from which all later episodes follow; one in progress is begun afresh."""
        return [
            {
                "episodes_begun": int(self.episodes_begun[env]),
                "bars_done": int(self.bars_done[env]),
                "tables": [int(table.episodes_begun[env]) for table in self.tables],
            }
            for env in range(self.num_envs)
        ]

    def set_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        for env, counters in enumerate(state):
            self.episodes_begun[env] = counters["episodes_begun"]
            self.bars_done[env] = counters["bars_done"]
            for table, begun in zip(self.tables, counters["tables"]):
                table.episodes_begun[env] = begun
