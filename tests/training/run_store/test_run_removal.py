"""A run is removed whole, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_records import judged_run

from mtquant_rllib.cli import main
from mtquant_rllib.training.storage import run_lock


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return judged_run(tmp_path, "old", n_bars=60)


@pytest.mark.slow
def test_it_says_first_and_removes_when_told_to(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged_run(run.parent, "other", n_bars=60)
    assert main(["runs", "rm", str(run)]) == 0
    assert f"mtquant runs rm {run} --yes" in capsys.readouterr().out
    assert run.is_dir()
    assert main(["runs", "rm", str(run), "--yes"]) == 0
    assert [path.name for path in run.parent.iterdir()] == ["other"]


def test_what_is_not_the_runs_stays_and_the_run_with_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "notes.txt").write_text("mine")
    assert main(["runs", "rm", str(run), "--yes"]) == 2
    assert "notes.txt is not of the run's making" in capsys.readouterr().err
    assert (run / "manifest.json").is_file()


def test_a_run_that_is_being_trained_is_not_removed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_lock.held(run):
        assert main(["runs", "rm", str(run), "--yes"]) == 2
    assert "trains this run at this moment" in capsys.readouterr().err
    assert (run / "manifest.json").is_file()


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("kept")
    (run / "explain").symlink_to(tmp_path / "victim")
    (tmp_path / "by_link").symlink_to(run)
    assert main(["runs", "rm", str(tmp_path / "by_link"), "--yes"]) == 2
    assert main(["runs", "rm", str(run), "--yes"]) == 0
    assert (tmp_path / "victim" / "file").read_text() == "kept"


def test_a_folder_without_the_marker_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    assert main(["runs", "rm", str(tmp_path / "mine"), "--yes"]) == 2
    assert (tmp_path / "mine" / "manifest.json").is_file()


def test_tags_come_and_go(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "tag", str(run), "good", "june"]) == 0
    assert main(["runs", "tag", str(run), "--remove", "june"]) == 0
    assert main(["runs", "tag", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("old: good")
    assert main(["runs", "tag", str(run), "../x"]) == 2
