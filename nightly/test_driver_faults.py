"""What people and machines do to a driver: signals, a second one, a stranger's run, other resources, a clock that
jumps."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import runs
from attempts import TRIES, Reference, begin, newest, note, patched, stopped_in
from processes import kill
from runs import command
from table import TABLE, Row


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
def test_the_clock_jumps(tmp_path: Path, reference: Reference, number: int) -> None:
    """In every process of the session, by a day back and forth."""
    whole = reference()
    running = begin(tmp_path, env=patched("jumping_clock"))
    code = running.end()
    note(tmp_path, "clock jumps by a day", whole, running, code, "nothing")


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
    running = command(tmp_path, "train", "--run", "x", *runs.settings("resources.runners=50"))
    assert running.end() == 2
    assert "resources.runners" in running.text
    assert not (tmp_path / "runs" / "x").exists(), "the name is free still"
    begun = stopped_in(tmp_path, "phase_2", 0)
    refused = command(tmp_path, "resume", "x", "--set", "resources.runners=3")
    assert refused.end() == 2
    assert "resources.runners" in (begun / "run.log").read_text()
    assert json.loads((begun / "manifest.json").read_text())["settings"]["resources"]["runners"] == 0
