"""What a runner keeps of levels that learn: preallocated columns, and decisions left open for the next fragment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtquant_rllib.engine.columns import LevelColumns
from mtquant_rllib.engine.sampling.exploration import log_probs
from mtquant_rllib.engine.sampling.policy_batch import PolicyBatch
from mtquant_rllib.env.levels import Level, streams_of
from mtquant_rllib.env.trading import Trading


@dataclass
class PendingDecisions:
    """Decisions that the last fragment left open, per environment: what they saw (private columns), did and have
    earned."""

    open: np.ndarray
    seats: np.ndarray
    private: np.ndarray
    actions: np.ndarray
    inputs: np.ndarray
    rewards: np.ndarray
    bars: np.ndarray
    market_rows: np.ndarray
    turns: np.ndarray


class RolloutBuffer:
    """Preallocated columns of one learning level."""

    def __init__(self, level: Level, n_envs: int, n_bars: int) -> None:
        rows = n_bars + 1
        shape = (rows, n_envs, level.n_seats)
        self.n_bars = n_bars
        self.due = np.zeros((rows, n_envs), dtype=bool)
        self.seats = np.zeros(shape, dtype=np.int8)
        self.private = np.zeros((*shape, len(level.state_columns)), dtype=np.float32)
        self.actions = np.zeros((*shape, level.n_actions), dtype=np.float32)
        self.inputs = np.zeros((*shape, 2 * level.n_actions), dtype=np.float32)
        self.rewards = np.zeros(shape)
        self.final: list[np.ndarray] = []
        self.final_seats: list[np.ndarray] = []

    def clear(self) -> None:
        self.due[:] = False
        self.rewards[:] = 0.0
        self.final, self.final_seats = [], []


@dataclass
class GroupSampler:
    """A level at work in this runner: its modules, who learns, whether one of them learns what regimes are, its policy
    and what is kept of it. seen, answered: what it was last shown and made of
    it, (B, n, F) and (B, n, 2A)."""

    level: Level
    desk: Trading
    modules: tuple[str, ...]
    members: np.ndarray
    learning: np.ndarray
    exploring: np.ndarray
    taught_regimes: bool
    policies: PolicyBatch | None = None
    rollout: RolloutBuffer | None = None
    held: PendingDecisions | None = None
    seen: np.ndarray | None = None
    answered: np.ndarray | None = None

    @property
    def learns(self) -> bool:
        return bool(self.learning.any())

    @cached_property
    def _streams(self) -> np.ndarray:
        return streams_of(self.level.agents, self.desk.universe)

    @cached_property
    def _ever_seated(self) -> np.ndarray:
        return self.members[self.level.seated(self.desk.n_envs)].astype(np.int8)

    def seated(self) -> np.ndarray:
        """Which of the modules sits where, int8 (B, n)."""
        if self.level.seats is None:
            return self._ever_seated
        return self.members[self.level.seats()].astype(np.int8)

    @cached_property
    def _ever_exploring(self) -> np.ndarray:
        return self.exploring[self._ever_seated]

    @cached_property
    def _ever_streams(self) -> np.ndarray:
        return self._streams[self.level.seated(self.desk.n_envs)]

    def streams(self) -> np.ndarray:
        """Index of who sits there among all agents, (B, n)."""
        return self._ever_streams if self.level.seats is None else self._streams[self.level.seats()]

    def explores(self) -> np.ndarray:
        """Whether who sits there explores, bool (B, n)."""
        return self._ever_exploring if self.level.seats is None else self.exploring[self.seated()]

    def prepare(self, n_envs: int, n_bars: int) -> None:
        """Clear the columns, put in what is held on, and allocate anew only for another number of bars."""
        if not self.learns:
            return
        if self.rollout is None or self.rollout.n_bars != n_bars:
            self.rollout = RolloutBuffer(self.level, n_envs, n_bars)
        rollout, held = self.rollout, self.held
        rollout.clear()
        if held is not None and held.open.any():
            rollout.due[0] = held.open
            for name in ("seats", "private", "actions", "inputs", "rewards"):
                getattr(rollout, name)[0] = getattr(held, name)


class EpisodeFlags:
    """What happened to the environments, row by row; row 0 stands for the fragment before."""

    def __init__(self, n_envs: int, n_bars: int) -> None:
        shape = (n_bars + 1, n_envs)
        self.bars, self.terminated, self.truncated = np.zeros((3, *shape), dtype=bool)
        self.market_rows, self.turns = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int8)


@dataclass
class BootstrapObservations:
    """What is seen after the last bar (private columns), and where a decision is due then."""

    private: np.ndarray
    seats: np.ndarray
    due: np.ndarray
    market_rows: np.ndarray
    turns: np.ndarray


def columns_of(sampler: GroupSampler, flags: EpisodeFlags, bootstrap: BootstrapObservations) -> LevelColumns:
    """What a fragment holds of one level; what is still held on stays with the sampler."""
    rollout = sampler.rollout
    assert rollout is not None
    bars, market_rows, turns = flags.bars.astype(np.int64), flags.market_rows.copy(), flags.turns.copy()
    if sampler.held is not None:
        bars[0] = np.where(sampler.held.open, sampler.held.bars, 0)
        market_rows[0], turns[0] = sampler.held.market_rows, sampler.held.turns
    due = rollout.due
    rows = _rows(due)
    columns = {name: rows(getattr(rollout, name)) for name in ("seats", "private", "actions", "inputs")}
    width, n_seats = len(sampler.level.state_columns), sampler.level.n_seats
    sampler.held = _still_held(rollout, bars, market_rows, turns, flags, bootstrap)
    return LevelColumns(
        agents=sampler.level.agents,
        domain=sampler.desk.setup.domain,
        modules=sampler.modules,
        due=due,
        log_probs=log_probs(columns["actions"], columns["inputs"]),
        rewards=rollout.rewards,
        bars=bars,
        terminated=flags.terminated,
        truncated=flags.truncated,
        market_rows=market_rows,
        turns=turns,
        final=np.concatenate([np.zeros((0, n_seats, width), np.float32), *rollout.final]),
        final_seats=np.concatenate([np.zeros((0, n_seats), np.int8), *rollout.final_seats]),
        bootstrap=bootstrap.private,
        bootstrap_seats=bootstrap.seats,
        bootstrap_due=bootstrap.due,
        bootstrap_rows=bootstrap.market_rows,
        bootstrap_turns=bootstrap.turns,
        regimes=sampler.desk.features.regime[market_rows] if sampler.taught_regimes else None,
        **columns,
    )


def _still_held(
    rollout: RolloutBuffer,
    bars: np.ndarray,
    market_rows: np.ndarray,
    turns: np.ndarray,
    flags: EpisodeFlags,
    bootstrap: BootstrapObservations,
) -> PendingDecisions | None:
    """The decisions that no later one and no ending has closed."""
    row = np.arange(len(bars))[:, None]
    decided = np.where(rollout.due, row, -1).max(axis=0)
    ended = np.where(flags.terminated | flags.truncated, row, -1).max(axis=0)
    still = (decided >= 0) & (ended < decided) & ~bootstrap.due
    if not still.any():
        return None
    envs = np.arange(len(still))
    since = row >= decided
    at = (np.maximum(decided, 0), envs)
    return PendingDecisions(
        open=still,
        seats=rollout.seats[at],
        private=rollout.private[at],
        actions=rollout.actions[at],
        inputs=rollout.inputs[at],
        rewards=np.where(since[:, :, None], rollout.rewards, 0.0).sum(axis=0),
        bars=np.where(since, bars, 0).sum(axis=0),
        market_rows=market_rows[at],
        turns=turns[at],
    )


def _rows(due: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Picks the rows that are due from columns (T + 1, B, ...); a view where everybody always was."""
    if due[1:].all() and not due[0].any():
        n_rows = due[1:].size
        return lambda column: column[1:].reshape(n_rows, *column.shape[2:])
    return lambda column: column[due]
