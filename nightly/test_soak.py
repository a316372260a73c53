"""An hour of training with a remote runner and a checkpoint after every update: memory, files and shared memory stand
still once it has warmed up.

Updates are short, so that there are thousands of them and as many checkpoints: what grows by the update is told from
what grows by the bar or by the hour.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import runs
import scipy.stats
from processes import below, memory_mb, open_files, shared_memory_mb

MINUTES = float(os.environ.get("MTQUANT_SOAK_MINUTES", "60"))
WARM_SHARE = 0.25
"""Of the time, after which growth is measured."""
SLOPE_MB_PER_HOUR = 10.0
UPDATES_A_MINUTE = 20
"""At least, of every trial: with fewer, too little has happened to say that nothing grows."""
FILES = 5
"""How many more files may be open at the end than after warming up."""


def test_an_hour_of_training_grows_nothing(tmp_path: Path) -> None:
    overrides = ["resources.runners=1", "resources.cpus=2", "recipe.validations=1000", "tracking.progress_seconds=60"]
    overrides += ["recipe.train_batch_bars=512", "recipe.batch_size=128"]
    running = runs.command(
        tmp_path, "train", "--run", "x", "--phase", "1", "--budget-scale", "1000", *runs.settings(*overrides)
    )
    assert running.says("bars/s")
    began, seen = time.monotonic(), list[dict[str, float]]()
    names: dict[int, str] = {}
    while time.monotonic() - began < 60 * MINUTES:
        everyone = {pid: name for pid, name in below(running.process.pid) if "ray::" in name or "raylet" in name}
        names = {running.process.pid: "driver"} | {pid: name.split("/")[-1][:40] for pid, name in everyone.items()}
        seen.append(
            {
                "minutes": (time.monotonic() - began) / 60,
                "files": sum(map(open_files, names)),
                "shared_mb": sum(map(shared_memory_mb, names)),
                "checkpoints": len(list((tmp_path / "runs" / "x").glob("phase_1/*/checkpoint_*"))),
                "processes": len(names),
                **{str(pid): memory_mb(pid) for pid in names},
            }
        )
        assert running.process.poll() is None, running.text[-3000:]
        time.sleep(15)
    os.kill(running.process.pid, signal.SIGINT)
    assert running.end() == 130
    warm = seen[int(WARM_SHARE * len(seen)) :]
    growth = {key: _growth(warm, key) for key in ("files", "processes")}
    slopes = {pid: _slope(warm, str(pid)) for pid in names}
    for pid, name in names.items():
        quarters = " ".join(f"{_median(part, str(pid)):.0f}" for part in _quarters(warm))
        print(f"{slopes[pid]:+.1f} MB an hour, medians of quarters {quarters}: {name} {pid}")
    print(f"{sum(slopes.values()):+.1f} MB an hour of all; last quarter less first: {growth}; {len(warm)} readings")
    shared = _slope(warm, "shared_mb")
    print(
        f"{shared:+.1f} MB an hour of the {_median(warm, 'shared_mb'):.1f} MB of shared memory that were ever touched"
    )
    updates = {
        path.stem: path.read_text().count("\n") - 1 for path in (tmp_path / "runs" / "x" / "curves").glob("*.csv")
    }
    print(f"updates: {updates}")
    assert len(updates) == 3, updates
    assert min(updates.values()) >= UPDATES_A_MINUTE * MINUTES, updates
    assert growth["files"] <= FILES, growth
    assert _median(warm, "shared_mb") > 0, "the object store is looked at"
    assert sum(slopes.values()) + shared < SLOPE_MB_PER_HOUR, {names[pid]: slope for pid, slope in slopes.items()}
    assert max(row["checkpoints"] for row in warm) <= 3 * 4, "three trials keep three each, and one being written"


def _known(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    """(hours, reading) where there was a reading."""
    return [(row["minutes"] / 60, row[key]) for row in rows if not math.isnan(row.get(key, math.nan))]


def _median(rows: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(reading for _, reading in _known(rows, key))


def _slope(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """An hour's growth: Theil and Sen's median of slopes, which single readings cannot move."""
    hours, readings = zip(*_known(rows, key))
    return float(scipy.stats.theilslopes(readings, hours).slope)


def _quarters(rows: Sequence[Mapping[str, float]]) -> list[Sequence[Mapping[str, float]]]:
    n = len(rows)
    return [rows[k * n // 4 : (k + 1) * n // 4] for k in range(4)]


def _growth(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """Median of the last quarter less that of the first."""
    first, *_, last = _quarters(rows)
    return _median(last, key) - _median(first, key)
