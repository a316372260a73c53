"""A batched runner in the middle of its episodes as arrays, and a call of sampling that is taken back as a whole.

`snapshot_of` is what a replacement of the runner goes on from, and travels between processes. `Before` is more and
stays here: with it a call that failed half-way has not happened, in the environments, the counters and the metrics.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tree

from mtquant_rllib.engine.sampling.rollout_buffer import PendingDecisions


def snapshot_of(runner: Any) -> dict[str, Any]:
    """Episodes in progress of a `BatchedEnvRunner`: the desks, who plays where, and the decisions held on.

    Nothing in it is written to later: it may be kept and handed on without a copy.
    """
    return {
        "desks": [part.desk.snapshot() for part in runner.env.domain_envs],
        "playing": [part.playing.copy() for part in runner.env.domain_envs],
        "held": [[sampler.held and dict(vars(sampler.held)) for sampler in samplers] for samplers in runner._samplers],
        "returns": runner._returns.copy(),
        "lengths": runner._lengths.copy(),
    }


def restore_snapshot(runner: Any, state: dict[str, Any]) -> None:
    """Put a runner of the same configuration where `snapshot_of` saw one."""
    for part, desk, playing in zip(runner.env.domain_envs, state["desks"], state["playing"]):
        part.desk.restore(desk)
        part.playing[:] = playing
    for samplers, held in zip(runner._samplers, state["held"]):
        for sampler, own in zip(samplers, held):
            sampler.held = own and PendingDecisions(**own)
    runner._returns[:], runner._lengths[:] = state["returns"], state["lengths"]
    runner._began[:] = time.perf_counter()


@dataclass
class Before:
    """A batched runner before a call of `sample`.

    counters: episodes begun and bars done, (B,) each, of all and of each domain's environments. stats: RLlib's of the
    runner's logger. views: what episode callbacks see; what they did with it is not taken back.
    """

    snapshot: dict[str, Any]
    counters: list[np.ndarray]
    began: np.ndarray
    bars_sampled: int
    lifetime: Any
    needs_reset: bool
    stats: Any
    views: dict[int, Any]

    @classmethod
    def of(cls, runner: Any) -> Before:
        callbacks = runner._episode_callbacks
        return cls(
            snapshot_of(runner),
            [array.copy() for array in _counters(runner)],
            runner._began.copy(),
            runner.bars_sampled,
            runner.num_env_steps_sampled_lifetime,
            runner._needs_initial_reset,
            tree.map_structure(_own_copy, runner.metrics.stats),
            copy.deepcopy(callbacks.views) if callbacks.wanted else {},
        )

    def put_back(self, runner: Any) -> None:
        """Make the call undone. May be used again: another attempt may fail too."""
        restore_snapshot(runner, self.snapshot)
        for array, kept in zip(_counters(runner), self.counters):
            array[:] = kept
        runner._began[:] = self.began
        runner.bars_sampled = self.bars_sampled
        runner.num_env_steps_sampled_lifetime = self.lifetime
        runner._needs_initial_reset = self.needs_reset
        runner._term_sums = {}
        runner.metrics.stats = tree.map_structure(_own_copy, self.stats)
        runner._episode_callbacks.views = copy.deepcopy(self.views)
        # Nothing was left to take before the call.
        runner.fallbacks.take()


def _counters(runner: Any) -> list[np.ndarray]:
    env = runner.env
    return [env.episodes_begun, env.bars_done, *(part.episodes_begun for part in env.domain_envs)]


def _own_copy(stats: Any) -> Any:
    """One statistic of RLlib's with values of its own. `copy.deepcopy` of all of them takes three times as long, on
    every call; their own `clone` begins empty."""
    twin = copy.copy(stats)
    for name, item in vars(stats).items():
        if isinstance(item, (list, dict)) or hasattr(item, "appendleft"):
            setattr(twin, name, copy.copy(item))
    return twin
