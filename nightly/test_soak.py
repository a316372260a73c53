"""An hour of training with a remote runner and a checkpoint after every update: memory, files and shared memory stand
still once it has warmed up."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from pathlib import Path

import numpy as np
import runs
from processes import below, memory_mb, open_files

MINUTES = float(os.environ.get("MTQUANT_SOAK_MINUTES", "60"))
WARM_SHARE = 0.25
"""Of the time, after which growth is measured."""
SLOPE_MB_PER_HOUR = 10.0
FILES = 5
"""How many more files may be open at the end than after warming up."""


def test_an_hour_of_training_grows_nothing(tmp_path: Path) -> None:
    overrides = ("resources.runners=1", "resources.cpus=2", "recipe.validations=1000", "tracking.progress_seconds=60")
    running = runs.command(
        tmp_path, "train", "--run", "x", "--phase", "1", "--budget-scale", "1000", *runs.settings(*overrides)
    )
    assert running.says("bars/s")
    began, seen, each = time.monotonic(), list[dict[str, float]](), list[dict[str, float]]()
    while time.monotonic() - began < 60 * MINUTES:
        names = {running.process.pid: "driver"}
        names |= {pid: name for pid, name in below(running.process.pid) if "ray::" in name}
        family = list(names)
        each.append({f"{name} {pid}": memory_mb(pid) for pid, name in names.items()})
        seen.append(
            {
                "minutes": (time.monotonic() - began) / 60,
                "driver_mb": memory_mb(running.process.pid),
                "all_mb": sum(map(memory_mb, family)),
                "files": sum(map(open_files, family)),
                "shared_mb": sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob("plasma*")) / 2**20,
                "checkpoints": len(list((tmp_path / "runs" / "x").glob("phase_1/*/checkpoint_*"))),
                "processes": len(family),
            }
        )
        assert running.process.poll() is None, running.text[-3000:]
        time.sleep(15)
    os.kill(running.process.pid, signal.SIGINT)
    assert running.end() == 130
    (tmp_path / "soak.json").write_text(json.dumps([{**row, "each": own} for row, own in zip(seen, each)]))
    warm = seen[int(WARM_SHARE * len(seen)) :]
    hours = np.array([row["minutes"] for row in warm]) / 60
    slopes = {key: float(np.polyfit(hours, [row[key] for row in warm], 1)[0]) for key in warm[0] if key != "minutes"}
    first, last = warm[: len(warm) // 4], warm[-len(warm) // 4 :]
    growth = {key: statistics.median(r[key] for r in last) - statistics.median(r[key] for r in first) for key in slopes}
    print(f"slopes per hour: {slopes}\nlast quarter less first: {growth}\nat the end: {warm[-1]}")
    for name in each[-1]:
        own = [row.get(name, 0.0) for row in each[-len(warm) :]]
        print(f"{np.polyfit(hours, own, 1)[0]:+.1f} MB an hour of {own[-1]:.0f}: {name}")
    assert abs(growth["files"]) <= FILES, growth
    assert growth["shared_mb"] < 1.0, growth
    assert slopes["all_mb"] < SLOPE_MB_PER_HOUR, slopes
    assert max(row["checkpoints"] for row in warm) <= 3 * 4, "three trials keep three each, and one being written"
