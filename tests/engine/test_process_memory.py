"""Memory that is no longer used goes back to the machine: cycles and free tuples by full collections, freed heap by the
C library. In processes of its own: a test session's is not to be frozen."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("memory_program.py")


def _measured(*words: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


@pytest.mark.slow
def test_a_worker_full_of_long_lived_objects_collects_its_cycles_once_they_are_frozen() -> None:
    """Without it CPython waits until a quarter as many objects have gathered as live for good: the growth that an
    hour of training showed."""
    free, frozen = _measured("cycles"), _measured("cycles", "freeze")
    assert free["full_collections"] == 0
    assert free["cycles_alive"] > 50_000
    assert frozen["full_collections"] > 0
    assert frozen["cycles_alive"] < free["cycles_alive"] / 3


@pytest.mark.slow
def test_a_process_that_is_not_ray_s_is_not_frozen() -> None:
    assert _measured("outside")["frozen"] == 0


@pytest.mark.slow
def test_objects_that_were_frozen_are_found_again_once_they_are_unfrozen() -> None:
    measured = _measured("undone")
    assert measured["while_frozen"] == 1
    assert measured["after"] == 0


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is of GNU's C library")
def test_freed_memory_goes_back_to_the_machine_once_a_minute() -> None:
    measured = _measured("trim")
    assert measured["kept_mb"] > 30, "freed between what stays, so that the C library keeps it"
    assert measured["after_trim_mb"] < measured["kept_mb"] / 3
    assert measured["too_soon_mb"] > 30
    assert measured["a_minute_later_mb"] < measured["too_soon_mb"] / 3
