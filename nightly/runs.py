"""Runs started from the command line as a user would, killed, carried on, and compared bit by bit."""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SMALL = (
    "embedded.train={paths: 2, years: 3}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
    "desk.episode.bars=30",
    "recipe.environments=4",
    "recipe.validations=4",
    "recipe.min_updates=12",
    "resources.cpus=2",
    "tracking.progress_seconds=0",
)
ON_CLUSTER = tuple(override for override in SMALL if not override.startswith("resources.cpus"))
"""All CPUs of the cluster."""
SMALL_SAC = (
    "recipe.algorithms=[sac, sac, sac]",
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=16",
    "sac.bars_per_gradient_step=4",
    "sac.rollout_bars=20",
    "sac.learning_starts_bars=40",
)
SCALE = "0.001"
"""500 bars a domain, 300 and 1,000 in the phases after."""

TIMED = ("bars_per_s", "sampling_s", "learning_s", "validation_s", "env_retries", "_percent", "memory_gb")
"""Ends of the columns of a curve that hold times, what was used of the machine, and how often something was done
again."""


@dataclass
class Command:
    """A `mtquant` process and what it says."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def says(self, words: str, timeout_s: float = 300.0) -> bool:
        """Wait until it has said this; False when it ended before."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if words in self.text:
                return True
            if self.process.poll() is not None:
                return words in self.text
            time.sleep(0.02)
        raise TimeoutError(f"never said {words!r}: {self.text[-3000:]}")

    def end(self, timeout_s: float = 600.0) -> int:
        """Its exit code."""
        code = self.process.wait(timeout_s)
        time.sleep(0.05)
        return code


COMMANDS: dict[Path, list[Command]] = {}
"""What was started in a folder, in turn."""


def command(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Command:
    """Start `mtquant ARGUMENTS` with a cache, a home for its key and a working directory under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "MTQUANT_CACHE": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "OMP_NUM_THREADS": "1",
        **(env or {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mtquant_rllib.cli", *arguments],
        env=variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    running = listening(process)
    COMMANDS.setdefault(folder, []).append(running)
    return running


def listening(process: subprocess.Popen[str]) -> Command:
    """A process whose words are kept as they come."""
    running = Command(process)

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            running.lines.append(line)

    threading.Thread(target=listen, daemon=True).start()
    return running


def settings(*overrides: str, small: Sequence[str] = SMALL) -> list[str]:
    """Overrides as words of a command line."""
    return [word for override in (*small, *overrides) for word in ("--set", override)]


def undisturbed(folder: Path, run: str, *overrides: str) -> Path:
    """Train a run from end to end."""
    whole = command(folder, "train", "--run", run, "--budget-scale", SCALE, *settings(*overrides))
    assert whole.end() == 0, whole.text[-4000:]
    return folder / "runs" / run


def killed_at_random(folder: Path, run: str, kills: int, seed: int, *overrides: str) -> tuple[Path, list[str]]:
    """Train a run whose driver is killed by SIGKILL at `kills` random moments, and carried on after each; its folder
    and what was said when it was carried on."""
    rng, path, said = random.Random(seed), folder / "runs" / run, []
    words = ["train", "--run", run, "--budget-scale", SCALE, *settings(*overrides)]
    for number in range(kills):
        running = command(folder, *words)
        # One in five dies before the first result of its stretch, the others up to several checkpoints after it.
        running.says("phase" if rng.random() < 0.2 else "bars/s")
        time.sleep(rng.uniform(0.0, 3.0))
        if running.process.poll() is not None:
            assert running.end() == 0, running.text[-4000:]
            said.append(f"{number} kills: it was done before the next")
            break
        running.process.send_signal(signal.SIGKILL)
        running.end()
        said += [line.strip() for line in running.lines if "goes on from" in line or "damaged" in line]
        if (path / "manifest.json").exists():
            words = ["resume", run]
    last = command(folder, "resume", run)
    assert last.end() == 0, last.text[-4000:]
    return path, said


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs: states, optimisers, replay, environments and curves, times left out."""
    first, second = fingerprint(one), fingerprint(other)
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def fingerprint(run: Path) -> dict[str, str]:
    """Hashes of everything that a run's result consists of, by its place."""
    found: dict[str, str] = {}
    for index in sorted(run.glob("**/modules/*/last/*.npz")) + sorted(run.glob("policies/*/*.npz")):
        with np.load(index) as arrays:
            found |= {f"{index.relative_to(run)}:{key}": digest(arrays[key]) for key in arrays.files}
    for trial in sorted(run.glob("phase_*/*/checkpoint_*")):
        if trial == max(trial.parent.glob("checkpoint_*")):
            found |= {f"{trial.parent.relative_to(run)}:{key}": value for key, value in state_of(trial).items()}
    for curve in sorted(run.glob("curves/*.csv")):
        found |= {f"{curve.name}:{key}": value for key, value in rows_of(curve)}
    return found


def state_of(checkpoint: Path) -> dict[str, str]:
    """Hashes of a checkpoint's state, without clocks and averages of metrics."""
    algorithm = pickle.loads((checkpoint / "algorithm_state.pkl").read_bytes())
    learner = pickle.loads((checkpoint / "learner_group" / "learner" / "state.pkl").read_bytes())
    parts = dict(leaves(algorithm["desk"], "desk"))
    for key in learner:
        if key not in ("metrics_logger", "weights_seq_no"):
            parts |= dict(leaves(learner[key], f"learner/{key}"))
    return {key: digest(value) for key, value in parts.items()}


def leaves(item: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Numbers and arrays of a nested state, by their path."""
    if isinstance(item, dict):
        for key in sorted(item, key=str):
            yield from leaves(item[key], f"{path}/{key}")
    elif isinstance(item, list | tuple):
        for number, part in enumerate(item):
            yield from leaves(part, f"{path}/{number}")
    else:
        yield path, item


def digest(item: Any) -> str:
    if item is None or isinstance(item, str | bool):
        return str(item)
    array = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
    if array.dtype == object:
        return repr(item)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def rows_of(curve: Path) -> Iterator[tuple[str, str]]:
    with open(curve, newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if not name.endswith(TIMED):
                    yield f"{row['iteration']}:{name}", str(value)


RESULT = re.compile(r"^phase (\d) (\w+) +([\d,]+) of [\d,]+ bars")


def bars_lost(folder: Path) -> int:
    """Bars that the trials of the folder's run had told of and played again."""
    return played_again([line for one in COMMANDS.get(folder, []) for line in one.lines])


def played_again(lines: Sequence[str]) -> int:
    """The same of these lines of a console."""
    told, lost = dict[tuple[str, str], list[int]](), 0
    for found in filter(None, map(RESULT.match, lines)):
        phase, trial, bars = found[1], found[2], int(found[3].replace(",", ""))
        before = told.setdefault((phase, trial), [0])
        if bars in before:
            lost += bars - max(earlier for earlier in before if earlier < bars)
        before.append(bars)
    return lost
