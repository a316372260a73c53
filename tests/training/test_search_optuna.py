"""Values from Optuna, where it is installed: what it has seen is the same after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.tune.search import Searcher

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import read_space
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.search.optuna_searcher import OptunaSearcher
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import Results

pytest.importorskip("optuna")
SPACE = {
    "recipe.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "recipe.n_epochs": {"integers": [2, 10]},
    "recipe.batch_size": [256, 512],
}


def searcher(folder: Path, trials: int = 6, left: tuple[str, ...] = ()) -> tuple[OptunaSearcher, SweepRecord, Results]:
    settings = Settings.load(overrides=[f"search.trials={trials}", "search.searcher=optuna"])
    if (folder / "sweep.json").exists():
        record = SweepRecord.read(folder)
    else:
        space = read_space(SPACE, settings)
        named = {"phases": [1], "budget_scale": 1.0, "market": None, "macro": None}
        record = SweepRecord.begin("wide", settings, space, [], **named)
    results = Results.read(folder, dict(zip(record.names, record.trials)))
    return OptunaSearcher(folder, record, results, lambda name: (folder / name).mkdir(), list(left)), record, results


def end(asked: OptunaSearcher, results: Results, trial_id: str, name: str, score: float) -> None:
    results.note(name, status="finished", score=score)
    results.write()
    asked.on_trial_complete(trial_id)


def test_every_trial_is_recorded_and_made_before_it_runs(tmp_path: Path) -> None:
    asked, record, results = searcher(tmp_path, trials=2)
    for number in range(2):
        name = f"trial_0{number}"
        assert asked.suggest(f"id{number}") == {TRIAL: name}
        assert (tmp_path / name).is_dir()
        values = SweepRecord.read(tmp_path).values_of(name)
        assert 1e-4 <= values["recipe.learning_rate"] <= 1e-2
        assert values["recipe.n_epochs"] in range(2, 11)
        assert values["recipe.batch_size"] in (256, 512)
        end(asked, results, f"id{number}", name, 0.5)
    assert asked.suggest("id2") == Searcher.FINISHED
    assert record.n_trials == 2


def test_it_asks_for_better_values_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The score is the learning rate's logarithm: the sampler must move up."""
    import math

    asked, _, results = searcher(tmp_path, trials=40)
    for number in range(20):
        suggested = asked.suggest(f"id{number}")
        assert isinstance(suggested, dict)
        name = suggested[TRIAL]
        end(asked, results, f"id{number}", name, math.log(results.rows[name].values["recipe.learning_rate"]))
    asked, record, results = searcher(tmp_path, trials=40, left=("trial_03",))
    assert asked.suggest("again") == {TRIAL: "trial_03"}
    for number in range(20, 40):
        suggested = asked.suggest(f"id{number}")
        assert isinstance(suggested, dict)
        name = suggested[TRIAL]
        end(asked, results, f"id{number}", name, math.log(results.rows[name].values["recipe.learning_rate"]))
    rates = [values["recipe.learning_rate"] for values in record.trials]
    assert sum(rates[20:]) / 20 > sum(rates[:10]) / 10


def test_it_hears_of_trials_that_an_attempt_before_began(tmp_path: Path) -> None:
    asked, _, _ = searcher(tmp_path)
    for number in range(2):
        asked.suggest(f"id{number}")
    again, _, results = searcher(tmp_path, left=("trial_00", "trial_01"))
    for number, score in enumerate((0.3, 0.7)):
        suggested = again.suggest(f"new{number}")
        assert isinstance(suggested, dict)
        end(again, results, f"new{number}", suggested[TRIAL], score)
    assert [trial.value for trial in again._study.trials] == [0.3, 0.7]
