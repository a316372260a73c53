"""Who goes on, who stops and who takes over: decisions as Tune's, and the same after a restart."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import read_space
from mtquant_rllib.training.result_keys import BARS_LIFETIME, TRIAL
from mtquant_rllib.training.search.keys import COMPLETE, HANDOVERS, NEWEST, PROGRESS, SCORE, SCORES, SECONDS
from mtquant_rllib.training.search.results import Results
from mtquant_rllib.training.search.schedulers import Population, SuccessiveHalving

SETTINGS = Settings.load()
ASHA, PBT = SETTINGS.search.asha, SETTINGS.search.pbt
RATE = "recipe.learning_rate"
SPACE = read_space([f"{RATE}={{loguniform: [1e-4, 1e-2]}}"], SETTINGS)


class FakeTrial:
    """What schedulers see of a trial of Tune's."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.experiment_tag, self.status = f"id{random.random()}", "", Trial.RUNNING
        self.config: dict[str, Any] = {TRIAL: f"trial_{number:02d}"}
        keeping = SimpleNamespace(num_to_keep=None)
        self.run_metadata = SimpleNamespace(checkpoint_manager=SimpleNamespace(checkpoint_config=keeping))

    @property
    def name(self) -> str:
        return str(self.config[TRIAL])

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


class FakeController:
    search_alg = None

    def __init__(self, trials: Sequence[FakeTrial]) -> None:
        self.trials = list(trials)

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def pause_trial(self, trial: FakeTrial, should_checkpoint: bool) -> None:
        trial.status = Trial.PAUSED


def result(trial: FakeTrial, progress: float, score: float) -> dict[str, Any]:
    return {
        TRIAL: trial.name,
        PROGRESS: progress,
        SCORE: score,
        NEWEST: score,
        SCORES: [score],
        COMPLETE: progress >= 100,
        "phase": 1,
        BARS_LIFETIME: 1,
        SECONDS: 1.0,
    }


def results_of(folder: Path, trials: int) -> Results:
    names = [f"trial_{number:02d}" for number in range(trials)]
    values = {name: SPACE.draw(0, number) for number, name in enumerate(names)}
    return Results.read(folder, values)


# -- successive halving -----------------------------------------------------------------------------------------------


def halving(folder: Path, trials: Sequence[FakeTrial]) -> SuccessiveHalving:
    scheduler = SuccessiveHalving(ASHA, results_of(folder, len(trials)))
    for trial in trials:
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
    return scheduler


def test_decisions_are_those_of_tunes_own_scheduler(tmp_path: Path) -> None:
    """30 trials in random order of arrival, each judged at 12.5%, 25%, 37.5% ... of the budget."""
    trials, rng = [FakeTrial(number) for number in range(30)], random.Random(1)
    ours = halving(tmp_path, trials)
    theirs = AsyncHyperBandScheduler(
        time_attr=PROGRESS,
        metric=SCORE,
        mode="max",
        max_t=100,
        grace_period=12,
        reduction_factor=3,
        stop_last_trials=False,
    )
    for trial in trials:
        theirs.on_trial_add(None, trial)  # type: ignore[arg-type]
    far, stopped = dict.fromkeys(trials, 0.0), []
    while going := [trial for trial in trials if far[trial] < 87.5 and trial not in stopped]:
        trial = rng.choice(going)
        far[trial] += 12.5
        said = result(trial, far[trial], rng.gauss(0, 1))
        action = ours.on_trial_result(None, trial, said)  # type: ignore[arg-type]
        assert action == theirs.on_trial_result(None, trial, said)  # type: ignore[arg-type]
        if action == TrialScheduler.STOP:
            stopped.append(trial)
    assert 10 <= len(stopped) <= 28
    kept = Results.read(tmp_path, {}).rows
    assert {name for name, row in kept.items() if row.status == "stopped"} == {trial.name for trial in stopped}


def test_what_was_decided_is_known_after_a_restart(tmp_path: Path) -> None:
    first = [FakeTrial(number) for number in range(3)]
    scheduler = halving(tmp_path, first)
    for trial, score in zip(first, (0.9, 0.8, 0.1)):
        last = scheduler.on_trial_result(None, trial, result(trial, 12.5, score))  # type: ignore[arg-type]
    assert last == TrialScheduler.STOP
    again = [FakeTrial(number) for number in range(5)]
    later = halving(tmp_path, again)
    rows = Results.read(tmp_path, {}).rows
    assert rows["trial_02"].why == "below 0.87 at 12%"
    new = later.on_trial_result(None, again[3], result(again[3], 12.5, 0.5))  # type: ignore[arg-type]
    assert new == TrialScheduler.STOP, "compared with those of before"
    same = later.on_trial_result(None, again[0], result(again[0], 12.5, -1.0))  # type: ignore[arg-type]
    assert same == TrialScheduler.CONTINUE, "a trial is judged at a rung once"


def test_a_trial_without_a_validation_yet_is_not_judged(tmp_path: Path) -> None:
    trials = [FakeTrial(number) for number in range(2)]
    scheduler = halving(tmp_path, trials)
    scheduler.on_trial_result(None, trials[0], result(trials[0], 12.5, 1.0))  # type: ignore[arg-type]
    action = scheduler.on_trial_result(None, trials[1], result(trials[1], 12.5, math.nan))  # type: ignore[arg-type]
    assert action == TrialScheduler.CONTINUE


def test_a_trial_that_was_interrupted_at_a_rung_is_judged_when_it_goes_on(tmp_path: Path) -> None:
    """Tune stops it without asking the scheduler, and says that it is complete."""
    trials = [FakeTrial(number) for number in range(2)]
    scheduler = halving(tmp_path, trials)
    scheduler.on_trial_result(None, trials[0], result(trials[0], 12.5, 1.0))  # type: ignore[arg-type]
    scheduler.on_trial_complete(None, trials[1], result(trials[1], 12.5, 0.0))  # type: ignore[arg-type]
    again = [FakeTrial(number) for number in range(2)]
    later = halving(tmp_path, again)
    action = later.on_trial_result(None, again[1], result(again[1], 12.5, 0.0))  # type: ignore[arg-type]
    assert action == TrialScheduler.STOP


# -- population-based training ----------------------------------------------------------------------------------------


def population(folder: Path, trials: Sequence[FakeTrial], handed: list[tuple[int, str]]) -> tuple[Population, Any]:
    controller: Any = FakeController(trials)
    scheduler = Population(
        PBT, SPACE, 0, results_of(folder, len(trials)), lambda number, name: handed.append((number, name)), print, print
    )
    for trial in trials:
        scheduler.on_trial_add(controller, trial)  # type: ignore[arg-type]
    return scheduler, controller


def through_a_round(scheduler: Population, controller: Any, scores: dict[str, float], progress: float) -> list[str]:
    """Let every trial come to the end of the round, in the controller's order; the actions."""
    actions = []
    for trial in controller.trials:
        trial.status = Trial.RUNNING
        action = scheduler.on_trial_result(controller, trial, result(trial, progress, scores[trial.name]))
        if action == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        actions.append(action)
    return actions


SCORES_OF_FOUR = {"trial_00": 0.1, "trial_01": 0.7, "trial_02": 0.9, "trial_03": 0.5}


def test_the_worst_takes_over_from_the_best_with_a_value_near_to_its(tmp_path: Path) -> None:
    handed: list[tuple[int, str]] = []
    trials = [FakeTrial(number) for number in range(4)]
    scheduler, controller = population(tmp_path, trials, handed)
    before = results_of(tmp_path, 4).rows
    assert through_a_round(scheduler, controller, SCORES_OF_FOUR, 20.0) == [TrialScheduler.CONTINUE] * 4
    actions = through_a_round(scheduler, controller, SCORES_OF_FOUR, 25.0)
    assert actions == [*[TrialScheduler.PAUSE] * 3, TrialScheduler.CONTINUE]
    assert handed == [(1, "trial_02")]
    (taken,) = trials[0].config[HANDOVERS]["trial_00"]
    assert taken["from"] == "trial_02"
    near = {before["trial_02"].values[RATE] * factor for factor in PBT.factors}
    assert taken["values"][RATE] in near or 1e-4 <= taken["values"][RATE] <= 1e-2
    assert trials[0].config[TRIAL] == "trial_00", "it stays who it is"
    assert all(HANDOVERS not in trial.config for trial in trials[1:])
    kept = Results.read(tmp_path, {})
    assert kept.rows["trial_00"].values == taken["values"]
    assert kept.rows["trial_00"].handovers[0]["values_before"] == before["trial_00"].values
    assert (kept.state, kept.n_configurations) == ({"round": 1}, 5)
    assert scheduler.choose_trial_to_run(controller) is trials[0]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_what_is_taken_over_does_not_depend_on_who_was_faster(tmp_path: Path, order: tuple[int, ...]) -> None:
    def taken(folder: Path, turns: Sequence[int]) -> Any:
        folder.mkdir()
        trials = [FakeTrial(number) for number in turns]
        scheduler, controller = population(folder, trials, [])
        through_a_round(scheduler, controller, SCORES_OF_FOUR, 25.0)
        return Results.read(folder, {}).rows["trial_00"].handovers

    assert taken(tmp_path / "one", order) == taken(tmp_path / "two", (0, 1, 2, 3))


def test_a_population_that_was_killed_goes_on_in_its_round(tmp_path: Path) -> None:
    trials = [FakeTrial(number) for number in range(4)]
    scheduler, controller = population(tmp_path, trials, [])
    through_a_round(scheduler, controller, SCORES_OF_FOUR, 25.0)
    again, handed = [FakeTrial(number) for number in range(4)], list[tuple[int, str]]()
    later, there = population(tmp_path, again, handed)
    # Every trial says first where it stands: at the end of a round that is over.
    assert through_a_round(later, there, SCORES_OF_FOUR, 25.0) == [TrialScheduler.CONTINUE] * 4
    through_a_round(later, there, SCORES_OF_FOUR, 50.0)
    assert handed == [(2, "trial_02")]


def test_a_trial_that_diverged_is_not_waited_for(tmp_path: Path) -> None:
    trials = [FakeTrial(number) for number in range(4)]
    handed: list[tuple[int, str]] = []
    scheduler, controller = population(tmp_path, trials, handed)
    for trial in trials[:3]:
        scheduler.on_trial_result(controller, trial, result(trial, 25.0, SCORES_OF_FOUR[trial.name]))
        trial.status = Trial.PAUSED
    scheduler.on_trial_complete(controller, trials[3], {**result(trials[3], 20.0, 0.5)})  # type: ignore[arg-type]
    assert not handed, "one that was interrupted ends no round"
    scheduler.on_trial_error(controller, trials[3])  # type: ignore[arg-type]
    assert handed == [(1, "trial_02")]


def test_trials_are_ranked_by_the_state_that_they_hand_over_and_not_by_their_best_so_far(tmp_path: Path) -> None:
    handed: list[tuple[int, str]] = []
    trials = [FakeTrial(number) for number in range(4)]
    scheduler, controller = population(tmp_path, trials, handed)
    for trial in trials:
        said = result(trial, 25.0, 2.0) | {NEWEST: SCORES_OF_FOUR[trial.name]}
        if scheduler.on_trial_result(controller, trial, said) == TrialScheduler.PAUSE:  # type: ignore[arg-type]
            trial.status = Trial.PAUSED
    assert handed == [(1, "trial_02")]


def test_after_the_last_round_nothing_is_perturbed(tmp_path: Path) -> None:
    trials = [FakeTrial(number) for number in range(4)]
    handed: list[tuple[int, str]] = []
    scheduler, controller = population(tmp_path, trials, handed)
    for progress in (25.0, 50.0, 75.0, 100.0):
        through_a_round(scheduler, controller, SCORES_OF_FOUR, progress)
    assert [number for number, _ in handed] == [1, 2, 3]
