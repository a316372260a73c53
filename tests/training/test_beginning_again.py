"""Names of runs that are there: free where the run was refused before its first result, and carried on where asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.training.curriculum import driver
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.records.manifest import Manifest

SMALL = ["embedded.train={paths: 1, years: 3}", "embedded.validation={paths: 1, years: 3}"]
SMALL += ["embedded.test={paths: 1, years: 3}"]


class OneNode:
    def nodes(self) -> list[Node]:
        return [Node("here", 2, id="here")]

    def startable(self) -> list[Node]:
        return []

    def free(self) -> dict[str, dict[str, float]]:
        return {"here": {"CPU": 2.0}}


@contextlib.contextmanager
def unreachable(*words: Any, **named: Any) -> Iterator[None]:
    raise RunError("no Ray cluster can be joined")
    yield


@contextlib.contextmanager
def reached(*words: Any, **named: Any) -> Iterator[OneNode]:
    yield OneNode()


def stopped(*words: Any) -> None:
    raise RunError("stopped before the first result")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(driver, "session", reached)
    monkeypatch.setattr(driver, "_run_phase", stopped)
    return tmp_path / "runs" / "x"


@pytest.mark.slow
def test_a_name_can_be_used_again_until_something_was_trained(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = [*SMALL, "resources.cpus=2", "resources.runners=50", "recipe.environments=50"]
    with pytest.raises(ConfigError, match=r"resources\.runners="):
        driver.train(Settings.load(overrides=crowded), run=run)
    assert not run.exists(), "what cannot be placed is refused before anything is made"
    with monkeypatch.context() as away:
        away.setattr(driver, "session", unreachable)
        with pytest.raises(RunError, match="no Ray cluster"):
            driver.train(Settings.load(overrides=SMALL), run=run, address="nowhere:1")
    first = Manifest.read(run)
    with pytest.raises(RunError, match="stopped before"):
        driver.train(Settings.load(overrides=[*SMALL, "seed=7"]), run=run, budget_scale=0.5)
    again = Manifest.read(run)
    assert (again.id, again.created) == (first.id, first.created), "the same folder"
    assert (again.seed, again.load_settings().seed, again.budget_scale) == (7, 7, 0.5)
    (run / "curves").mkdir()
    (run / "curves" / "phase_1_forex.csv").write_text("iteration\n1\n")
    with pytest.raises(RunError, match="this run exists"):
        driver.train(Settings.load(overrides=SMALL), run=run)


@pytest.mark.slow
def test_what_is_refused_leaves_the_manifest_as_it_was(run: Path) -> None:
    with pytest.raises(RunError, match="stopped before"):
        driver.train(Settings.load(overrides=SMALL), run=run)
    for override, said in (
        ("resources.runners=3", "recipe.environments = 16: expected a multiple"),
        ("resources.min_process_cpus=1 resources.cpus=1 resources.runners=2", "set resources.runners=0"),
        ("resources.learners=99", "expected at most recipe.environments = 16"),
    ):
        with pytest.raises(ConfigError, match=said):
            driver.resume(run, overrides=override.split())
        manifest = Manifest.read(run)
        assert (manifest.load_settings().resources.runners, manifest.load_settings().resources.learners) == (0, 0)
    with pytest.raises(RunError, match="phase 3 begins with the policies of phase 2"):
        driver.train(Settings.load(overrides=SMALL), run=run, phase=3)
    assert Manifest.read(run).wanted == [1, 2, 3]


@pytest.mark.slow
def test_a_job_that_is_started_again_carries_its_run_on(run: Path) -> None:
    """`mtquant train --resume`: the same words begin a run and carry it on."""

    def again(*overrides: str) -> None:
        with pytest.raises(RunError, match="stopped before"):
            driver.train(Settings.load(overrides=[*SMALL, *overrides]), run=run, resume_existing=True)

    again()
    (run / "curves").mkdir()
    (run / "curves" / "phase_1_forex.csv").write_text("iteration\n1\n")
    first = Manifest.read(run)
    again()
    assert Manifest.read(run).settings == first.settings
    again("resources.runners=2", "checkpoints.keep=5")
    moved = Manifest.read(run).load_settings()
    assert (moved.resources.runners, moved.checkpoints.keep) == (2, 5)
    assert moved.desk == first.load_settings().desk, "the features' centres of its training bars too"
    with pytest.raises(ConfigError, match=r"leave out seed=9, or name another"):
        driver.train(Settings.load(overrides=[*SMALL, "seed=9"]), run=run, resume_existing=True)
