"""Sweeps' schedulers and watchers under Tune's own controller, with trials whose scores are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tune_in_process
from ray import tune
from ray.tune.trainable.trainable import _TrainingResult

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import read_space
from mtquant_rllib.training.reporting.progress import Progress
from mtquant_rllib.training.result_keys import BARS_LIFETIME, SHARPE, TRIAL, VALIDATION
from mtquant_rllib.training.search.keys import COMPLETE, HANDOVERS, NEWEST, PROGRESS, SCORE, SCORES, SECONDS
from mtquant_rllib.training.search.results import Results
from mtquant_rllib.training.search.schedulers import make_scheduler
from mtquant_rllib.training.search.watchers import ResultsTableCallback

SETTINGS = Settings.load()
RATE = "recipe.learning_rate"
SPACE = read_space([f"{RATE}={{loguniform: [1e-4, 1e-2]}}"], SETTINGS)
UPDATES = 8


class Known(tune.Trainable):
    """Goes on where its name stood, as a `SearchTrial` does; its score grows with its learning rate and its updates."""

    stands: ClassVar[dict[str, int]] = {}
    rates: ClassVar[dict[str, float]] = {}
    taken: ClassVar[dict[str, list[int]]] = {}
    crashes: ClassVar[dict[tuple[str, int], bool]] = {}
    """(name, updates done) -> it fails there, once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.name, self.fresh = config[TRIAL], True
        for one in config.get(HANDOVERS, {}).get(self.name, []):
            if one["round"] not in self.taken.setdefault(self.name, []):
                self.taken[self.name].append(one["round"])
                self.stands[self.name], self.rates[self.name] = self.stands[one["from"]], one["values"][RATE]

    def step(self) -> dict[str, Any]:
        done = self.stands.get(self.name, 0)
        if self.crashes.pop((self.name, done), False):
            raise RuntimeError("out of memory")
        if not (self.fresh and done):
            done += 1
        self.fresh, self.stands[self.name] = False, done
        score = self.rates[self.name] * done
        return {
            TRIAL: self.name,
            SCORE: score,
            NEWEST: score,
            SCORES: [score - 1e-3, score + 1e-3],
            PROGRESS: 100.0 * done / UPDATES,
            COMPLETE: done == UPDATES,
            "phase": 1,
            SECONDS: 1.0,
            BARS_LIFETIME: done,
            "bars_budget": UPDATES,
            "bars_per_s": 1.0,
            "seconds_left": math.nan,
            VALIDATION: {SHARPE: score},
            "best": {SHARPE: score},
            "done": done == UPDATES,
        }

    def save(self, checkpoint_dir: str | None = None) -> _TrainingResult:
        nothing: Any = None
        return _TrainingResult(checkpoint=nothing, metrics={})


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs a sweep of so many trials by a scheduler, or goes on with it; its results."""
    handed: list[tuple[int, str]] = []
    for memory in (Known.stands, Known.rates, Known.taken, Known.crashes):
        memory.clear()

    def run(name: str, trials: int, until: Any = lambda controller: False) -> tuple[Results, list[tuple[int, str]]]:
        values = {f"trial_{number:02d}": SPACE.draw(0, number) for number in range(trials)}
        results = Results.read(tmp_path, values)
        results.begin_attempt()
        left = [row for row in results.rows.values() if not row.over]
        for row in left:
            Known.rates.setdefault(row.name, row.values[RATE])
        configs = [{TRIAL: row.name, HANDOVERS: {row.name: row.handovers}} for row in left]
        scheduler = make_scheduler(
            name,
            results,
            SPACE,
            0,
            SETTINGS.search.asha,
            SETTINGS.search.pbt,
            lambda number, donor: handed.append((number, donor)),
            print,
            lambda trial_id: None,
        )
        callbacks = [ResultsTableCallback(results, 0.0, print), Progress(tmp_path, 1, 0.0)]
        tune_in_process.run(monkeypatch, tmp_path, Known, configs, scheduler, callbacks, until, max_failures=2)
        return Results.read(tmp_path, {}), handed

    return run


def statuses(results: Results) -> list[str]:
    return [row.status for row in results.rows.values()]


def test_random_search_takes_every_trial_to_its_end(sweep: Any) -> None:
    results, _ = sweep("random", 5)
    assert statuses(results) == ["finished"] * 5
    for name, row in results.rows.items():
        assert row.score == pytest.approx(UPDATES * Known.rates[name])
        assert row.score_se == pytest.approx(1e-3)


def test_halving_stops_the_worse_and_never_the_best(sweep: Any) -> None:
    results, _ = sweep("asha", 12)
    stopped = [row for row in results.rows.values() if row.status == "stopped"]
    assert 3 <= len(stopped) <= 10
    assert {row.progress_pct for row in stopped} <= {12.5, 37.5}
    best = max(results.rows.values(), key=lambda row: row.values[RATE])
    assert best.status == "finished"


def test_a_sweep_that_was_killed_repeats_no_trial_and_no_decision(sweep: Any) -> None:
    def five_over(controller: Any) -> bool:
        return sum(trial.is_finished() for trial in controller.get_trials()) >= 5

    before, _ = sweep("asha", 12, five_over)
    over = {name: (row.status, row.score) for name, row in before.rows.items() if row.over}
    stood = dict(Known.stands)
    assert len(over) >= 5
    after, _ = sweep("asha", 12)
    assert all(row.over for row in after.rows.values())
    assert {name: (after.rows[name].status, after.rows[name].score) for name in over} == over
    assert {name: Known.stands[name] for name in over} == {name: stood[name] for name in over}
    first = {name for _, scores in before.state["rungs"] for name in scores}
    assert first <= {name for _, scores in after.state["rungs"] for name in scores}


@pytest.mark.parametrize("killed", [False, True])
def test_a_population_larger_than_the_machine_goes_through_its_rounds(sweep: Any, killed: bool) -> None:
    if killed:
        sweep("pbt", 5, lambda controller: controller._scheduler_alg._done == 1 and sum(Known.stands.values()) > 13)
    results, handed = sweep("pbt", 5)
    assert statuses(results) == ["finished"] * 5
    assert results.state == {"round": 3}
    assert sorted({number for number, _ in handed}) == [1, 2, 3]
    assert sum(Known.stands.values()) == 5 * UPDATES
    for name, row in results.rows.items():
        assert Known.taken.get(name, []) == [one["round"] for one in row.handovers]
        assert Known.rates[name] == row.values[RATE]
    # Two take over in each round: the worst of then, from the best of then.
    assert sum(len(row.handovers) for row in results.rows.values()) == 6


def test_a_population_waits_for_a_trial_that_is_started_again(sweep: Any) -> None:
    """All others have come to the end of the round when the last one fails; it is judged like any other."""
    Known.crashes["trial_04", 1] = True
    results, handed = sweep("pbt", 5)
    assert not Known.crashes
    assert statuses(results) == ["finished"] * 5
    assert sorted({number for number, _ in handed}) == [1, 2, 3]
    assert sum(len(row.handovers) for row in results.rows.values()) == 6, "two take over in each round"
    for name, row in results.rows.items():
        assert Known.taken.get(name, []) == [one["round"] for one in row.handovers]
