"""Files that are cut, flipped or gone, storage that is full or away: the damage is named, and the run goes on from what
is whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import runs
from attempts import TRIES, Reference, begin, finish, newest, note, stopped_in
from processes import below, kill
from runs import command


@pytest.mark.parametrize("number", TRIES)
def test_the_driver_is_killed_while_a_checkpoint_is_written(tmp_path: Path, reference: Reference, number: int) -> None:
    whole = reference()
    words: list[str] = ["train", "--run", "x", "--budget-scale", runs.SCALE, *runs.settings()]
    hits = 0
    for _ in range(3):
        running = command(tmp_path, *words)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and running.process.poll() is None:
            if list((tmp_path / "runs" / "x").glob("phase_*/*/.mtquant-half.checkpoint_*")):
                # All of the session at once, as a power cut would.
                for pid, _ in [*below(running.process.pid), (running.process.pid, "")]:
                    kill(pid, signal.SIGKILL)
                hits += 1
                break
            time.sleep(0.002)
        running.end()
        words = ["resume", "x"]
    assert hits, "no write was seen"
    finish(tmp_path, "kill during a checkpoint's write", whole)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[rng.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize(
    "damage", ["eight bytes flipped", "cut short", "index cut short", "a file gone", "empty checkpoint folder"]
)
def test_the_newest_checkpoint_is_damaged(tmp_path: Path, reference: Reference, damage: str, number: int) -> None:
    whole, rng = reference(), random.Random(number)
    run = stopped_in(tmp_path, "phase_3", number)
    checkpoint = newest(run, "phase_3")
    target = checkpoint / "learner_group" / "learner" / "state.pkl"
    if damage == "eight bytes flipped":
        flip(target, rng)
    elif damage == "cut short":
        target.write_bytes(target.read_bytes()[: rng.randrange(target.stat().st_size)])
    elif damage == "index cut short":
        index = checkpoint / "checkpoint.json"
        index.write_bytes(index.read_bytes()[: rng.randrange(index.stat().st_size)])
    elif damage == "a file gone":
        target.unlink()
    else:
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
    last = command(tmp_path, "resume", "x")
    code = last.end()
    assert checkpoint.name in last.text, "the damaged checkpoint is named"
    note(tmp_path, f"newest checkpoint: {damage}", whole, last, code)


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize("damage", ["cut short", "empty", "gone"])
def test_tunes_own_records_are_damaged(tmp_path: Path, reference: Reference, damage: str, number: int) -> None:
    whole, rng = reference(), random.Random(number)
    run = stopped_in(tmp_path, "phase_2", number)
    for record in [*run.glob("phase_*/experiment_state*"), *run.glob("phase_*/*.pkl"), *run.glob("phase_*/basic-*")]:
        if damage == "gone":
            record.unlink()
        else:
            content = record.read_bytes()
            record.write_bytes(content[: rng.randrange(len(content))] if damage == "cut short" else b"")
    finish(tmp_path, f"Tune's records: {damage}", whole)


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize("damage", ["cut short", "eight bytes flipped", "gone"])
def test_the_manifest_is_damaged(tmp_path: Path, reference: Reference, damage: str, number: int) -> None:
    whole, rng = reference(), random.Random(number)
    manifest = stopped_in(tmp_path, "phase_2", number) / "manifest.json"
    if damage == "gone":
        manifest.unlink()
    elif damage == "cut short":
        manifest.write_bytes(manifest.read_bytes()[: rng.randrange(manifest.stat().st_size)])
    else:
        flip(manifest, rng)
    last = command(tmp_path, "resume", "x")
    code = last.end()
    assert "manifest" in last.text
    note(tmp_path, f"manifest: {damage}", whole, last, code)


@pytest.mark.parametrize("number", TRIES)
def test_curves_are_cut_short(tmp_path: Path, reference: Reference, number: int) -> None:
    whole, rng = reference(), random.Random(number)
    run = stopped_in(tmp_path, "phase_3", number)
    curve = run / "curves" / "phase_3_desk.csv"
    text = curve.read_bytes()
    curve.write_bytes(text[: len(text) - rng.randrange(1, 40)])
    finish(tmp_path, "a curve cut short", whole)


@pytest.mark.parametrize("number", TRIES)
def test_the_storage_is_away_for_a_minute(tmp_path: Path, reference: Reference, number: int) -> None:
    whole, run, away = reference(), tmp_path / "runs" / "x", tmp_path / "runs" / "away"
    running = begin(tmp_path)
    assert running.says(f"phase {2 + number} desk")
    os.rename(run, away)
    time.sleep(60)
    back(away, run)
    code = running.end()
    note(tmp_path, "storage away for a minute", whole, running, code)


def back(away: Path, run: Path) -> None:
    """Bring a folder back to where something may have been written meanwhile."""
    if run.exists():
        shutil.rmtree(run)
    os.rename(away, run)


@pytest.mark.parametrize("number", TRIES)
def test_the_disk_is_full(tmp_path: Path, reference: Reference, number: int) -> None:
    whole, disk = reference(), tmp_path / "runs"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a file system of its own, to be filled, can be mounted by root alone")
    try:
        running = begin(tmp_path, "checkpoints.storage_patience_seconds=10")
        assert running.says(f"phase {2 + number} desk")
        filler = disk / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], capture_output=True)
        code = running.end()
        assert code == 1, (code, running.text[-3000:])
        assert "No space left" in running.text
        filler.unlink()
        last = command(tmp_path, "resume", "x")
        end = last.end()
        seen = next((line.strip() for line in running.lines if line.startswith("mtquant:")), "")
        note(tmp_path, "disk full (exit 1), then room again", whole, last, end, seen)
    finally:
        subprocess.run(["umount", disk], capture_output=True, check=True)


@pytest.mark.parametrize("number", TRIES)
def test_rays_own_folder_is_full(tmp_path: Path, reference: Reference, number: int) -> None:
    """The run's is not: waiting helps as long as something may change, and ends with the reason."""
    whole, disk = reference(), Path(f"/tmp/mtqfull{os.getpid()}")
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", disk], capture_output=True).returncode:
        disk.rmdir()
        pytest.skip("a file system of its own, to be filled, can be mounted by root alone")
    try:
        running = begin(tmp_path, "checkpoints.storage_patience_seconds=10", env={"RAY_TMPDIR": str(disk)})
        assert running.says(f"phase {2 + number} desk")
        subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}", "bs=64k"], capture_output=True)
        code = running.end()
        assert code in (0, 1), (code, running.text[-3000:])
    finally:
        subprocess.run(["umount", "-l", disk], capture_output=True, check=True)
        disk.rmdir()
    said = next((line.strip() for line in running.lines if line.startswith("mtquant:")), "it went on without")
    last = command(tmp_path, "resume", "x")
    note(tmp_path, f"Ray's folder full (exit {code})", whole, last, last.end(), said)
