"""Processes that end, and environments that fail: the run ends as an undisturbed one does, or stops with a sentence and
goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import runs
from attempts import TRIES, Reference, begin, finish, kill_one, note, patched
from processes import below
from runs import command
from table import TABLE, Row

KILLS = 3
"""Of a kind of process, in one run: no more than `checkpoints.max_failures`, should they all hit one trial."""
TWO_RUNNERS = ("resources.runners=2", "resources.cpus=3")
TWO_LEARNERS = ("resources.learners=2", "resources.cpus=3")


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
    """Rates as high as settings let them be, and weights that are called diverged beyond 1."""
    rates = {
        "ppo": ("recipe.learning_rate=1",),
        "sac": (*runs.SMALL_SAC, "sac.learning_rates={actor: 1, critic: 1, alpha: 1}"),
    }
    rates = {name: (*own, "learner.max_parameter_abs=1") for name, own in rates.items()}
    running = begin(tmp_path, *rates[algorithm], f"seed={number}")
    code = running.end()
    said = next((line.strip() for line in running.lines if line.startswith("mtquant:")), "")
    TABLE.add(Row(f"weights that diverge, {algorithm}", code == 1, code, said))
    assert code == 1, running.text[-3000:]
    assert "diverged" in said
    assert said.removeprefix("mtquant: ")[:40] in (tmp_path / "runs" / "x" / "run.log").read_text()


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize("process", ["raylet/raylet", "gcs/gcs_server"], ids=["raylet", "gcs"])
def test_a_process_of_the_ray_session_is_killed(
    tmp_path: Path, reference: Reference, process: str, number: int
) -> None:
    """Ray's own, without which nothing goes on: the run stops with a sentence, and nothing is left of the session."""
    whole = reference()
    running = begin(tmp_path)
    assert running.says(f"phase {1 + 2 * number} {'desk' if number else 'forex'}  ")
    # By its program: others name it among their arguments.
    there = below(running.process.pid)
    daemons = [pid for pid, args in there if args.split()[0].endswith(process)]
    assert len(daemons) == 1, (there, running.text[-500:])
    os.kill(daemons[0], signal.SIGKILL)
    began = time.monotonic()
    code = running.end()
    took = time.monotonic() - began
    assert code not in (0, 2), (code, running.text[-3000:])
    assert took < 120, took
    assert "mtquant resume" in running.text or "GCS" in running.text, running.text[-3000:]
    finish(tmp_path, f"SIGKILL of Ray's {process.split('/')[0]} (exit {code} after {took:.0f} s)", whole)


@pytest.mark.parametrize("number", TRIES)
def test_a_signal_comes_while_ray_starts(tmp_path: Path, reference: Reference, number: int) -> None:
    """When it has no handlers of ours yet, or Ray's in their place."""
    whole, which = reference(), (signal.SIGTERM, signal.SIGINT)[number]
    running = begin(tmp_path)
    deadline = time.monotonic() + 60
    while not any("gcs_server" in args for _, args in below(running.process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(running.process.pid, which)
    code = running.end()
    assert code == 128 + which, (code, running.text[-2000:])
    said = next(line.strip() for line in running.lines if line.startswith("mtquant: stopped"))
    last = command(tmp_path, "resume", "x")
    note(tmp_path, f"{which.name} while Ray starts (exit {code})", whole, last, last.end(), said)
