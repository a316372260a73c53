"""A checkpoint of a run is one of RLlib's: copied alone into an empty folder, opened there by a plain script.

The script is what a person would write: no variable is set, string hashes are salted anew, torch has as many threads as
it likes. What it learns has to be what the run itself learned.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("from_checkpoint.py")
TRIALS = {"forex": "phase_1/forex", "desk": "phase_3/desk"}
CHECKPOINTS = ("first", "second", "last")


def plain(folder: Path, *words: str, hash_seed: str | None = None) -> str:
    """What the script says, run in a folder that holds nothing but checkpoints."""
    dropped = ("PYTHONHASHSEED", "MTQUANT_CACHE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "XDG_CONFIG_HOME")
    env = {key: value for key, value in os.environ.items() if key not in dropped}
    # Ray joins whatever cluster it finds on the machine otherwise.
    env["RAY_ADDRESS"] = "local"
    env |= {"HOME": str(folder)} | ({} if hash_seed is None else {"PYTHONHASHSEED": hash_seed})
    done = subprocess.run([sys.executable, PROGRAM, *words], cwd=folder, env=env, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5000:]
    assert f"THREADS {os.cpu_count()}" in said, "a plain script"
    for told in ("new API stack", "DeprecationWarning"):
        assert told not in said
    return said


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def copied(run: Path, folder: Path) -> Path:
    """The last three checkpoints of an SAC trial and of a PPO trial, and nothing else."""
    for trial, source in TRIALS.items():
        for name, checkpoint in zip(CHECKPOINTS, sorted((run / source).glob("checkpoint_*"))[-3:], strict=True):
            shutil.copytree(checkpoint, folder / trial / name)
    return folder


@pytest.fixture(scope="module")
def said(five_lines: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of all stages, in one process."""
    run = five_lines / "runs" / "mine"
    folder, before = copied(run, tmp_path_factory.mktemp("alone")), files(run)
    places = [folder / trial / name for trial in TRIALS for name in CHECKPOINTS]
    checkpoints = [files(place) for place in places]
    said = plain(folder, "goes_on:forex", "goes_on:desk", "refused:desk")
    assert files(run) == before, "the run that they came from is left alone"
    assert [files(place) for place in places] == checkpoints
    return said


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS)
def test_a_copied_checkpoint_trains_on_as_the_run_did(said: str, trial: str) -> None:
    assert f"DONE goes_on:{trial}" in said, said[-5000:]


@pytest.mark.ray
@pytest.mark.slow
def test_a_changed_configuration_takes_effect_or_is_refused(said: str) -> None:
    assert "DONE refused:desk" in said, said[-5000:]


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS)
def test_runners_in_other_processes_sample_and_evaluate_the_same_whatever_the_hashes(
    five_lines: Path, tmp_path: Path, trial: str
) -> None:
    run, word = five_lines / "runs" / "mine", f"in_several_processes:{trial}"
    folder, before = copied(run, tmp_path), files(run)
    results = [
        next(line for line in plain(folder, word, hash_seed=seed).splitlines() if line.startswith("DONE"))
        for seed in ("1", "2")
    ]
    assert results[0] == results[1]
    assert files(run) == before
