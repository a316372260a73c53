"""One agent's decisions, kept while a rollout plays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.env.trading import Trading
from mtquant_rllib.errors import RunError


@dataclass(frozen=True)
class Decisions:
    """One agent's decisions, history by history, in order of time.

    env, bar
        int (K,): the history, and the bar of its record that the decision was taken for.
    obs
        float32 (K, F): the agent's observations.
    regime
        int8 (K,): the detector's label at the decision.
    """

    agent: str
    env: np.ndarray
    bar: np.ndarray
    obs: np.ndarray
    regime: np.ndarray

    def of_history(self, env: int) -> np.ndarray:
        """Positions of one history's decisions."""
        return np.flatnonzero(self.env == env)


class DecisionLog:
    """Keeps one agent's observations while a rollout plays: an observer for `PolicyPlayer`."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self._parts: list[tuple[np.ndarray, ...]] = []

    def __call__(self, agent: str, desk: Trading, obs: np.ndarray, decides: np.ndarray) -> None:
        if agent != self.agent:
            return
        envs = np.flatnonzero(decides)
        regime = np.asarray(desk.features.regime)[desk.state.row[envs]]
        self._parts.append((envs, desk.state.bars_done[envs], obs[envs].copy(), regime))

    def decisions(self) -> Decisions:
        """Raises RunError when the agent took none."""
        parts = [part for part in self._parts if len(part[0])]
        if not parts:
            raise RunError(f"{self.agent} takes no decision in this rollout")
        env, bar, obs, regime = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.lexsort((bar, env))
        return Decisions(self.agent, env[order], bar[order], obs[order], regime[order])
