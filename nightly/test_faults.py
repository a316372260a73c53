"""Every fault that a run must survive, tried for real: processes killed, files cut and flipped, disks filled, clocks
turned. Each says what survives means: the run ends as an undisturbed one does, or stops with a sentence and goes on."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import runs
from processes import below, kill
from runs import Command, command
from table import TABLE, Row

TRIES = [0, 1]
KILLS = 3
"""Of a kind of process, in one run: no more than `checkpoints.max_failures`, should they all hit one trial."""
TWO_RUNNERS = ("resources.runners=2", "resources.cpus=3")
TWO_LEARNERS = ("resources.learners=2", "resources.cpus=3")

Reference = Callable[..., Path]


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


WORDS = re.compile(r"goes on from|damaged|starts again|no result for|waiting|not used")


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


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize(
    ("process", "overrides"),
    [
        ("ray::PhaseTrial", ()),
        ("ray::BatchedEnvRunner", TWO_RUNNERS),
        ("ray::_WrappedExecutable", TWO_LEARNERS),
    ],
    ids=["trial", "runner", "learner"],
)
def test_a_process_of_a_trial_is_killed(
    tmp_path: Path, reference: Reference, process: str, overrides: Sequence[str], number: int
) -> None:
    whole = reference(*overrides)
    running = begin(tmp_path, *overrides)
    rng, killed = random.Random(number), 0
    while killed < KILLS and kill_one(running, process, rng, timeout_s=90.0):
        killed += 1
        # A process that takes its place starts in some seconds, and is killed while it starts or after.
        time.sleep(rng.uniform(2.0, 12.0))
    code = running.end()
    assert killed >= 2, "phases were over before anybody was killed"
    note(tmp_path, f"SIGKILL of {process.removeprefix('ray::')}", whole, running, code)


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
def test_more_kills_than_max_failures(tmp_path: Path, reference: Reference, number: int) -> None:
    whole, rng = reference(), random.Random(number)
    words: list[str] = ["train", "--run", "x", "--budget-scale", runs.SCALE, *runs.settings()]
    failed = 0
    for _ in range(2):
        running = command(tmp_path, *words)
        while running.process.poll() is None and kill_one(running, "ray::PhaseTrial", rng, timeout_s=90.0):
            time.sleep(0.3)
        code = running.end()
        failed += code == 1
        words = ["resume", "x"]
    assert failed, running.text[-2000:]
    finish(tmp_path, "more kills than checkpoints.max_failures", whole)


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_after_a_checkpoint_and_a_second_at_once(
    tmp_path: Path, reference: Reference, name: str, number: int
) -> None:
    whole, which = reference(), getattr(signal, name)
    running = begin(tmp_path)
    assert running.says("phase 2 desk")
    time.sleep(0.5 * number)
    began = time.monotonic()
    os.kill(running.process.pid, which)
    code = running.end()
    took = time.monotonic() - began
    stopped = next(line.strip() for line in running.lines if line.startswith("mtquant: stopped"))
    again = command(tmp_path, "resume", "x")
    assert again.says("bars/s")
    os.kill(again.process.pid, which)
    time.sleep(0.2)
    began = time.monotonic()
    kill(again.process.pid, which)
    second = again.end()
    at_once = time.monotonic() - began
    assert code == second == 128 + which, (code, second, again.text[-2000:])
    assert took < 20, took
    assert at_once < 3, at_once
    last = command(tmp_path, "resume", "x")
    end = last.end()
    note(tmp_path, f"{name}, then twice (exit {code}, {took:.0f} s, {at_once:.1f} s)", whole, last, end, stopped)


@pytest.mark.parametrize("number", TRIES)
def test_a_second_driver_is_refused(tmp_path: Path, reference: Reference, number: int) -> None:
    whole = reference()
    running = begin(tmp_path)
    assert running.says("phase 1 forex")
    manifest = (tmp_path / "runs" / "x" / "manifest.json").read_bytes()
    second = command(tmp_path, "resume", "x", "--set", "checkpoints.keep=9")
    assert second.end() == 2
    assert b'"keep": 9' not in (tmp_path / "runs" / "x" / "manifest.json").read_bytes(), manifest
    assert f"process {running.process.pid}" in second.text, second.text
    code = running.end()
    note(tmp_path, "two drivers on one run", whole, running, code, second.text.strip())


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


def patched(name: str, **variables: str) -> dict[str, str]:
    """Variables with which every process that is started runs this module of `patches` first."""
    paths = [str(Path(__file__).parent / "patches"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PATCH": name, **variables}


@pytest.mark.parametrize("number", TRIES)
def test_the_clock_jumps(tmp_path: Path, reference: Reference, number: int) -> None:
    """In every process of the session, by a day back and forth."""
    whole = reference()
    running = begin(tmp_path, env=patched("jumping_clock"))
    code = running.end()
    note(tmp_path, "clock jumps by a day", whole, running, code, "nothing")


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize("how", ["raises", "reward", "equity"])
def test_an_environment_fails_every_so_many_steps(tmp_path: Path, reference: Reference, how: str, number: int) -> None:
    whole = reference()
    running = begin(tmp_path, env=patched("failing_environments", FAULTY_HOW=how, FAULTY_EVERY=str(31 + 12 * number)))
    code = running.end()
    said = next((line.strip() for line in running.lines if "were sampled again" in line), "")
    assert said, running.text[-3000:]
    note(tmp_path, f"an environment's {how} fails now and then", whole, running, code, said)


@pytest.mark.parametrize("number", TRIES)
def test_all_evaluation_runners_are_killed(tmp_path: Path, reference: Reference, number: int) -> None:
    """Of stock RLlib's evaluation, on a checkpoint: they come back, and what is learned is the same."""
    script = Path(__file__).parent / "lost_evaluation_runners.py"
    checkpoint = sorted(reference().glob("phase_3/desk/checkpoint_*"))[-3 + number]
    ended = {}
    for kills in (0, 2 - number):
        done = subprocess.run([sys.executable, script, checkpoint, str(kills)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        ended[kills] = next(line for line in done.stdout.splitlines() if line.startswith("STATES"))
    undisturbed, disturbed = ended.values()
    differing = int(undisturbed != disturbed)
    TABLE.add(
        Row(
            "all evaluation runners are killed",
            True,
            0,
            "evaluate() waits until they are back",
            differing,
        )
    )
    assert not differing


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_learning_that_diverges_stops_with_a_report(tmp_path: Path, algorithm: str, number: int) -> None:
    rates = {
        "ppo": ("recipe.learning_rate=1e30",),
        "sac": (*runs.SMALL_SAC, "sac.learning_rates={actor: 1e30, critic: 1e30, alpha: 1e30}"),
    }
    running = begin(tmp_path, *rates[algorithm], f"seed={number}")
    code = running.end()
    said = next((line.strip() for line in running.lines if line.startswith("mtquant:")), "")
    TABLE.add(Row(f"a learning rate of 1e30, {algorithm}", code == 1, code, said))
    assert code == 1, running.text[-3000:]
    assert "diverged" in said
    assert said.removeprefix("mtquant: ")[:40] in (tmp_path / "runs" / "x" / "run.log").read_text()


@pytest.mark.parametrize("number", TRIES)
def test_a_run_of_somebody_else_is_resumed_with_trust_alone(tmp_path: Path, reference: Reference, number: int) -> None:
    whole = reference()
    run = stopped_in(tmp_path, "phase_3", number)
    stranger = {"XDG_CONFIG_HOME": str(tmp_path / "stranger")}
    refused = command(tmp_path, "resume", "x", env=stranger)
    assert refused.end() == 2
    assert "--trust" in refused.text
    marker = tmp_path / "executed"
    bomb = newest(run, "phase_3") / "learner_group" / "learner" / "state.pkl"
    bomb.write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    again = command(tmp_path, "resume", "x", env=stranger)
    assert again.end() == 2
    assert not marker.exists(), "nothing was executed"
    last = command(tmp_path, "resume", "x", "--trust", env=stranger)
    code = last.end()
    assert not marker.exists(), "its checksum was wrong as well"
    note(tmp_path, "a stranger's run, then --trust", whole, last, code, refused.text.strip())


@pytest.mark.parametrize(
    "change", ["resources.runners=2", "resources.learners=2", "checkpoints.keep=1", "resources.cpus=4"]
)
def test_a_run_goes_on_with_other_resources(tmp_path: Path, reference: Reference, change: str) -> None:
    """To the same counts; bit for bit too, where neither runners nor learners are others."""
    whole = reference()
    run = stopped_in(tmp_path, "phase_3", 0)
    last = command(tmp_path, "resume", "x", "--set", change, "--set", "resources.learner_cpus=1")
    code = last.end()
    assert code == 0, last.text[-3000:]
    counts = [[row.split(",")[:2] for row in lines(one / "curves" / "phase_3_desk.csv")] for one in (whole, run)]
    assert counts[0] == counts[1], "iterations and bars"
    differing = runs.differences(whole, run)
    TABLE.add(Row(f"resume --set {change}", True, code, "", len(differing), runs.bars_lost(tmp_path)))
    assert ("runners" in change or "learners" in change) or not differing, differing[:20]
    if change == "checkpoints.keep=1":
        assert len(list(run.glob("phase_3/desk/checkpoint_*"))) == 1


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


def test_exit_codes_and_last_words_are_in_the_log(tmp_path: Path) -> None:
    running = command(tmp_path, "train", "--run", "x", *runs.settings("resources.runners=3"))
    assert running.end() == 2
    assert "resources.runners" in running.text
    assert json.loads((tmp_path / "runs" / "x" / "manifest.json").read_text())
    assert "resources.runners" in (tmp_path / "runs" / "x" / "run.log").read_text()
