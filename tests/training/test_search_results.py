"""Scores over seeds, the order of trials and their table."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.result_keys import BARS_LIFETIME, FAILURE, TRIAL
from mtquant_rllib.training.search import table
from mtquant_rllib.training.search.keys import COMPLETE, PROGRESS, SCORES, SECONDS
from mtquant_rllib.training.search.results import Results, TrialRow, lead, mean_and_error, note_result, ranked

RATES = {f"trial_{number:02d}": {"recipe.learning_rate": 10.0**-number} for number in range(4)}


def row(number: int, status: str, score: float | None, progress: float = 100.0, **more: object) -> TrialRow:
    name = f"trial_{number:02d}"
    return TrialRow(name, dict(RATES[name]), status, progress_pct=progress, score=score, **more)  # type: ignore[arg-type]


def result(name: str, scores: list[float], progress: float, **more: object) -> dict[str, object]:
    return {
        TRIAL: name,
        SCORES: scores,
        PROGRESS: progress,
        COMPLETE: progress == 100,
        "phase": 1,
        BARS_LIFETIME: 10,
        SECONDS: 1.5,
        **more,
    }


def test_a_score_is_the_mean_over_seeds_with_its_standard_error() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert mean_and_error([0.5]) == (0.5, None)
    assert mean_and_error([0.5, math.nan]) == (None, None), "a mean of fewer seeds is another trial's"
    assert mean_and_error([]) == (None, None)


def test_trials_that_came_to_their_end_are_ranked_before_those_that_did_not() -> None:
    rows = [row(0, "stopped", 3.0, 36), row(1, "finished", 0.5), row(2, "running", 2.0, 60), row(3, "finished", 0.9)]
    assert [one.name[-1] for one in ranked(rows)] == ["3", "1", "2", "0"]


def test_a_lead_is_taken_seed_by_seed() -> None:
    """Both trials are good with seed 0: the difference knows no luck of the seed."""
    best, other = row(0, "finished", 1.5, scores=[2.0, 1.0]), row(1, "finished", 1.3, scores=[1.8, 0.8])
    difference, error = lead(best, other)
    assert difference == pytest.approx(0.2)
    assert error == pytest.approx(0.0, abs=1e-9)
    assert "0.20 ± 0.00 above trial_01 seed by seed" in table.verdict([best, other])


def test_results_are_strict_json_and_read_back(tmp_path: Path) -> None:
    results = Results(tmp_path, [TrialRow(name, dict(values)) for name, values in RATES.items()])
    note_result(results, result("trial_01", [0.25, 0.75], 50.0))
    note_result(results, result("trial_02", [math.nan, math.nan], 5.0))
    note_result(results, result("trial_03", [0.1, 0.3], 100.0))
    results.rows["trial_01"].handovers = [{"round": 1, "from": "trial_00", "values": {}, "score": math.nan}]
    results.state["rungs"] = [[12.0, {"trial_01": 0.5}]]
    results.write()
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    tree = json.loads(text)
    assert (tree["n_trials"], tree["n_configurations"]) == (4, 5), "what takes over is another configuration"
    again = Results.read(tmp_path, RATES)
    assert again.rows["trial_01"].score == 0.5
    assert again.rows["trial_02"].score is None
    assert [one.status for one in again.rows.values()] == ["pending", "running", "running", "finished"]
    assert again.state == results.state


def test_damaged_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"trials": [')
    with pytest.raises(RunError, match=r"results.json: damaged"):
        Results.read(tmp_path, RATES)


def test_a_trial_that_diverged_stays_so_and_one_that_crashed_begins_again(tmp_path: Path) -> None:
    results = Results(tmp_path, [TrialRow(name, dict(values)) for name, values in RATES.items()])
    note_result(results, result("trial_00", [math.nan] * 2, 5.0, **{FAILURE: "EURUSD has diverged"}))
    results.note("trial_01", status="failed", crashed=True)
    note_result(results, result("trial_02", [0.1, 0.2], 5.0))
    results.end_attempt()
    assert [one.status for one in results.rows.values()] == ["failed", "failed", "interrupted", "pending"]
    results.begin_attempt()
    assert [one.status for one in results.rows.values()] == ["failed", "pending", "pending", "pending"]
    assert results.rows["trial_00"].why == "EURUSD has diverged"


def test_the_table_names_settings_by_their_shortest_ends(tmp_path: Path) -> None:
    assert table.short_names(["recipe.learning_rate", "recipe.n_epochs"]) == {
        "recipe.learning_rate": "learning_rate",
        "recipe.n_epochs": "n_epochs",
    }
    both = table.short_names(["sac.gamma", "recipe.gamma"])
    assert list(both.values()) == ["sac.gamma", "recipe.gamma"]
    rows = [row(0, "stopped", 0.2, 36, score_se=0.1, why="below 0.50 at 36%"), row(1, "finished", 0.9, score_se=0.3)]
    lines = table.lines(rows)
    assert lines[0].split() == ["trial", "score", "at", "learning_rate", "status"]
    assert lines[1].split() == ["01", "0.90", "±", "0.30", "100%", "0.1", "finished"]
    assert lines[2].endswith("stopped: below 0.50 at 36%")
    assert max(map(len, lines)) <= 80


def test_the_csv_has_every_seed_and_whole_paths() -> None:
    rows = [row(0, "finished", 0.5, scores=[0.25, 0.75], score_se=0.25), row(1, "pending", None, 0.0)]
    read = list(csv.DictReader(io.StringIO(table.csv_text(rows))))
    assert [one["trial"] for one in read] == ["trial_00", "trial_01"]
    assert read[0]["recipe.learning_rate"] == "1.0"
    assert float(np.mean([float(read[0]["score_0"]), float(read[0]["score_1"])])) == float(read[0]["score"])
    assert read[1]["score"] == ""
