"""How many CPUs a process may use: containers and batch systems allow fewer than a machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtquant_rllib.training.placement.local_cpus import local_cpus


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("", {}, 16),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "350000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/\n", {"cpu.max": "no numbers here"}, 16),
        ("4:cpu,cpuacct:/docker/x\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        (
            "4:cpu,cpuacct:/docker/x\n",
            {"cpu/docker/x/cpu.cfs_quota_us": "400000", "cpu/docker/x/cpu.cfs_period_us": "100000"},
            4,
        ),
    ],
)
def test_the_smallest_quota_of_its_cgroups_counts(tmp_path: Path, own: str, files: dict[str, str], cpus: int) -> None:
    written(tmp_path / "own", own)
    for name, text in files.items():
        written(tmp_path / "cgroup" / name, text)
    assert local_cpus(tmp_path / "cgroup", tmp_path / "own") == cpus


def test_affinity_counts_where_it_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    written(tmp_path / "cpu.max", "800000 100000")
    assert local_cpus(tmp_path, tmp_path / "none") == 2
