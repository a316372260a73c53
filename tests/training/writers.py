"""Writes into a run, again and again, until it is killed: module states, the manifest, or checkpoints.

    python writers.py

Of every line on its input, `WHAT RUN`, a process is begun, which says its number once it writes. It comes from this
one, which has imported everything: an interpreter for each would take a hundred times as long as what it is killed at.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run_files import modules, written

from mtquant_rllib.training.records import checkpoints, module_states
from mtquant_rllib.training.records.manifest import Manifest


def write_states(run: Path) -> Iterator[None]:
    for number in itertools.count():
        yield
        module_states.write(run / "policies" / "phase_1", modules(number % 7), number=number)


def write_manifest(run: Path) -> Iterator[None]:
    manifest = Manifest.read(run)
    for number in itertools.count():
        yield
        manifest.budget_scale = 1.0 + number % 7
        manifest.write(run)


def write_checkpoints(run: Path) -> Iterator[None]:
    for iteration in itertools.count(1):
        yield
        trial = written(run, iteration)
        checkpoints.prune(run, trial, checkpoints.listed(trial), keep=3)


WRITERS = {"states": write_states, "manifest": write_manifest, "checkpoints": write_checkpoints}


def write(what: str, run: Path) -> None:
    writes = WRITERS[what](run)
    next(writes)
    print(os.getpid(), flush=True)
    for _ in writes:
        pass


def main() -> None:
    for line in sys.stdin:
        what, run = line.split(maxsplit=1)
        child = os.fork()
        if child == 0:
            write(what, Path(run.strip()))
        os.waitpid(child, 0)
        print("ended", flush=True)


class Writers:
    """The program, as a test uses it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, what: str, run: Path) -> int:
        """The number of a process that writes by now."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {run}\n")
        self._process.stdin.flush()
        return int(self._answer())

    def kill(self, number: int) -> None:
        os.kill(number, signal.SIGKILL)
        assert self._answer() == "ended"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def started() -> Iterator[Writers]:
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Writers(process)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
