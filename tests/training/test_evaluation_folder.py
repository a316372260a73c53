"""Each evaluation has a folder of its own, written whole, and none is overwritten unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.report.output import REPORT
from mtquant_rllib.training.inspection.evaluation_folder import evaluation_folder, evaluation_name

OWN = Settings.load()


def name(what: str = "test", phase: int = 3, episodes: int | None = None, settings: Settings = OWN) -> str:
    return evaluation_name(what, phase=phase, last_phase=3, episodes=episodes, settings=settings, own=OWN)


def test_what_differs_has_another_name() -> None:
    costly = Settings.load(overrides=["desk.cost.impact_coefficient=2"])
    names = [name(), name("validation"), name(phase=1), name(episodes=200), name(settings=costly)]
    assert names[:4] == ["test", "validation", "test_phase_1", "test_200_episodes"]
    assert names[4].startswith("test_changed_")
    assert names[4] != name(settings=Settings.load(overrides=["desk.cost.impact_coefficient=3"]))


def write(run: Path, report: str, **more: str) -> tuple[Path, Path | None]:
    with evaluation_folder(run, "test") as folder:
        for file, text in {REPORT: report, **more}.items():
            (folder.writing / file).write_text(text)
    return folder.path, folder.kept


def test_the_same_evaluation_again_replaces_its_files_and_leaves_others(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "a")
    (path / "mine.txt").write_text("notes")
    assert write(tmp_path, "a", more="b") == (path, None)
    assert {file.name: file.read_text() for file in path.iterdir()} == {REPORT: "a", "more": "b", "mine.txt": "notes"}
    assert [file.name for file in (tmp_path / "evaluation").iterdir()] == ["test"]


def test_one_that_comes_out_otherwise_keeps_the_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, "a")
    path, kept = write(tmp_path, "b")
    assert kept == tmp_path / "earlier_evaluations" / "test"
    again, third = write(tmp_path, "c")
    assert third == tmp_path / "earlier_evaluations" / "test-2"
    assert [folder.joinpath(REPORT).read_text() for folder in (kept, third, again)] == ["a", "b", "c"]
    assert path == again


def test_one_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "a")
    with pytest.raises(TypeError), evaluation_folder(tmp_path, "test") as folder:
        (folder.writing / REPORT).write_text(None)  # type: ignore[arg-type]
    assert (path / REPORT).read_text() == "a"
    assert [file.name for file in (tmp_path / "evaluation").iterdir()] == ["test"]


def test_a_link_at_its_place_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "evaluation").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="symbolic link"), evaluation_folder(tmp_path, "test"):
        pass
    assert not any((tmp_path / "elsewhere").iterdir())
