"""A run that something befalls: begun, left to end or carried on, and compared with the undisturbed one."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import runs
from processes import below
from runs import Command, command
from table import TABLE, Row

TRIES = [0, 1]

Reference = Callable[..., Path]

WORDS = re.compile(r"goes on from|damaged|starts again|no result for|waiting|not used")
"""Of lines that say what befell the run."""


def begin(folder: Path, *overrides: str, env: dict[str, str] | None = None) -> Command:
    return command(folder, "train", "--run", "x", "--budget-scale", runs.SCALE, *runs.settings(*overrides), env=env)


def finish(folder: Path, fault: str, whole: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Carry the run on to its end, and note what became of it."""
    last = command(folder, "resume", "x", *arguments, env=env)
    code = last.end()
    note(folder, fault, whole, last, code)


def note(folder: Path, fault: str, whole: Path, last: Command, code: int, seen: str = "") -> None:
    run = folder / "runs" / "x"
    differing = runs.differences(whole, run) if code == 0 else None
    said = seen or next((line.strip() for line in last.lines if WORDS.search(line)), "")
    count = None if differing is None else len(differing)
    TABLE.add(Row(fault, code == 0, code, said, count, runs.bars_lost(folder)))
    assert code == 0, last.text[-4000:]
    assert not differing, differing[:20]


def kill_one(driver: Command, name: str, rng: random.Random, timeout_s: float = 60.0) -> bool:
    """SIGKILL one process of this name below the driver; False when there was none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and driver.process.poll() is None:
        there = [pid for pid, args in below(driver.process.pid) if name in args]
        if there:
            os.kill(rng.choice(there), signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False


def stopped_in(folder: Path, phase: str, number: int) -> Path:
    """A run whose driver was killed in this phase with at least two checkpoints there; its folder. One is made for each
    phase and number, and copied with what it needs."""
    made = folder.parent / f"stopped_in_{phase}_{number}"
    if not made.exists():
        running = begin(made)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if len(list(made.glob(f"runs/x/{phase}/desk/checkpoint_*/signature.json"))) >= 2 + number:
                break
            time.sleep(0.02)
        running.process.send_signal(signal.SIGKILL)
        running.end()
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    runs.COMMANDS[folder] = list(runs.COMMANDS[made])
    return folder / "runs" / "x"


def newest(run: Path, phase: str) -> Path:
    return max(run.glob(f"{phase}/desk/checkpoint_*"))


def patched(name: str, **variables: str) -> dict[str, str]:
    """Variables with which every process that is started runs this module of `patches` first."""
    paths = [str(Path(__file__).parent / "patches"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PATCH": name, **variables}
