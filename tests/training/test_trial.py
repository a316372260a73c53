"""What a trial does, and what is done for it, while its run's folder is away."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from trials import TINY

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.curriculum.trial import PhaseTrial, TrialContext
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.records import checkpoints, module_states
from mtquant_rllib.training.records.checkpoints import Checkpoint
from mtquant_rllib.training.records.manifest import Manifest, TrialRecord
from mtquant_rllib.training.reporting.result_files import Curves
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.storage.retries import StorageError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    settings, folder = Settings.load(overrides=TINY), tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    manifest = Manifest.begin("x", settings, prepare(settings, None, None), 1.0, [1])
    manifest.phase(1).trials["forex"] = TrialRecord(budget_bars=100)
    manifest.write(folder)
    return folder


def started(run: Path, patience_s: float) -> PhaseTrial:
    return PhaseTrial(asdict(TrialContext(str(run), 1, "forex", storage_patience_seconds=patience_s)))


def test_a_trial_waits_for_its_runs_folder(run: Path) -> None:
    away = run.with_name("away")
    os.rename(run, away)
    back = threading.Timer(1.0, os.rename, (away, run))
    back.start()
    began = time.monotonic()
    trial = started(run, 60.0)
    assert 0.9 < time.monotonic() - began < 30
    assert trial.plan.name == "forex"


def test_it_waits_no_longer_than_the_run_does(run: Path) -> None:
    os.rename(run, run.with_name("away"))
    with pytest.raises(StorageError, match=r"x could not be found for \d+ seconds: No such file .*mtquant resume"):
        started(run, 0.2)


def test_it_does_not_wait_where_not_even_the_folder_of_runs_is(run: Path) -> None:
    os.rename(run.parent, run.parent.with_name("elsewhere"))
    began = time.monotonic()
    with pytest.raises(RunError, match="no such run folder"):
        started(run, 60.0)
    assert time.monotonic() - began < 5


def test_nothing_is_made_at_the_place_of_a_run_that_is_away(run: Path) -> None:
    """It would be out of sight, with what is in it, once the storage is back: so all of it waits."""
    manifest, place = Manifest.read(run), run / "phase_1" / "forex"
    os.rename(run, run.with_name("away"))
    index = Checkpoint(
        run="x", phase=1, trial="forex", iteration=1, bars=1, finished=False, result={}, seconds=0.0, versions={}
    )
    row = {"training_iteration": 1, TRIAL: "forex"}
    attempts: list[Callable[[], object]] = [
        lambda: checkpoints.write(run, place, index, lambda aside: pytest.fail("was written")),
        lambda: module_states.write(run / "phase_1" / "modules" / "forex" / "last", {}, run=run),
        lambda: manifest.write(run),
        lambda: Curves(run, 1, 0.0)._write(run / "curves" / "phase_1_forex.csv", row, False),
    ]
    for attempt in attempts:
        with pytest.raises((OSError, RunError), match="the run's folder is away"):
            attempt()
        assert not run.exists()
    # Tune makes its own folders anew.
    place.mkdir(parents=True)
    for attempt in attempts:
        with pytest.raises((OSError, RunError), match="the run's folder is away"):
            attempt()
    assert [path for path in run.rglob("*") if path.is_file()] == []


def test_what_trials_are_started_with_travels_through_tune_as_plain_values() -> None:
    context = TrialContext(
        run="/runs/x",
        phase=1,
        trial="",
        attempt="a1",
        checkpoints={"forex": ["checkpoint_000002"]},
        resources=TrialResources(1.0, 0.5, 0.25),
        nodes={"forex": [None], "equity": ["n1", "n2"]},
        allowed=["n1", "n2"],
        storage_patience_seconds=3.0,
    )
    space = context.param_space()
    assert space.pop(TRIAL) == {"grid_search": ["forex", "equity"]}
    sent = json.loads(json.dumps({**space, TRIAL: "equity", "of_tunes_own": 1}))
    assert TrialContext.of(sent) == replace(context, trial="equity")
