"""The CPUs that this machine lets a process use: a container or a batch system may allow fewer than there are."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def local_cpus(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Whole CPUs, at least 1: those of this process's affinity, as far as its cgroups' quotas go."""
    affinity = getattr(os, "sched_getaffinity", None)
    there = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min([there, *(math.floor(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """CPUs by each cgroup that this process is in, of version 2 and of version 1."""
    places = [""]
    with contextlib.suppress(OSError):
        places += [line.rpartition(":")[2].strip("/") for line in own.read_text().splitlines()]
    for place in dict.fromkeys(places):
        folder = Path(place)
        for part in (folder, *folder.parents):
            with contextlib.suppress(OSError, ValueError):
                quota, period = (cgroups / part / "cpu.max").read_text().split()
                yield float(quota) / float(period)
            with contextlib.suppress(OSError, ValueError):
                version_1 = cgroups / "cpu" / part
                allowed = float((version_1 / "cpu.cfs_quota_us").read_text())
                if allowed > 0:
                    yield allowed / float((version_1 / "cpu.cfs_period_us").read_text())
