"""One level's part of the replay: what was decided, in columns, with everything that the market table knows left out.

Every agent has one stream per environment, a ring of C slots in the order of time. A slot is a state (row of the
feature table, private columns) and, where something was decided there, the action, its reward and the bars it was held.
The successor of a decision is the next slot of its stream, so a state is kept once and serves as successor too:

    DECISION   the next slot is its successor
    LAST       the episode was terminated: nothing follows
    STATE      nothing was decided here: where an episode was cut off, or the newest state, whose decision is to come
    EMPTY      never written

The newest state waits at the stream's head, as the runner saw it after its last bar. The decision taken there, on the
same row, takes its place: what was decided above it is then what it is, and not what it might have been. What begins on
another row (a runner that was restored or replaced) leaves the state as it is and takes the next place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mtquant_rllib.engine.columns import LevelColumns, closed_decisions
from mtquant_rllib.env.observation_reconstruction import ObservationReconstruction

EMPTY, STATE, DECISION, LAST = range(4)

COLUMNS = ("kind", "row", "turn", "held", "reward", "private", "action")
_CURSORS = ("head", "used", "waiting", "stored")


class Returns(NamedTuple):
    """reward: discounted to the decision, (R,); discount: of the value of the state in slot `after`, 0 where nothing
    follows."""

    reward: np.ndarray
    discount: np.ndarray
    after: np.ndarray


class StreamStorage:
    """Streams of A agents in E environments, C slots each; slot = (agent * E + environment) * C + position.

    head, used, waiting, stored
        Of each stream: where the next decision goes, how many positions were ever passed, whether a state waits there,
        and how many decisions are kept.
    """

    def __init__(self, recall: ObservationReconstruction, actions: int, n_envs: int, n_slots: int) -> None:
        self.recall, self.actions, self.n_envs, self.n_slots = recall, actions, n_envs, n_slots
        n_streams = len(recall.agents) * n_envs
        slots = n_streams * n_slots
        # Pages that are never written are never taken.
        self.kind = np.zeros(slots, dtype=np.int8)
        self.row = np.zeros(slots, dtype=np.int32)
        self.turn = np.zeros(slots, dtype=np.int8)
        self.held = np.zeros(slots, dtype=np.int16)
        self.reward = np.zeros(slots, dtype=np.float32)
        self.private = np.zeros((slots, len(recall.private)), dtype=np.float32)
        self.action = np.zeros((slots, actions), dtype=np.float32)
        self.head = np.zeros(n_streams, dtype=np.int64)
        self.used = np.zeros(n_streams, dtype=np.int64)
        self.waiting = np.zeros(n_streams, dtype=bool)
        self.stored = np.zeros(n_streams, dtype=np.int64)

    def streams_of(self, agent: int) -> np.ndarray:
        return agent * self.n_envs + np.arange(self.n_envs)

    # -- in -----------------------------------------------------------------------------------------------------------

    def add(self, level: LevelColumns, first_env: int) -> np.ndarray:
        """Take in a fragment of the environments from `first_env` on; returns the slots that were written."""
        closed = closed_decisions(level)
        final_number = np.cumsum(level.truncated.ravel()).reshape(level.truncated.shape) - 1
        written = []
        times, begins = np.unique(closed.t, return_index=True)
        for t, begin, end in zip(times, begins, [*begins[1:], len(closed.t)]):
            part = slice(begin, end)
            env = closed.env[part]
            row, turn = level.market_rows[t, env], level.turns[t, env]
            streams = self._streams(level, env + first_env, turn)
            slots = self._state(streams, row, turn, level.private[part])
            written.append(slots.ravel())
            self.waiting[streams] = True

            known, over = closed.known[part], closed.ends[part]
            until = np.where(over, closed.until[part] - 1, 0)
            nothing_follows = over & level.terminated[until, env]
            mine = slots[known]
            self.action[mine] = level.actions[part][known]
            self.reward[mine] = closed.rewards[part][known]
            self.held[mine] = closed.bars[part][known, None]
            self.kind[mine] = np.where(nothing_follows, LAST, DECISION)[known, None]
            self.stored[streams[known]] += 1
            self._pass(streams[known])

            cut = over & level.truncated[until, env]
            if cut.any():
                number = final_number[until[cut], env[cut]]
                row_then = level.market_rows[until[cut], env[cut]] + 1
                written.append(self._state(streams[cut], row_then, turn[cut], level.final[number]).ravel())
                self._pass(streams[cut])
        due = np.flatnonzero(level.bootstrap_due)
        if len(due):
            turn = level.bootstrap_turns[due]
            streams = self._streams(level, due + first_env, turn)
            slots = self._state(streams, level.bootstrap_rows[due], turn, level.bootstrap[due])
            self.waiting[streams] = True
            written.append(slots.ravel())
        return np.concatenate(written) if written else np.zeros(0, dtype=np.int64)

    def _streams(self, level: LevelColumns, env: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Of each seat, (k, n)."""
        return level.agents_at(turn) * self.n_envs + env[:, None]

    def _state(self, streams: np.ndarray, row: np.ndarray, turn: np.ndarray, private: np.ndarray) -> np.ndarray:
        """Write states (k, n) at the heads of their streams, and past what waits there if that is another."""
        slots = streams * self.n_slots + self.head[streams]
        same = (self.row[slots] == row[:, None]) & (self.turn[slots] == turn[:, None])
        self._pass(streams[self.waiting[streams] & ~same])
        slots = streams * self.n_slots + self.head[streams]
        self.row[slots], self.turn[slots], self.private[slots] = row[:, None], turn[:, None], private
        self.stored[streams] -= self.is_decision(slots)
        self.kind[slots] = STATE
        return slots

    def _pass(self, streams: np.ndarray) -> None:
        self.head[streams] = (self.head[streams] + 1) % self.n_slots
        self.used[streams] = np.minimum(self.used[streams] + 1, self.n_slots)
        self.waiting[streams] = False

    # -- out ----------------------------------------------------------------------------------------------------------

    def is_decision(self, slots: np.ndarray) -> np.ndarray:
        return self.kind[slots] >= DECISION

    def successors(self, slots: np.ndarray) -> np.ndarray:
        position = slots % self.n_slots
        return slots - position + (position + 1) % self.n_slots

    def observe(self, slots: np.ndarray) -> np.ndarray:
        """float32 (R, F): what was seen there."""
        agents = slots // (self.n_envs * self.n_slots)
        return self.recall(agents, self.row[slots], self.turn[slots], self.private[slots])

    def returns(self, slots: np.ndarray, n_steps: int, gamma: float) -> Returns:
        """Of up to `n_steps` decisions from each of `slots` on, fewer where the stream stops. Discounts follow bars:

        R = sum_j gamma^D_j r_j,      D_j = bars held by the decisions before the j-th
        """
        reward, bars = np.zeros(len(slots)), np.zeros(len(slots), dtype=np.int64)
        going, over = np.ones(len(slots), dtype=bool), np.zeros(len(slots), dtype=bool)
        after = slots
        for step in range(n_steps):
            now = after
            if step:
                going = going & ~over & self.is_decision(now)
            reward += np.where(going, gamma**bars * self.reward[now], 0.0)
            bars += np.where(going, self.held[now], 0)
            over |= going & (self.kind[now] == LAST)
            after = np.where(going, self.successors(now), now)
        return Returns(reward.astype(np.float32), np.where(over, 0.0, gamma**bars).astype(np.float32), after)

    # -- state --------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Positions that were ever written, column by column."""
        top = min(int(self.used.max()) + 1, self.n_slots)
        by_stream = {name: getattr(self, name).reshape(len(self.head), self.n_slots, -1)[:, :top] for name in COLUMNS}
        return {
            "agents": self.recall.agents,
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
