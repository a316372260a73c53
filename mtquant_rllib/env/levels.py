"""`Level`: a group of agents bound to the core that it decides in. Whatever drives a core loops over its levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtquant_rllib.agents.groups import AgentGroup
from mtquant_rllib.universe import Universe


class Decide(Protocol):
    """Take raw actions (B, n, A) in the environments where a decision is due, or in those of `due`, bool (B,)."""

    def __call__(self, raw: np.ndarray, due: np.ndarray | None = None) -> None: ...


@dataclass(frozen=True)
class Level:
    """One group of agents in B environments, in each of which n act.

    group
        Its description.
    agents
        Ids of those of the group that play here. In a single-domain episode one of them is active, and n is 1.
    n_acting
        n.
    observe
        Their observations, float32 (B, n, F).
    decide
        Takes their raw actions.
    due
        Environments in which they decide at this bar, bool (B,).
    acting
        Indices into `agents` of those that act, int (B, n); None where all act, in their order.
    """

    group: AgentGroup
    agents: tuple[str, ...]
    n_acting: int
    observe: Callable[[], np.ndarray]
    decide: Decide
    due: Callable[[], np.ndarray]
    acting: Callable[[], np.ndarray] | None = None

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def n_actions(self) -> int:
        """Components of one agent's action."""
        return len(self.group.actions)

    @property
    def state_columns(self) -> np.ndarray:
        """Columns of an observation that do not follow from the market's row, int64 (p,)."""
        return self.group.state_columns

    def acting_agents(self, n_envs: int) -> np.ndarray:
        """Indices into `agents` of those that act, int (B, n)."""
        return (
            np.broadcast_to(np.arange(self.n_acting), (n_envs, self.n_acting)) if self.acting is None else self.acting()
        )


def agent_indices(agents: Sequence[str], universe: Universe) -> np.ndarray:
    """Indices of agents among all of the universe, which are their columns of a bar's rewards, int64 (len(agents),)."""
    return np.array([universe.agent_ids.index(agent) for agent in agents])
