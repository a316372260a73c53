"""`mtquant runs prune`: what may go, what stays whatever is asked, and what is never touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from broken_runs import BEFORE, NEWEST, cut, flip, said, tree_of, unfinish

from mtquant_rllib import durable
from mtquant_rllib.training.records import checkpoints, module_states

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.slow
def test_pruning_says_what_may_go_and_removes_that_and_nothing_else_once_it_may(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_of(run)
    told = said(capsys, "prune", str(run), "--keep", "1")
    assert tree_of(run) == before
    may_go = {line.split()[0] for line in told.splitlines() if line.startswith("phase_1/")}
    gone = {f"phase_1/{trial}/checkpoint_{n:06d}" for trial in ("forex", "equity", "commodities") for n in (1, 2, 3)}
    assert gone <= may_go
    assert all("/modules/" in name for name in may_go - gone)
    said(capsys, "prune", str(run), "--keep", "1", "--yes")
    left = tree_of(run) - {".lock"}
    assert left == {name for name in before - {".lock"} if not any(Path(name).is_relative_to(one) for one in may_go)}
    assert "DAMAGED" not in said(capsys, "verify", str(run))
    said(capsys, "prune", str(run), "--yes")
    assert not list(run.glob("phase_1/*/checkpoint_*")), "the phase is done, and its policies are handed over"
    assert "nothing to remove" in said(capsys, "prune", str(run), "--yes")


def test_the_newest_whole_checkpoint_of_an_unfinished_trial_stays_whatever_is_asked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinish(run)
    flip(run / "phase_1/equity" / NEWEST / "algorithm_state.pkl")
    for path in checkpoints.listed(run / "phase_1/commodities"):
        flip(path / "algorithm_state.pkl")
    told = said(capsys, "prune", str(run), "--keep", "0", "--yes")
    left = {trial: [path.name for path in checkpoints.listed(run / "phase_1" / trial)] for trial in ("forex", "equity")}
    assert left == {"forex": [BEFORE], "equity": [BEFORE]}
    assert len(checkpoints.listed(run / "phase_1/commodities")) == 4, "none is whole, and one may be rescued"
    assert told.count("left alone: phase_1/commodities/") == 4
    best = checkpoints.read_index(run / "phase_1/equity" / BEFORE).result["best"]
    assert module_states.read(run / f"phase_1/modules/equity/bars_{int(best['bars']):09d}")


@pytest.mark.slow
def test_pruning_leaves_alone_what_is_not_the_run_s_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    shutil.move(run / "phase_1/equity" / NEWEST, outside)
    (run / "phase_1/equity" / NEWEST).symlink_to(outside)
    mine = run / "phase_1/forex/checkpoint_000900"
    mine.mkdir()
    (mine / "notes.txt").write_text("kept by hand")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = (f"{durable.HALF}checkpoint_000005.{pid}-0123abcd" for pid in (gone.pid, os.getpid()))
    dead, living = (run / "phase_1/forex" / name for name in names)
    for folder in (dead, living):
        folder.mkdir()
        (folder / "algorithm_state.pkl").write_bytes(b"half")
    stranger = run / "phase_1/forex" / NEWEST / "checkpoint.json"
    stranger.write_text(json.dumps({**json.loads(stranger.read_text()), "run": "another"}))
    for number in (1, 2):
        (run / f"phase_1/experiment_state-2026-01-0{number}_00-00-00.json").write_text("{}")
    told = said(capsys, "prune", str(run), "--yes")
    assert sorted(path.name for path in outside.iterdir())[:2] == ["algorithm_state.pkl", "checkpoint.json"]
    assert (run / "phase_1/equity" / NEWEST).is_symlink()
    assert (mine / "notes.txt").is_file()
    assert stranger.is_file()
    assert not dead.exists()
    assert living.is_dir()
    assert len(list(run.glob("phase_1/experiment_state-*"))) == 1
    for kept in (
        f"equity/{NEWEST}: a symbolic link",
        "checkpoint_000900: it has no checkpoint.json",
        f"forex/{NEWEST}: ",
    ):
        assert kept in told


def test_a_done_phase_whose_handed_over_policies_are_damaged_keeps_everything(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(run / "policies/phase_1/SPX500.npz")
    before = tree_of(run)
    assert "may be the only copy" in said(capsys, "prune", str(run), "--yes")
    assert tree_of(run) - {".lock"} == before - {".lock"}
