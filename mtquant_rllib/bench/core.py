"""How fast the core steps, and how much memory it takes, with risk on and nothing but numpy.

A bar is the whole of a bar: three levels observed and decided, risk, fills, marks and rewards, for B environments.
The policies are left out: raw actions are drawn before the clock starts.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import draw_episode
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer

_ACTION_SETS = 8
_WARM_UP_STEPS = 5


class RandomActionDriver:
    """Drives a training desk with raw actions drawn in advance, starting episodes over as they end."""

    def __init__(self, settings: Settings, data: DeskData, n_envs: int, seed: int) -> None:
        self._settings, self._instrument_segments, self._seed = settings, data.instrument_segments(settings, None), seed
        setup = EpisodeSetup()
        self.desk = Desk(settings, data.execution, data.features, n_envs, setup, RiskLayer(settings, n_envs, setup))
        self._episodes = np.zeros(n_envs, dtype=np.int64)
        self._begin(np.arange(n_envs))
        rng = np.random.default_rng(seed)
        self._actions = [
            [rng.uniform(-1, 1, (n_envs, level.n_acting, level.n_actions)) for level in self.desk.levels]
            for _ in range(_ACTION_SETS)
        ]
        self._step = 0

    def _begin(self, envs: np.ndarray) -> None:
        rewards = self._settings.rewards
        self.desk.reset(
            envs,
            [
                draw_episode(
                    self._seed,
                    0,
                    int(env),
                    int(self._episodes[env]),
                    self._instrument_segments,
                    self._settings.desk.episode.bars,
                    (rewards.specialist_allocation_low, rewards.specialist_allocation_high),
                )
                for env in envs
            ],
        )
        self._episodes[envs] += 1

    def step(self, after_advance: Callable[[Desk], None] | None = None) -> None:
        """One bar of every environment. `after_advance` looks at the desk before finished episodes begin again."""
        actions = self._actions[self._step % _ACTION_SETS]
        self._step += 1
        desk = self.desk
        for level, raw in zip(desk.levels, actions, strict=True):
            level.observe()
            level.decide(raw)
        result = desk.advance()
        if after_advance is not None:
            after_advance(desk)
        over = np.flatnonzero(result.terminated | result.truncated)
        if len(over):
            self._begin(over)


def bench_core(
    settings: Settings, data_folder: Path, *, n_envs: int = 1024, steps: int = 60, repeats: int = 5
) -> Mapping[str, Any]:
    """Environment-bars a second (median of `repeats` windows of `steps` bars), and this process's memory.

    Returns a dictionary with `bars_per_s`, its raw windows, `rss_mb` now and `peak_rss_mb`.
    """
    drive = RandomActionDriver(settings, DeskData.open(data_folder, "train"), n_envs, settings.seed)
    for _ in range(_WARM_UP_STEPS):
        drive.step()
    windows = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(steps):
            drive.step()
        windows.append(n_envs * steps / (time.perf_counter() - started))
    return {
        "bars_per_s": statistics.median(windows),
        "windows_bars_per_s": windows,
        "environments": n_envs,
        "steps": steps,
        "rss_mb": memory().resident,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


class Memory(NamedTuple):
    """Of this process, MB. Resident is its own and what it has touched of mapped files: a prepared market, which
    processes share and the system takes back at will."""

    resident: float
    own: float


def memory() -> Memory:
    """At this moment; where the system does not tell the two apart, the largest there has been, for both."""
    status = Path("/proc/self/status")
    if not status.is_file():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Memory(peak, peak)
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return Memory(*(int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")))
