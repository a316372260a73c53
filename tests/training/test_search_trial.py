"""One trial of a sweep without Tune: stopped and started again, held to a run alone, taking over another's state."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trials import TINY

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import read_space
from mtquant_rllib.training.curriculum.phase_handover import begin_phase
from mtquant_rllib.training.curriculum.phases import plan_phase
from mtquant_rllib.training.curriculum.trial import PhaseTrial
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.search import handover, lineage
from mtquant_rllib.training.search import sweep as sweeps
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import Results
from mtquant_rllib.training.search.search_trial import SearchTrial

RATE = "recipe.learning_rate"
SCALE = 0.0005
SMALL = ["market.instruments=[EURUSD]", "recipe.min_updates=8", "recipe.validations=8", "search.seeds=1"]
RESOURCES = {"cpus": 1.0, "runner_cpus": 0.3, "gpus": 0.0, "learner_cpus": 0.3}


@dataclass(frozen=True)
class Sweep:
    """Two trials of one seed, begun and not trained."""

    folder: Path
    record: SweepRecord
    markets: Any

    def trial(self, name: str, **handovers: Any) -> SearchTrial:
        own = {"run": str(self.folder), "trial": name, "attempt": "word", "resources": RESOURCES}
        return SearchTrial({**own, "milestones_pct": [25.0], "handovers": handovers})

    def run(self, trial: str) -> Path:
        (run,) = self.record.runs_of(self.folder, trial)
        return run

    def trained_to_a_quarter(self, name: str) -> dict[str, Any]:
        trial = self.trial(name)
        while (result := trial.train())["progress_pct"] < 25:
            pass
        trial.stop()
        return facts(result)


@pytest.fixture
def sweep(tmp_path: Path, ray_session: None) -> Sweep:
    folder = tmp_path / "sweep"
    folder.mkdir()
    settings = Settings.load(overrides=[*TINY, *SMALL])
    space = read_space({RATE: [1e-3, 1e-4]}, settings)
    named: dict[str, Any] = {"phases": [1], "budget_scale": SCALE, "market": None, "macro": None}
    record = SweepRecord.begin("x", settings, space, space.grid(), **named)
    record.write(folder)
    results = Results.read(folder, dict(zip(record.names, record.trials)))
    markets = sweeps._Markets(record)
    for name in record.names:
        sweeps._begin_trial(folder, record, results, markets, [], name)
    return Sweep(folder, record, markets)


def facts(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("score", "progress_pct", "bars_sampled_lifetime", "complete")}


def trained_alone(sweep: Sweep, trial: str) -> Path:
    """The run of a trial as `train` makes it: its folder."""
    record = sweep.record
    market, settings = sweep.markets.centred(record.settings_of(trial, record.seeds[0]))
    run = sweep.folder.parent / "alone"
    run.mkdir()
    manifest = Manifest.begin("alone", settings, market, SCALE, [1])
    manifest.write(run)
    plans = plan_phase(settings, 1)
    begin_phase(run, manifest, 1, plans)
    for plan in plans:
        config = {"run": str(run), "phase": 1, "trial": plan.name, "nodes": {}, "resources": RESOURCES}
        one = PhaseTrial(config)
        while not one.train()["done"]:
            pass
        one.stop()
    return run


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_goes_on_where_it_stood_and_ends_as_a_run_alone(sweep: Sweep) -> None:
    stopped = sweep.trained_to_a_quarter("trial_00")
    assert stopped["bars_sampled_lifetime"] == 64
    again = sweep.trial("trial_00")
    assert facts(again.train()) == stopped, "it says where it stands before it trains on"
    while not (result := again.train())["done"]:
        pass
    again.stop()
    assert result["bars_sampled_lifetime"] == 250
    assert result["complete"]
    alone, own = trained_alone(sweep, "trial_00"), sweep.run("trial_00")
    for plan in plan_phase(Manifest.read(alone).load_settings(), 1):
        hashes = [module_states.index(run / plan.folder / "last")["modules"] for run in (alone, own)]
        assert hashes[0] == hashes[1], "the same bytes as of a run alone"


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_takes_over_where_another_stands_and_trains_on_with_its_new_rate(sweep: Sweep) -> None:
    stopped = sweep.trained_to_a_quarter("trial_00")
    handover.keep(sweep.folder, 1, "trial_00", sweep.record.runs_of(sweep.folder, "trial_00"))
    sweep.trained_to_a_quarter("trial_01")
    decided = [{"round": 1, "from": "trial_00", "values": {RATE: 5e-4}}]
    for _ in range(2):
        taker = sweep.trial("trial_01", trial_01=decided)
        assert facts(taker.train()) == stopped, "the state, and the score, of the trial that it took over from"
        taker.stop()
    taker = sweep.trial("trial_01")
    assert facts(taker.train()) == stopped
    taker.train()
    taker.stop()

    run = sweep.run("trial_01")
    assert lineage.newest_round(run) == 1
    assert Manifest.read(run).load_settings().recipe.learning_rate == 5e-4
    with open(run / "curves" / "phase_1_forex.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3]
    rates = [float(row["EURUSD/learning_rate"]) for row in rows]
    assert rates == pytest.approx([1e-4, 1e-4 * (1 - 32 / 250), 5e-4 * (1 - 64 / 250)], rel=1e-5)
