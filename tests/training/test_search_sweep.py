"""What a sweep refuses before it makes anything, and what it has made before its first trial begins."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trials import TINY

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.training.curriculum import driver
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.search import experiment, optuna_searcher, search_trial, sweep
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import Results

RATES = ["recipe.learning_rate=1e-4,3e-4,1e-3,3e-3"]
SMALL = [*TINY, "resources.cpus=2", "search.seeds=2", "recipe.validations=10"]


class Reached(Exception):
    """A Ray session was about to begin."""


@pytest.fixture(autouse=True)
def _no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def reached(*args: Any, **named: Any) -> Iterator[None]:
        raise Reached
        yield

    monkeypatch.setattr(sweep, "session", reached)


def settings_with(*overrides: str) -> Settings:
    return Settings.load(overrides=[*SMALL, *overrides])


@pytest.mark.parametrize(
    ("overrides", "space", "said"),
    [
        (["search.scheduler=grid"], ["recipe.gae_lambda={uniform: [0, 1]}"], "has no grid"),
        (["search.scheduler=pbt"], ["recipe.train_batch_bars=64,128"], "cannot change it on the way"),
        (["search.scheduler=pbt", "search.trials=1"], RATES, "a population has two trials at least"),
        (["search.asha.grace_frac=0.05"], RATES, "compared at 5% of the budget, and the first of recipe.validations"),
        ([], ["recipe.validations=5,10"], "judged equally often"),
        ([], ["recipe.environments=4,6", "resources.runners=1,2"], "resources.runners: not searched"),
        ([], ["desk.cost.impact_coefficient=0,0.1"], "not searched; every trial is judged at the same costs"),
        ([], ["desk.episode.bars=60,120"], "not searched; every trial is judged on the same episodes"),
        ([], ["training.phase_1_timesteps=1000,9000"], "not searched; every trial has the same budget"),
        (["resources.runners=2"], ["recipe.environments=4,5"], "a multiple of resources.runners = 2"),
        (["resources.runners=30", "recipe.environments=30"], RATES, "of at least resources.min_process_cpus"),
        (["search.searcher=optuna", "search.scheduler=pbt"], RATES, "expected asha or random"),
    ],
)
def test_what_cannot_be_swept_is_refused_and_nothing_is_made(
    tmp_path: Path, overrides: list[str], space: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep.sweep(settings_with(*overrides), space, run=tmp_path / "rates")
    assert not (tmp_path / "rates").exists()


def test_optuna_that_is_not_installed_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_searcher, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install optuna"):
        sweep.sweep(settings_with("search.searcher=optuna"), RATES, run=tmp_path / "rates")


def test_a_sweep_lies_in_a_folder() -> None:
    with pytest.raises(RunError, match="a folder that every node mounts"):
        sweep.sweep(settings_with(), RATES, run="s3://bucket/rates")  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_trial_is_a_few_runs_that_say_out_of_how_many(tmp_path: Path) -> None:
    run = tmp_path / "rates"
    with pytest.raises(Reached):
        sweep.sweep(settings_with("search.scheduler=grid", "seed=5"), RATES, run=run, budget_scale=0.02)
    record = SweepRecord.read(run)
    assert [values["recipe.learning_rate"] for values in record.trials] == [1e-4, 3e-4, 1e-3, 3e-3]
    folders = [folder.name for trial in record.names for folder in record.runs_of(run, trial)]
    assert folders[:3] == ["trial_00_seed_5", "trial_00_seed_6", "trial_01_seed_5"]
    for folder in folders:
        manifest = Manifest.read(run / folder)
        trial, seed = folder.removesuffix(folder[-7:]), int(folder[-1])
        assert manifest.load_settings().recipe.learning_rate == record.values_of(trial)["recipe.learning_rate"]
        assert (manifest.seed, manifest.load_settings().seed, manifest.wanted) == (seed, seed, [1])
        assert manifest.budget_scale == 0.02
        note = json.loads((run / folder / "selection.json").read_text())
        assert (note["n_trials"], note["split"], note["trial"]) == (4, "validation", trial)
    assert {row.status for row in Results.read(run, {}).rows.values()} == {"pending"}
    with pytest.raises(RunError, match="this sweep exists; carry it on with `mtquant resume"):
        sweep.sweep(settings_with("search.scheduler=grid"), RATES, run=run)
    with pytest.raises(RunError, match="this is a sweep; carry it on"):
        driver.train(settings_with(), run=run)
    with pytest.raises(ConfigError, match="declared with another --space"):
        sweep.sweep(settings_with(), ["recipe.learning_rate=1e-4,1e-3"], run=run, resume_existing=True)
    own = settings_with("search.scheduler=grid", "seed=5")
    for settings, how, said in (
        (settings_with("search.scheduler=asha", "seed=5"), {"budget_scale": 0.02}, "section `search`"),
        (
            settings_with("search.scheduler=grid", "seed=5", "desk.episode.bars=70"),
            {"budget_scale": 0.02},
            "section `desk`",
        ),
        (own, {"budget_scale": 0.5}, "--budget-scale"),
        (own, {"budget_scale": 0.02, "phase": "all"}, "--phase"),
    ):
        with pytest.raises(ConfigError, match=f"declared with another {said}"):
            sweep.sweep(settings, RATES, run=run, resume_existing=True, **how)
    with pytest.raises(Reached):
        sweep.sweep(
            settings_with("search.scheduler=grid", "seed=5", "resources.cpus=2"),
            RATES,
            run=run,
            budget_scale=0.02,
            resume_existing=True,
        )
    with pytest.raises(Reached):
        sweep.resume(run)
    with pytest.raises(ConfigError, match="a sweep goes on with what it declared"):
        sweep.resume(run, overrides=["search.trials=9"])


def test_runs_are_a_runs_folder_of_their_own(tmp_path: Path) -> None:
    run = tmp_path / "real"
    run.mkdir()
    (run / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="not empty and no run of this project"):
        sweep.sweep(settings_with(), RATES, run=run)
    assert [path.name for path in run.iterdir()] == ["thesis.txt"]


def test_as_many_trials_run_side_by_side_as_there_are_cpus_for_all_of_their_processes() -> None:
    settings = settings_with("resources.cpus=null")
    nodes = [Node("a", 8.0, id="a"), Node("b", 4.0, id="b")]
    assert experiment.at_a_time(experiment.resources_of(settings, 2), nodes, 50) == 12
    with_runners = settings_with("resources.cpus=null", "resources.runners=1")
    assert experiment.at_a_time(experiment.resources_of(with_runners, 2), nodes, 50) == 4, "three processes each"
    assert experiment.at_a_time(experiment.resources_of(settings_with(), 2), nodes, 50) == 2, "resources.cpus = 2"
    assert experiment.at_a_time(experiment.resources_of(settings, 2), nodes, 3) == 3


def test_a_trial_asks_ray_for_all_of_its_processes() -> None:
    asked = {"cpus": 0.5, "runner_cpus": 0.25, "gpus": 0.25, "learner_cpus": 0.0}
    config = {"run": "x", TRIAL: "trial_00", "resources": asked, "nodes": {}, "runners": 4, "learners": 0}
    group = search_trial.SearchTrial.default_resource_request(config)
    assert group.bundles == [{"CPU": 0.5, "GPU": 0.25}, *[{"CPU": 0.25}] * 4]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--space", "recipe.learnin_rate=1,2"], "did you mean recipe.learning_rate?"),
        (["--space", "no-such.yaml"], "no config file"),
        ([], "nothing to search"),
        (["--space", "recipe.learning_rate=1e-4,1e-3", "--scheduler", "gird"], "'pbt', 'random' or 'grid'"),
        (["--space", "recipe.learning_rate=1e-4,1e-3", "--scheduler", "grid", "--trials", "3"], "as many as it has"),
        (["--space", "recipe.learning_rate=1e-4,1e-3", "--trials", "0"], "greater than or equal to 1"),
        (["--resume", "wide", "--trials", "3"], "goes on with what it declared"),
        (["--table", "no-such-sweep"], "no sweep there"),
    ],
)
def test_a_mistake_gets_one_clear_message(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert main(["sweep", *arguments]) == 2
    said = capsys.readouterr()
    assert hint in said.err
    assert "Traceback" not in said.err
