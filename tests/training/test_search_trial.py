"""One trial of a sweep without Tune: stopped and started again, held to a run alone, taking over another's state."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from probes import result_of, started

SWEEP = """
import json
from mtquant_rllib.config.search_space import read_space
from mtquant_rllib.training.search import handover, lineage, sweep as sweeps
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import Results
from mtquant_rllib.training.search.search_trial import MILESTONES, SearchTrial

RATE = "recipe.learning_rate"
sweep, alone = run / "sweep", run / "alone"
sweep.mkdir()
space = read_space({RATE: [1e-3, 1e-4]}, settings)
named = {"phases": [1], "budget_scale": 0.0005, "market": None, "macro": None}
record = SweepRecord.begin("x", settings, space, space.grid(), **named)
record.write(sweep)
results = Results.read(sweep, dict(zip(record.names, record.trials)))
markets = sweeps._Markets(record)
for name in record.names:
    sweeps._begin_trial(sweep, record, results, markets, [], name)

def trial(name, **handovers):
    resources = {"cpus": 1.0, "runner_cpus": 0.3, "gpus": 0.0, "learner_cpus": 0.3}
    config = {"run": str(sweep), "trial": name, "stretch": "word", "resources": resources, MILESTONES: [25.0]}
    return SearchTrial({**config, "handovers": handovers, "storage_patience_seconds": 0.0})

def facts(result):
    return {key: result[key] for key in ("score", "progress_pct", "bars_sampled_lifetime", "complete")}

said = {}
first = trial("trial_00")
while (now := first.train())["progress_pct"] < 25:
    pass
said["stopped"] = facts(now)
first.stop()
handover.keep(sweep, 1, "trial_00", record.runs_of(sweep, "trial_00"))

again = trial("trial_00")
said["again"] = facts(again.train())
while not (now := again.train())["done"]:
    pass
said["done"] = facts(now)
again.stop()

worse = trial("trial_01")
while worse.train()["progress_pct"] < 25:
    pass
worse.stop()
for attempt in ("taken", "again_taken"):
    taker = trial("trial_01", trial_01=[{"round": 1, "from": "trial_00", "values": {RATE: 5e-4}}])
    said[attempt] = facts(taker.train())
    taker.stop()
taker = trial("trial_01")
said["goes on"] = facts(taker.train())
taker.train()
taker.stop()
(folder,) = record.runs_of(sweep, "trial_01")
said["lineage"] = lineage.newest_round(folder)
said["rate"] = Manifest.read(folder).load_settings().recipe.learning_rate

from mtquant_rllib.training.phases import plan_phase
from mtquant_rllib.training.phase_handover import begin_phase
market, own = markets.centred(record.settings_of("trial_00", settings.seed))
alone.mkdir()
manifest = Manifest.begin("alone", own, market, 0.0005, [1])
manifest.write(alone)
plans = plan_phase(own, 1)
begin_phase(alone, manifest, 1, plans)
for plan in plans:
    resources = {"cpus": 1.0, "runner_cpus": 0.3, "gpus": 0.0, "learner_cpus": 0.3}
    one = PhaseTrial({"run": str(alone), "phase": 1, "trial": plan.name, "nodes": {}, "resources": resources})
    while not one.train()["done"]:
        pass
    one.stop()
    of_sweep = record.runs_of(sweep, "trial_00")[0] / plan.folder / "last"
    said[plan.name] = states.index(alone / plan.folder / "last")["modules"] == states.index(of_sweep)["modules"]
print("RESULT", json.dumps(said))
"""
SETTINGS = ["market.instruments=[EURUSD]", "recipe.min_updates=8", "recipe.validations=8", "search.seeds=1"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_goes_on_where_it_stood_and_takes_over_where_another_stands(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    said = json.loads(result_of(started(folder, SWEEP, "", *SETTINGS)).removeprefix("RESULT"))
    assert said["again"] == said["stopped"], "it says where it stands before it trains on"
    assert said["stopped"]["bars_sampled_lifetime"] == 64
    assert said["done"]["bars_sampled_lifetime"] == 250
    assert said["done"]["complete"]
    assert said["forex"], "the same bytes as of a run alone"
    for word in ("taken", "again_taken", "goes on"):
        assert said[word] == said["stopped"], "the state, and the score, of the trial that it took over from"
    assert (said["lineage"], said["rate"]) == (1, 5e-4)
    with open(folder / "sweep" / "trial_01_seed_0" / "curves" / "phase_1_forex.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3]
    rates = [float(row["EURUSD/learning_rate"]) for row in rows]
    assert rates == pytest.approx([1e-4, 1e-4 * (1 - 32 / 250), 5e-4 * (1 - 64 / 250)], rel=1e-5)
