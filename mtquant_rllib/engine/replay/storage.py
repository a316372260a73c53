"""One level's part of the replay, in columns, without what can be looked up in the feature table.

Every agent has one stream per environment, a ring of C slots in the order of time. A slot holds a state (row of the
feature table, private columns) and, where a decision was taken, the action, its reward and the bars it lasted. The next
state of a decision is the next slot of its stream, so that each state is stored once:

    DECISION   the next slot is its successor
    LAST       the episode was terminated: nothing follows
    STATE      without a decision: the end of a truncated episode, or the newest state, whose decision is yet to come
    EMPTY      never written

The newest state lies at the stream's head, as the runner observed it after its last bar. The decision taken there, on
the same row, overwrites it with the private columns that it was taken on. A decision on another row (of a runner that
was restored or replaced) leaves the state as it is and takes the next slot.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mtquant_rllib.engine.fragments import LevelColumns, decision_outcomes
from mtquant_rllib.env.observations.reconstruction import ObservationReconstruction

EMPTY, STATE, DECISION, LAST = range(4)

COLUMNS = ("kind", "row", "active_instrument", "bars_held", "reward", "private", "action")
_CURSORS = ("head", "used", "waiting", "stored")


class Returns(NamedTuple):
    """n-step returns: rewards discounted to the decision, (R,); the slot at the end of each, (R,), and the discount of
    the value there, 0 after a termination."""

    reward: np.ndarray
    discount: np.ndarray
    next_slot: np.ndarray


class StreamStorage:
    """Streams of A agents in E environments, C slots each; slot = (agent * E + environment) * C + position.

    head, used, waiting, stored
        Of each stream: the position of the next decision, the positions ever written, whether the head holds a state
        whose decision is yet to come, and the decisions stored.
    """

    def __init__(self, reconstruct: ObservationReconstruction, actions: int, n_envs: int, n_slots: int) -> None:
        self.reconstruct, self.actions, self.n_envs, self.n_slots = reconstruct, actions, n_envs, n_slots
        n_streams = len(reconstruct.agents) * n_envs
        slots = n_streams * n_slots
        # Memory of zeros that is never written is never allocated.
        self.kind = np.zeros(slots, dtype=np.int8)
        self.row = np.zeros(slots, dtype=np.int32)
        self.active_instrument = np.zeros(slots, dtype=np.int8)
        self.bars_held = np.zeros(slots, dtype=np.int16)
        self.reward = np.zeros(slots, dtype=np.float32)
        self.private = np.zeros((slots, len(reconstruct.private)), dtype=np.float32)
        self.action = np.zeros((slots, actions), dtype=np.float32)
        self.head = np.zeros(n_streams, dtype=np.int64)
        self.used = np.zeros(n_streams, dtype=np.int64)
        self.waiting = np.zeros(n_streams, dtype=bool)
        self.stored = np.zeros(n_streams, dtype=np.int64)

    def streams_of(self, agent: int) -> np.ndarray:
        return agent * self.n_envs + np.arange(self.n_envs)

    # -- storing ------------------------------------------------------------------------------------------------------

    def add(self, level: LevelColumns, first_env: int) -> np.ndarray:
        """Store a fragment of the environments from `first_env` on. Returns the slots written."""
        outcomes = decision_outcomes(level)
        final_number = np.cumsum(level.truncated.ravel()).reshape(level.truncated.shape) - 1
        written = []
        times, begins = np.unique(outcomes.t, return_index=True)
        for t, begin, end in zip(times, begins, [*begins[1:], len(outcomes.t)]):
            part = slice(begin, end)
            env = outcomes.env[part]
            row, active_instrument = level.market_rows[t, env], level.active_instrument[t, env]
            streams = self._streams_of(level, env + first_env, active_instrument)
            slots = self._write_states(streams, row, active_instrument, level.private[part])
            written.append(slots.ravel())
            self.waiting[streams] = True

            complete, ended = outcomes.complete[part], outcomes.ends[part]
            until = np.where(ended, outcomes.until[part] - 1, 0)
            nothing_follows = ended & level.terminated[until, env]
            decided = slots[complete]
            self.action[decided] = level.actions[part][complete]
            self.reward[decided] = outcomes.rewards[part][complete]
            self.bars_held[decided] = outcomes.bars[part][complete, None]
            self.kind[decided] = np.where(nothing_follows, LAST, DECISION)[complete, None]
            self.stored[streams[complete]] += 1
            self._advance(streams[complete])

            truncated = ended & level.truncated[until, env]
            if truncated.any():
                number = final_number[until[truncated], env[truncated]]
                row_then = level.market_rows[until[truncated], env[truncated]] + 1
                written.append(
                    self._write_states(
                        streams[truncated], row_then, active_instrument[truncated], level.final[number]
                    ).ravel()
                )
                self._advance(streams[truncated])
        due = np.flatnonzero(level.bootstrap_due)
        if len(due):
            active_instrument = level.bootstrap_active_instrument[due]
            streams = self._streams_of(level, due + first_env, active_instrument)
            slots = self._write_states(streams, level.bootstrap_rows[due], active_instrument, level.bootstrap[due])
            self.waiting[streams] = True
            written.append(slots.ravel())
        return np.concatenate(written) if written else np.zeros(0, dtype=np.int64)

    def _streams_of(self, level: LevelColumns, env: np.ndarray, active_instrument: np.ndarray) -> np.ndarray:
        """Numbers of the streams of those that act, (k, n)."""
        return level.agents_at(active_instrument) * self.n_envs + env[:, None]

    def _write_states(
        self, streams: np.ndarray, row: np.ndarray, active_instrument: np.ndarray, private: np.ndarray
    ) -> np.ndarray:
        """Write states (k, n) at the heads of their streams, or one further where the head waits on another row."""
        slots = streams * self.n_slots + self.head[streams]
        same = (self.row[slots] == row[:, None]) & (self.active_instrument[slots] == active_instrument[:, None])
        self._advance(streams[self.waiting[streams] & ~same])
        slots = streams * self.n_slots + self.head[streams]
        self.row[slots], self.active_instrument[slots], self.private[slots] = (
            row[:, None],
            active_instrument[:, None],
            private,
        )
        self.stored[streams] -= self.is_decision(slots)
        self.kind[slots] = STATE
        return slots

    def _advance(self, streams: np.ndarray) -> None:
        self.head[streams] = (self.head[streams] + 1) % self.n_slots
        self.used[streams] = np.minimum(self.used[streams] + 1, self.n_slots)
        self.waiting[streams] = False

    # -- reading ------------------------------------------------------------------------------------------------------

    def is_decision(self, slots: np.ndarray) -> np.ndarray:
        return self.kind[slots] >= DECISION

    def successors(self, slots: np.ndarray) -> np.ndarray:
        position = slots % self.n_slots
        return slots - position + (position + 1) % self.n_slots

    def observe(self, slots: np.ndarray) -> np.ndarray:
        """The observations in these slots, float32 (R, F)."""
        agents = slots // (self.n_envs * self.n_slots)
        return self.reconstruct(agents, self.row[slots], self.active_instrument[slots], self.private[slots])

    def returns(self, slots: np.ndarray, n_steps: int, gamma: float) -> Returns:
        """Returns of `n_steps` decisions from each of `slots` on, of fewer where the stream stops. Discounts follow
        bars:

        R = sum_j gamma^D_j r_j,      D_j = bars that the decisions before the j-th lasted
        """
        reward, bars = np.zeros(len(slots)), np.zeros(len(slots), dtype=np.int64)
        running, ended = np.ones(len(slots), dtype=bool), np.zeros(len(slots), dtype=bool)
        next_slot = slots
        for step in range(n_steps):
            now = next_slot
            if step:
                running = running & ~ended & self.is_decision(now)
            reward += np.where(running, gamma**bars * self.reward[now], 0.0)
            bars += np.where(running, self.bars_held[now], 0)
            ended |= running & (self.kind[now] == LAST)
            next_slot = np.where(running, self.successors(now), now)
        return Returns(reward.astype(np.float32), np.where(ended, 0.0, gamma**bars).astype(np.float32), next_slot)

    # -- state --------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """The written positions, column by column."""
        top = min(int(self.used.max()) + 1, self.n_slots)
        by_stream = {name: getattr(self, name).reshape(len(self.head), self.n_slots, -1)[:, :top] for name in COLUMNS}
        return {
            "agents": self.reconstruct.agents,
            "actions": self.actions,
            "n_envs": self.n_envs,
            "n_slots": self.n_slots,
            **{name: np.ascontiguousarray(column) for name, column in by_stream.items()},
            **{name: getattr(self, name).copy() for name in _CURSORS},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        top = state["kind"].shape[1]
        for name in COLUMNS:
            getattr(self, name).reshape(len(self.head), self.n_slots, -1)[:, :top] = state[name]
        for name in _CURSORS:
            getattr(self, name)[:] = state[name]
