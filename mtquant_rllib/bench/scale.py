"""Cost of a bar as the market grows, and memory as time passes.

    cost_ratio       the dearest bar over the cheapest, over markets of 5,000 to 1,000,000 bars
    rss_growth_mb    what a sampling runner's resident memory gains after it has warmed up
    own_growth_mb    the part of it that is not the mapped market, of which a runner touches more and more

Bars of a market are counted over its paths. What grows with them are files that are mapped, not read: a step touches
the rows of its own bar. Every page is touched once before the clock starts, as an epoch of training would: what is
measured is the bar and not the disk.
"""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mtquant_rllib.bench.core import RandomActionDriver, memory
from mtquant_rllib.bench.interleaving import interleaved
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded

PATHS_AND_YEARS = ((1, 19.9), (12, 16.6), (62, 16.2), (248, 16.0))
"""Markets of about 5,000, 50,000, 250,000 and 1,000,000 bars."""


def bench_scale(settings: Settings, *, n_envs: int = 256, steps: int = 60, repeats: int = 7) -> Mapping[str, Any]:
    """Cost of a bar on markets of growing length, measured in turns; medians of `repeats` windows of `steps` bars."""
    with tempfile.TemporaryDirectory() as cache:
        before, os.environ["MTQUANT_CACHE"] = os.environ.get("MTQUANT_CACHE"), cache
        try:
            drives = {}
            for paths, years in PATHS_AND_YEARS:
                data = DeskData.open(prepare_embedded(_sized(settings, paths, years)), "train")
                _touch(data)
                bars = sum(segment.stop - segment.start for segment in data.segments)
                drives[bars] = RandomActionDriver(settings, data, n_envs, settings.seed)
            sides = {bars: partial(_cost, drive, n_envs, steps) for bars, drive in drives.items()}
            windows = interleaved(sides, repeats)
        finally:
            if before is None:
                del os.environ["MTQUANT_CACHE"]
            else:
                os.environ["MTQUANT_CACHE"] = before
    cost = {bars: statistics.median(times) for bars, times in windows.items()}
    return {
        "cost_ratio": max(cost.values()) / min(cost.values()),
        "microseconds_per_bar": {str(bars): value for bars, value in cost.items()},
        "windows_microseconds_per_bar": {str(bars): times for bars, times in windows.items()},
        "environments": n_envs,
        "steps": steps,
    }


def _touch(data: DeskData) -> None:
    for array in (
        data.features.block,
        data.features.context,
        data.features.sizing,
        data.execution.money,
        data.execution.flags,
    ):
        array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].sum()


def _cost(drive: RandomActionDriver, n_envs: int, steps: int) -> float:
    """Microseconds of a bar of one environment."""
    started = time.perf_counter()
    for _ in range(steps):
        drive.step()
    return (time.perf_counter() - started) / (n_envs * steps) * 1e6


def _sized(settings: Settings, paths: int, years: float) -> Settings:
    tree = settings.model_dump(mode="json")
    small = {"paths": 1, "years": PATHS_AND_YEARS[0][1]}
    tree["embedded"] |= {"train": {"paths": paths, "years": years}, "validation": small, "test": small}
    return Settings.model_validate(tree)


def bench_memory(settings: Settings, market: Any, *, minutes: float = 10.0, samples: int = 20) -> Mapping[str, Any]:
    """Resident memory of a process with a batched runner that samples without pause.

    Growth is the median of the last quarter of the samples less that of the second: the first is warm-up.
    """
    from mtquant_rllib.bench.setup import endless_run
    from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
    from mtquant_rllib.training.algorithm.building import build_config
    from mtquant_rllib.training.curriculum.phases import JOINT, plan_named
    from mtquant_rllib.training.placement.planner import TrialResources

    manifest = endless_run(settings, market)
    runner = BatchedEnvRunner(
        config=build_config(plan_named(settings, 3, JOINT), manifest, TrialResources(1.0, 1.0, 0.0)), worker_index=0
    )
    bars, readings = 0, []
    began = time.monotonic()
    for number in range(samples):
        while time.monotonic() - began < (number + 1) * minutes * 60 / samples:
            (fragment,) = runner.sample(num_timesteps=settings.recipe.train_batch_bars)
            runner.get_metrics()
            bars += fragment.bars
        readings.append(memory())
    runner.stop()
    quarter = max(samples // 4, 1)

    def growth(values: list[float]) -> float:
        return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])

    resident, own = [reading.resident for reading in readings], [reading.own for reading in readings]
    return {
        "rss_growth_mb": growth(resident),
        "own_growth_mb": growth(own),
        "rss_mb": resident,
        "own_mb": own,
        "bars": bars,
        "minutes": minutes,
    }
