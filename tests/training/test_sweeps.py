"""Sweeps in a Ray session, tiny: killed, resumed, and held to runs that `mtquant train` makes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mtquant_rllib.training.records import checkpoints
from mtquant_rllib.training.records.ledger import TRAINING, Ledger
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.search import lineage
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import Results

SETTINGS = [
    "embedded.train={paths: 2, years: 3}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
    "desk.episode.bars=20",
    "recipe.environments=4",
    "recipe.validations=8",
    "resources.cpus=2",
    "tracking.progress_seconds=0",
]
SCALE = "0.0005"
BUDGET = 250
RATES = "recipe.learning_rate=1e-4,3e-4,1e-3,3e-3"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "MTQUANT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mtquant_rllib.cli", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin(folder: Path, command: str, run: Path, *arguments: str) -> subprocess.Popen[str]:
    overrides = [word for override in SETTINGS for word in ("--set", override)]
    return start(folder, command, "--run", str(run), "--budget-scale", SCALE, *arguments, *overrides)


def done(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out[-4000:]
    return out


def kill_once(process: subprocess.Popen[str], words: str) -> None:
    """SIGKILL the driver as soon as it says this."""
    deadline, said = time.monotonic() + 500, []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if words in line:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        assert time.monotonic() < deadline, said
    raise AssertionError(f"never said {words!r}: {''.join(said)[-3000:]}")


def column(path: Path, name: str) -> list[float]:
    with open(path, newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def written(run: Path) -> dict[str, int]:
    """When each checkpoint of a run was written."""
    return {str(path): path.stat().st_mtime_ns for path in run.glob("phase_1/*/checkpoint_*/checkpoint.json")}


@pytest.mark.ray
@pytest.mark.nightly
def test_four_learning_rates_are_compared_by_one_command_whatever_kills_it(tmp_path: Path) -> None:
    run = tmp_path / "rates"
    kill_once(
        begin(tmp_path, "sweep", run, "--space", RATES, "--seeds", "2", "--scheduler", "grid"), "finished at 100%"
    )
    before, record = Results.read(run, {}), SweepRecord.read(run)
    over = [name for name, row in before.rows.items() if row.status == "finished"]
    assert 1 <= len(over) < 4
    kept = {folder.name: written(folder) for name in over for folder in record.runs_of(run, name)}
    out = done(start(tmp_path, "resume", str(run)))

    results = Results.read(run, {})
    assert [row.status for row in results.rows.values()] == ["finished"] * 4, out[-3000:]
    for name in over:
        assert results.rows[name].score == before.rows[name].score
        assert {folder.name: written(folder) for folder in record.runs_of(run, name)}.items() <= kept.items()
    for name, row in results.rows.items():
        best = []
        for folder in record.runs_of(run, name):
            manifest = Manifest.read(folder)
            assert manifest.phase(1).status == "done"
            trials = manifest.phase(1).trials
            assert [trial.bars for trial in trials.values()] == [BUDGET] * 3
            for trial in trials:
                assert column(folder / "curves" / f"phase_1_{trial}.csv", "iteration") == list(range(1, 9))
            best.append(sum(one.best_sharpe or 0.0 for one in trials.values()) / 3)
            assert json.loads((folder / "selection.json").read_text())["n_trials"] == 4
        assert row.score == pytest.approx(sum(best) / 2)
        assert row.score_se == pytest.approx(abs(best[0] - best[1]) / 2)
    assert "best of 4: trial_0" in out
    with open(run / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["score"]) for row in table] == sorted((float(row["score"]) for row in table), reverse=True)

    alone = tmp_path / "alone"
    done(begin(tmp_path, "train", alone, "--phase", "1", "--set", "recipe.learning_rate=1e-3", "--set", "seed=1"))
    one, two = Manifest.read(alone).phase(1).trials, Manifest.read(run / "trial_02_seed_1").phase(1).trials
    assert {name: trial.hashes for name, trial in one.items()} == {name: trial.hashes for name, trial in two.items()}


@pytest.mark.ray
@pytest.mark.nightly
def test_a_population_takes_over_states_and_trains_on_with_its_new_rates(tmp_path: Path) -> None:
    run = tmp_path / "population"
    space = "recipe.learning_rate={loguniform: [1e-4, 1e-2]}"
    arguments = ["--space", space, "--seeds", "1", "--scheduler", "pbt", "--trials", "3"]
    kill_once(begin(tmp_path, "sweep", run, *arguments), "round 1: ")
    done(start(tmp_path, "sweep", "--resume", str(run)))

    results, record = Results.read(run, {}), SweepRecord.read(run)
    assert [row.status for row in results.rows.values()] == ["finished"] * 3
    assert results.state == {"round": 3}
    taken = [(name, one) for name, row in results.rows.items() for one in row.handovers]
    assert {one["round"] for _, one in taken} == {1, 2, 3}
    assert not (run / "handover").exists()
    begun_with = [record.values_of(name) for name in record.names]
    values = {json.dumps(one) for one in [*begun_with, *(one["values"] for _, one in taken)]}
    trained = [one for one in Ledger.beside(run).read().entries if one.kind == TRAINING]
    assert len({one.values["trial"] for one in trained}) == len(values)
    for name, row in results.rows.items():
        (folder,) = record.runs_of(run, name)
        assert [one["round"] for one in lineage.read(folder)] == [one["round"] for one in row.handovers]
        rates: dict[str, Any] = {"0": record.values_of(name)}
        for one in row.handovers:
            rates[str(2 * one["round"])] = one["values"]
        curve = folder / "curves" / "phase_1_forex.csv"
        assert column(curve, "iteration") == list(range(1, 9))
        bars, measured = column(curve, "bars"), column(curve, "EURUSD/learning_rate")
        for update in range(8):
            asked = rates[max((key for key in rates if int(key) <= update), key=int)]["recipe.learning_rate"]
            sampled = bars[update - 1] if update else 0.0
            assert measured[update] == pytest.approx(asked * (1 - sampled / BUDGET), rel=1e-5), (name, update)
    name, one = next((name, one) for name, one in taken if one["round"] == 3)
    (folder,) = record.runs_of(run, name)
    assert Manifest.read(folder).load_settings().recipe.learning_rate == one["values"]["recipe.learning_rate"]
    newest = checkpoints.listed(folder / "phase_1" / "forex")[0]
    assert checkpoints.verify(newest).bars == BUDGET
