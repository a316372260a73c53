"""What a runner hands to the learner: columns per agent, not objects per step.

RLlib's episode objects cost more than environment and networks together once twelve agents take turns. A fragment is
the same content as arrays: for every agent of every environment its decisions in a row, with the reward each earned
until the agent's next decision, and the observation after the last one, from which the tail is valued.

Discounts follow time, not turns: a decision that held for five bars discounts what comes after by gamma^5, so an agent
that decides every five bars and one that decides every bar value the same future alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Trajectory:
    """n consecutive decisions of one agent in one episode.

    observations: (n + 1, width) float32, the last one seen but not acted on; actions: (n, k) float32, raw;
    logits: (n, 2k) float32, inputs of the distribution the actions were drawn from; log_probs: (n,) float32;
    rewards: (n,) float64, each summed until the next decision; bars: (n,) int64, bars each decision held;
    terminated: nothing follows the last decision, so nothing of it is valued.
    """

    module: str
    observations: np.ndarray
    actions: np.ndarray
    logits: np.ndarray
    log_probs: np.ndarray
    rewards: np.ndarray
    bars: np.ndarray
    terminated: bool

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass
class Fragment:
    """What one runner sampled in one call: `bars` environment-bars and the trajectories of every learning agent.

    seats
        State of the runner's counters after the call; with it a replacement goes on where this one stood.
    """

    bars: int
    trajectories: list[Trajectory] = field(default_factory=list)
    seats: dict[str, Any] = field(default_factory=dict)

    def env_steps(self) -> int:
        return self.bars

    def agent_steps(self) -> int:
        return sum(len(trajectory) for trajectory in self.trajectories)

    def __len__(self) -> int:
        return self.bars


def by_module(fragments: Sequence[Fragment]) -> dict[str, list[Trajectory]]:
    """Trajectories of all fragments, grouped by the module that acted, in order of first appearance."""
    groups: dict[str, list[Trajectory]] = {}
    for fragment in fragments:
        for trajectory in fragment.trajectories:
            groups.setdefault(trajectory.module, []).append(trajectory)
    return groups


def advantages(
    trajectories: Sequence[Trajectory], values: np.ndarray, gamma: float, lambda_: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimates (Schulman et al. 2016) and value targets of every decision, in order.

    values: (sum of len + 1,), value of every observation, trajectory after trajectory. Returns two float32 arrays of
    shape (sum of len,). With d_t bars between decision t and the next,

        delta_t = r_t + gamma^d_t V_t+1 - V_t,      A_t = delta_t + (gamma lambda)^d_t A_t+1,

    and the last V is 0 where the episode terminated. Rewards inside a decision's bars are not discounted.
    """
    lengths = np.array([len(trajectory) for trajectory in trajectories])
    longest = int(lengths.max())
    shape = (len(trajectories), longest)
    reward, bars, value = np.zeros(shape), np.ones(shape), np.zeros((len(trajectories), longest + 1))
    valid = np.arange(longest) < lengths[:, None]
    after = np.arange(longest + 1) <= lengths[:, None]
    reward[valid] = np.concatenate([trajectory.rewards for trajectory in trajectories])
    bars[valid] = np.concatenate([trajectory.bars for trajectory in trajectories])
    value[after] = values
    ended = np.array([trajectory.terminated for trajectory in trajectories])
    value[np.flatnonzero(ended), lengths[ended]] = 0.0
    delta = np.where(valid, reward + gamma**bars * value[:, 1:] - value[:, :-1], 0.0)
    decay = np.where(valid, (gamma * lambda_) ** bars, 0.0)
    advantage = np.zeros(shape)
    tail = np.zeros(len(trajectories))
    for t in range(longest - 1, -1, -1):
        tail = delta[:, t] + decay[:, t] * tail
        advantage[:, t] = tail
    flat = advantage[valid]
    return flat.astype(np.float32), (flat + value[:, :-1][valid]).astype(np.float32)


def standardised(column: np.ndarray) -> np.ndarray:
    """(x - mean) / deviation; a constant column becomes zeros."""
    return ((column - column.mean()) / max(float(column.std()), 1e-4)).astype(np.float32)
