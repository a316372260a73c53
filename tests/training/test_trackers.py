"""Trackers are a list in the settings: found or refused before anything starts, kept at a distance from then on."""

from __future__ import annotations

import json
import pickle
import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Callback

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.reporting.guarded_tracker import GuardedTracker
from mtquant_rllib.training.reporting.result_files import TensorBoard
from mtquant_rllib.training.reporting.trackers import expect_trackers, tracker_callbacks

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text()


def trial(name: str = "forex") -> Any:
    return SimpleNamespace(trial_id=name, config={"trial": name, "run": "somewhere"}, status="RUNNING")


def feed(watcher: Callback, numbers: list[int], one: Any = None) -> None:
    """What Tune tells a callback of an experiment with one trial."""
    one = trial() if one is None else one
    watcher.setup()
    watcher.on_trial_start(0, [one], one)
    for number in numbers:
        result = {"training_iteration": number, "bars_sampled_lifetime": 640 * number}
        watcher.on_trial_result(number, [one], one, result)
    watcher.on_trial_complete(9, [one], one)
    watcher.on_experiment_end([one])


class Kept(Callback):
    """Remembers its calls; options say how it misbehaves."""

    def __init__(self, fails_at: int = 0, hangs: bool = False) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails_at, self.let_go = fails_at, threading.Event()
        if not hangs:
            self.let_go.set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.calls.append((str(trial), trial.config["seed"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.let_go.wait()
        if result["training_iteration"] == self.fails_at:
            raise ConnectionError("nobody listens")
        self.calls.append((trial.trial_id, result["training_iteration"]))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self.calls.append(("end", len(trials)))


def observed(tracker: Callback, *overrides: str) -> GuardedTracker:
    return GuardedTracker("mine", tracker, "one", 2, Settings.load(overrides=["seed=5", *overrides]))


def test_the_document_s_tracker_is_told_of_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, content in re.findall(r"```\w+\n# (my_track\S+)\n(.*?)```", DOCUMENT, re.DOTALL):
        (tmp_path / file).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_trackers", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(tmp_path / "my_tracking.yaml")
    expect_trackers(settings)
    board, own = tracker_callbacks(settings, tmp_path / "watched", 1)
    assert isinstance(board, TensorBoard)
    feed(own, [1, 2, 3])
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert lines == [{"trial": "watched phase_1 forex", "bars": 640 * number, "seed": 0} for number in (1, 2, 3)]


def test_a_trial_that_restores_tells_nothing_twice() -> None:
    tracker = Kept()
    feed(observed(tracker), [1, 2, 3, 2, 3, 4])
    assert tracker.calls == [("one phase_2 forex", 5), *(("forex", number) for number in (1, 2, 3, 4)), ("end", 1)]


def test_a_tracker_that_fails_is_told_of_once_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Kept(fails_at=2)
    feed(observed(tracker), [1, 2, 3, 4])
    assert tracker.calls == [("one phase_2 forex", 5), ("forex", 1)]
    assert capsys.readouterr().out == ("tracker mine: ConnectionError: nobody listens; training goes on without it\n")


def test_a_tracker_that_hangs_makes_nobody_wait_longer_than_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Kept(hangs=True)
    began = time.monotonic()
    feed(observed(tracker, "tracking.wait_seconds=0.5", "tracking.queue_results=1000"), list(range(1, 200)))
    assert time.monotonic() - began < 5
    assert "it did not finish within tracking.wait_seconds = 0.5" in capsys.readouterr().out
    tracker.let_go.set()


def test_a_tracker_that_falls_behind_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Kept(hangs=True)
    feed(observed(tracker, "tracking.wait_seconds=0.1", "tracking.queue_results=10"), list(range(1, 100)))
    assert capsys.readouterr().out == "tracker mine: it is 10 results behind; training goes on without it\n"
    tracker.let_go.set()


def test_tune_can_keep_a_tracker_on_disk() -> None:
    watcher = observed(Kept())
    watcher.setup()
    pickle.dumps(watcher)


def test_each_name_makes_its_tracker_and_weights_and_biases_none() -> None:
    names = ["tensorboard", "wandb", f"{__name__}:Kept"]
    settings = Settings.load(overrides=[f"tracking.trackers={json.dumps(names)}"])
    expect_trackers(settings)
    board, own = tracker_callbacks(settings, Path("runs/one"), 1)
    assert isinstance(board, TensorBoard)
    assert isinstance(own, GuardedTracker)
    assert tracker_callbacks(Settings.load(overrides=["tracking.trackers=[]"]), Path("runs/one"), 1) == []


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("mlflow", "mlflow is not installed on this machine; pip install mlflow, or leave it out"),
        ("no_such_module:Tracker", "no_such_module:Tracker cannot be imported"),
        ("aim", "no installed package offers 'aim'"),
        ("builtins:dict", "builtins:dict is no tracker: expected a class derived from ray.tune.Callback"),
        (
            {"tracker": f"{__name__}:Kept", "options": {"colour": "red"}},
            "cannot be made with options {'colour': 'red'}",
        ),
        ({"tracker": "wandb", "options": {"project": "x"}}, "wandb takes no options here; see tracking.wandb"),
    ],
)
def test_what_cannot_be_found_or_made_is_refused_before_anything_starts(
    choice: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    settings = Settings.load(overrides=[f"tracking.trackers={json.dumps([choice])}"])
    with pytest.raises(ConfigError, match=re.escape(said)):
        expect_trackers(settings)


def test_a_tracker_stands_there_once() -> None:
    with pytest.raises(ConfigError, match="wandb stands there more than once"):
        Settings.load(overrides=["tracking.trackers=[wandb, wandb]"])


def test_mlflow_is_ray_s_own_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package, which is no dependency of this project."""
    from ray.air.integrations import mlflow

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    made = tracker_callbacks(
        Settings.load(overrides=['tracking.trackers=[{"tracker": "mlflow", "options": {"experiment_name": "desk"}}]']),
        Path("runs/one"),
        1,
    )
    (watcher,) = made
    assert isinstance(watcher, GuardedTracker)
    assert isinstance(watcher._tracker, mlflow.MLflowLoggerCallback)
    assert watcher._tracker.experiment_name == "desk"


@pytest.mark.parametrize(
    "options",
    [
        "{api_key: abc}",
        "{auth_token: abc}",
        "{headers: {Authorization: abc}}",
        "{tracking_uri: 'https://me:word@host/x'}",
    ],
)
def test_a_secret_among_the_options_is_refused(options: str) -> None:
    with pytest.raises(ConfigError, match="a secret would stand in the run's manifest"):
        Settings.load(overrides=[f"tracking.trackers=[{{tracker: mlflow, options: {options}}}]"])
    Settings.load(overrides=["tracking.trackers=[{tracker: mlflow, options: {tracking_uri: 'http://host:5000'}}]"])
    Settings.load(overrides=["tracking.trackers=[{tracker: mlflow, options: {api_key_file: /key, max_tokens: 3}}]"])
