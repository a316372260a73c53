"""The state of a batched runner in the middle of its episodes, and undoing a call of `sample`.

A replacement of the runner continues from `snapshot_of`, which travels between processes. A `RunnerBackup` stays in the
process and holds more, so that a call that failed half-way can be undone in environments, counters and metrics.
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
    """The episodes in progress of a `BatchedEnvRunner`: desks, which environments play, and pending decisions.

    The runner does not write to it later: it may be kept without a copy.
    """
    return {
        "played_on": _played_on(runner),
        "desks": [part.desk.snapshot() for part in runner.env.domain_envs],
        "playing": [part.playing.copy() for part in runner.env.domain_envs],
        "pending": [
            [sampler.pending and dict(vars(sampler.pending)) for sampler in samplers] for samplers in runner._samplers
        ],
        "returns": runner._returns.copy(),
        "lengths": runner._lengths.copy(),
    }


def restore_snapshot(runner: Any, state: dict[str, Any]) -> bool:
    """Put a runner of the same configuration into the state of a snapshot. False, and nothing is done, where its
    environments play other bars or rules by now."""
    if state["played_on"] != _played_on(runner):
        return False
    for part, desk, playing in zip(runner.env.domain_envs, state["desks"], state["playing"]):
        part.desk.restore(desk)
        part.playing[:] = playing
    for samplers, pending in zip(runner._samplers, state["pending"]):
        for sampler, own in zip(samplers, pending):
            sampler.pending = own and PendingDecisions(**own)
    runner._returns[:], runner._lengths[:] = state["returns"], state["lengths"]
    runner._began[:] = time.perf_counter()
    return True


def _played_on(runner: Any) -> dict[str, Any]:
    """What rows of episodes in progress mean."""
    config = runner.environment_config
    arrays = None if config.market is None else config.market.arrays
    return {"split": config.split, "arrays": arrays, "limited": config.limited}


@dataclass
class RunnerBackup:
    """The state of a batched runner before a call of `sample`.

    counters: episodes begun and bars done, (B,) each, of all and of each domain's environments. stats: RLlib's, of the
    runner's metrics logger. views: of episode callbacks, whose own side effects are not undone.
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
    def of(cls, runner: Any) -> RunnerBackup:
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

    def restore(self, runner: Any) -> None:
        """Undo the call. May be used several times."""
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
        # Before a call no fall-back counts are outstanding.
        runner.fallbacks.take()


def _counters(runner: Any) -> list[np.ndarray]:
    env = runner.env
    return [env.episodes_begun, env.bars_done, *(part.episodes_begun for part in env.domain_envs)]


def _own_copy(stats: Any) -> Any:
    """A copy of one of RLlib's statistics with values of its own. `copy.deepcopy` takes three times as long, on every
    call; the statistics' own `clone` begins empty."""
    twin = copy.copy(stats)
    for name, item in vars(stats).items():
        if isinstance(item, (list, dict)) or hasattr(item, "appendleft"):
            setattr(twin, name, copy.copy(item))
    return twin
