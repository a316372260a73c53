"""`Level`: a group of agents at the core that they decide in. All who drive a core loop over its levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtquant_rllib.agents.groups import AgentGroup
from mtquant_rllib.universe import Universe


class Decide(Protocol):
    """Takes raw actions (B, n, A) where a decision is due, or where `due`, bool (B,), says so instead."""

    def __call__(self, raw: np.ndarray, due: np.ndarray | None = None) -> None: ...


@dataclass(frozen=True)
class Level:
    """One group of agents in B environments, n seats in each.

    group
        The row of the desk that it is.
    agents
        Those of the group that play here. Seat i is agent i, or where one seat serves several, the one on turn.
    n_seats
        Agents that decide in an environment.
    observe
        What they see, float32 (B, n, F).
    decide
        Takes what they do.
    due
        Environments in which they decide at this bar, bool (B,).
    seats
        Who sits: int (B, n), indices into `agents`; None where seat i is agent i for ever.
    """

    group: AgentGroup
    agents: tuple[str, ...]
    n_seats: int
    observe: Callable[[], np.ndarray]
    decide: Decide
    due: Callable[[], np.ndarray]
    seats: Callable[[], np.ndarray] | None = None

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def n_actions(self) -> int:
        """Components of one agent's action."""
        return len(self.group.actions)

    @property
    def state_columns(self) -> np.ndarray:
        """Columns of an observation that are no function of the market's row, int64 (p,)."""
        return self.group.state_columns

    def seated(self, n_envs: int) -> np.ndarray:
        """(B, n) indices into `agents`."""
        return np.broadcast_to(np.arange(self.n_seats), (n_envs, self.n_seats)) if self.seats is None else self.seats()


def streams_of(agents: Sequence[str], universe: Universe) -> np.ndarray:
    """Indices of agents among all of the universe: their columns of a bar's rewards, int64 (len(agents),)."""
    return np.array([universe.agent_ids.index(agent) for agent in agents])
