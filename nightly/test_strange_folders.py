"""Folders as people and machines leave them: copies brought back, strays, links, states gone. Nothing whole is removed,
nothing outside is touched, and the run goes on or says before it trains why it cannot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import runs
from attempts import TRIES, Reference, finish, newest, note, stopped_in
from processes import below
from runs import command
from table import TABLE, Row

STATE = Path("learner_group", "learner", "state.pkl")


def cut(checkpoint: Path) -> None:
    (checkpoint / STATE).write_bytes((checkpoint / STATE).read_bytes()[:100])


def trials_of(run: Path, phase: str) -> list[Path]:
    return sorted(run.glob(f"{phase}/desk/checkpoint_*"))


@pytest.mark.parametrize("number", TRIES)
def test_a_copy_of_an_old_checkpoint_is_brought_back(tmp_path: Path, reference: Reference, number: int) -> None:
    """All others are damaged: it says so, and goes on from the copy, which the damaged ones do not displace."""
    whole, run = reference(), stopped_in(tmp_path, "phase_3", number)
    oldest = trials_of(run, "phase_3")[0]
    copy = tmp_path / "copy"
    shutil.copytree(oldest, copy)
    for checkpoint in trials_of(run, "phase_3"):
        cut(checkpoint)
    refused = command(tmp_path, "resume", "x")
    assert refused.end() == 2
    assert "bring a copy" in refused.text
    shutil.rmtree(oldest)
    shutil.move(copy, oldest)
    begun = command(tmp_path, "resume", "x")
    assert begun.says("bars/s")
    begun.process.send_signal(signal.SIGINT)
    assert begun.end() == 130
    told = next(line for line in begun.lines if line.startswith("mtquant: stopped"))
    finish(tmp_path, f"all damaged, an old copy brought back ({told.strip()[-60:]})", whole)


@pytest.mark.parametrize("number", TRIES)
def test_a_stray_checkpoint_lies_among_the_trials(tmp_path: Path, reference: Reference, number: int) -> None:
    """Of another run, with a higher number, or with a broken index; and one that has lost its files alone."""
    whole, run = reference(), stopped_in(tmp_path, "phase_3", number)
    other = reference(*runs.SMALL_SAC) / "phase_3" / "desk"
    last = newest(run, "phase_3")
    stray = last.with_name("checkpoint_000047")
    shutil.copytree(max(other.glob("checkpoint_*")), stray)
    if number:
        (stray / "checkpoint.json").write_text("{")
    for path in last.iterdir():
        if path.is_file():
            path.unlink()
    before = {path: path.read_bytes() for path in stray.rglob("*") if path.is_file()}
    resumed = command(tmp_path, "resume", "x")
    code = resumed.end()
    assert {path: path.read_bytes() for path in before} == before, "it is left as it was"
    shutil.rmtree(stray)
    note(tmp_path, "a stray checkpoint, and one that has lost its files", whole, resumed, code)
    assert (last.parent / f"not_whole.{last.name}").is_dir(), "what cannot be told to be ours is kept"


@pytest.mark.parametrize("number", TRIES)
def test_the_best_states_are_gone(tmp_path: Path, reference: Reference, number: int) -> None:
    whole, run = reference(), stopped_in(tmp_path, "phase_3", number)
    index = json.loads((newest(run, "phase_3") / "checkpoint.json").read_text())
    best = run / "phase_3" / "modules" / "desk" / f"bars_{int(index['result']['best']['bars']):09d}"
    away = tmp_path / "away"
    shutil.move(best, away)
    refused = command(tmp_path, "resume", "x")
    assert refused.end() == 2, refused.text[-2000:]
    assert "its best module states so far are gone" in refused.text
    assert "bars/s" not in refused.text, "before anything is trained"
    shutil.move(away, best)
    last = command(tmp_path, "resume", "x")
    code = last.end()
    note(tmp_path, "best states gone, then brought back", whole, last, code, refused.text.strip()[-140:])


@pytest.mark.parametrize("number", TRIES)
def test_a_trial_is_killed_while_its_newest_checkpoint_is_damaged(
    tmp_path: Path, reference: Reference, number: int
) -> None:
    """Tune starts it again, in a process that knows nothing but the folder."""
    whole = reference()
    run = stopped_in(tmp_path, "phase_3", number)
    begun = command(tmp_path, "resume", "x", "--set", "checkpoints.keep=12")
    deadline, first = time.monotonic() + 120, newest(run, "phase_3")
    while newest(run, "phase_3").name <= first.name and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid, args in below(begun.process.pid):
        if "ray::PhaseTrial" in args:
            os.kill(pid, signal.SIGSTOP)
            cut(newest(run, "phase_3"))
            os.kill(pid, signal.SIGKILL)
    code = begun.end()
    note(tmp_path, "a trial killed, its newest checkpoint cut short", whole, begun, code)


@pytest.mark.parametrize("number", TRIES)
def test_a_run_from_elsewhere_has_links_in_it(tmp_path: Path, reference: Reference, number: int) -> None:
    """Where this project and Tune write: nothing is written through them, with --trust or without."""
    run = stopped_in(tmp_path, "phase_3", number)
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    for name in [".lock", "run.log", "phase_3/tuner.pkl", "phase_3/desk/result.json", "curves/phase_3_desk.csv"]:
        link, kept = run / name, tmp_path / "kept"
        there = link.exists()
        if there:
            shutil.move(link, kept)
        link.symlink_to(victim)
        for words in ([], ["--trust"]):
            refused = command(tmp_path, "resume", "x", *words)
            assert refused.end() == 2, (name, refused.text[-2000:])
            assert victim.read_text() == "mine", name
            assert "Traceback" not in refused.text, refused.text[-2000:]
        link.unlink()
        if there:
            shutil.move(kept, link)
    TABLE.add(Row("symbolic links where a run writes", True, 2, refused.text.strip()[-140:]))
