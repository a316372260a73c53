"""What tests of run folders stand on: a small manifest, small states, and somebody else's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import checkpoints
from mtquant_rllib.training.records.checkpoints import Checkpoint
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord

Snapshot = dict[str, tuple[bytes, int]]
FILES = {"algorithm_state.pkl": b"state" * 100, "learner_group/learner/state.pkl": bytes(range(256)) * 8}
"""Of a small checkpoint."""


def begun(seed: int = 0, name: str = "one") -> Manifest:
    """A new run's manifest, not written yet."""
    market = MarketRecord(kind="synthetic", data="/cache/embedded-0123")
    return Manifest.begin(name, Settings.load(overrides=[f"seed={seed}"]), market, 0.5, [1, 2, 3])


def modules(value: float) -> dict[str, dict[str, np.ndarray]]:
    """Two modules' states, all of whose numbers are this one."""
    return {
        "a": {"w": np.full((40, 30), value, np.float32)},
        "b": {"w": np.full(50, value), "n": np.array(int(value))},
    }


def snapshot(folder: Path) -> Snapshot:
    """Bytes and time of change of everything in a folder, links as what they lead to."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b"",
            path.lstat().st_mtime_ns,
        )
        for path in sorted([folder, *folder.rglob("*")])
    }


def victim_in(folder: Path) -> Path:
    """Files of somebody else, with names that a run uses too."""
    victim = folder / "victim"
    for name in ("phase_1/thesis.txt", "policies/phase_1/notes.txt", "index.json", "checkpoint_000001/data"):
        (victim / name).parent.mkdir(parents=True, exist_ok=True)
        (victim / name).write_text(f"years of work: {name}")
    return victim


def refused(call: Callable[[], object]) -> str:
    """The one printable line with which the call is refused."""
    with pytest.raises(RunError) as caught:
        call()
    said = str(caught.value)
    assert said.isprintable(), ascii(said)
    return said


def untouched(folder: Path) -> Iterator[Path]:
    """For a fixture: somebody else's files, compared with what they were once the test is over."""
    victim = victim_in(folder)
    before = snapshot(victim)
    yield victim
    assert snapshot(victim) == before


def index(iteration: int, bars: int = 0) -> Checkpoint:
    return Checkpoint(
        run="0123",
        phase=1,
        trial="forex",
        iteration=iteration,
        bars=bars or 100 * iteration,
        finished=False,
        result={},
        seconds=1.0,
        versions={},
    )


def save(folder: str) -> None:
    for name, content in FILES.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def written(run: Path, *iterations: int) -> Path:
    """The trial's folder, with these checkpoints."""
    trial = run / "phase_1" / "forex"
    for iteration in iterations:
        checkpoints.write(run, trial, index(iteration), save)
    return trial
