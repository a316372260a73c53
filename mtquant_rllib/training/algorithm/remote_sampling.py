"""Fault-tolerant sampling by remote runners: the same bars come out whether or not one is lost.

Each sample brings along where its runner stood after it (`engine.sampling.runner_base`). A runner that is lost is
started again there and samples what it was asked for. Ray starts lost ones again by itself, unseen between two calls:
so a runner samples only for the algorithm that has put it where it stands, and asks to be put there otherwise. A run
that goes on with another number of runners gives them counters that none of the old ones has used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tree

from mtquant_rllib.engine.sampling.runner_base import SampleResult
from mtquant_rllib.errors import RunError

POLL_S = 0.2
"""Between two looks at whether a lost runner is back, in seconds."""


def sample_remotely(algorithm: Any, asked: Mapping[int, int]) -> list[SampleResult]:
    """Samples of each remote runner. asked: runner index -> bars, in the order of the results.

    Raises
    ------
    RunError
        When a lost runner does not come back within `config.env_runner_restore_timeout_s`.
    """
    group, found, algorithm_id = algorithm.env_runner_group, dict[int, SampleResult](), algorithm.runners_prepared_by
    patience_s = algorithm.config.env_runner_restore_timeout_s
    lost_since: float | None = None
    while missing := [index for index in asked if index not in found]:
        healthy = set(group.healthy_env_runner_ids())
        there = [index for index in missing if index in healthy]
        if there:
            parts = group.foreach_env_runner(
                lambda runner: _sampled(runner, asked[runner.worker_index], algorithm_id),
                local_env_runner=False,
                remote_worker_ids=there,
                # A call that was given up would still be played, and the next one go on behind it.
                timeout_seconds=None,
            )
            unprepared = []
            for part in parts:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, Unprepared):
                    unprepared.append(part.runner)
                else:
                    found[part.counters["runner"]] = replace(part, snapshot=tree.map_structure(_owned, part.snapshot))
            if unprepared:
                algorithm.prepare_runners(unprepared)
        missing = [index for index in asked if index not in found]
        if not missing:
            break
        now = time.monotonic()
        lost_since = now if lost_since is None or there else lost_since
        if now - lost_since > patience_s:
            raise RunError(
                f"environment runner {', '.join(map(str, missing))} was lost and did not come back within "
                f"{patience_s:.0f} seconds"
            )
        if not algorithm.restore_env_runners(group):
            time.sleep(POLL_S)
    return [found[index] for index in asked]


def _owned(leaf: Any) -> Any:
    """An array that came through the object store, in memory of its own: a runner's snapshot is kept until its next
    call, and one array of it would keep in the store all that came with it, a window of 75 MB."""
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


@dataclass(frozen=True)
class Unprepared:
    """The answer of a runner in a new process, whose state has to be restored first."""

    runner: int


def _sampled(runner: Any, bars: int, algorithm_id: str) -> SampleResult | Unprepared | Exception:
    """What a remote runner samples, or what it raised: RLlib drops an exception of a remote call as it does a lost
    process, where it is to be answered by the algorithm."""
    if runner.prepared_by != algorithm_id:
        return Unprepared(runner.worker_index)
    try:
        sampled: SampleResult = runner.sample_bars(bars)
        return sampled
    except Exception as error:
        return error


def reassigned_counters(
    runners: Sequence[int], n_envs: int, runner_counters: Mapping[int, dict[str, Any]], bars: int
) -> dict[int, dict[str, Any]]:
    """Counters of runners for others in their place: those given, where the same runners with as many environments ask.

    Else every environment of the new runners goes on with episodes that none of the old ones has begun, and every new
    runner with noise that none has drawn; episodes that were in progress are given up. bars: sampled so far by all.
    """
    same = set(runner_counters) == set(runners) and all(
        len(own["environments"]) == n_envs for own in runner_counters.values()
    )
    if same:
        return dict(runner_counters)
    latest = _largest([counters for own in runner_counters.values() for counters in own["environments"]])
    return {index: {"runner": index, "bars": bars, "environments": [latest] * n_envs} for index in runners}


def _largest(counters: Sequence[Any]) -> Any:
    """Elementwise maximum of equally nested counters."""
    first = counters[0]
    if isinstance(first, Mapping):
        return {key: _largest([own[key] for own in counters]) for key in first}
    if isinstance(first, list):
        return [_largest(list(parts)) for parts in zip(*counters)]
    return max(counters)
