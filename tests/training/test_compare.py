"""Runs side by side: figures of their evaluations, honest differences, and one page that needs nothing else."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects
import plotly.offline
import pyarrow.parquet as pq
import pytest
from evaluation_records import judged_run

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.compare import performance
from mtquant_rllib.evaluation.compare.comparison import Comparison, compare
from mtquant_rllib.evaluation.compare.page import build_page
from mtquant_rllib.evaluation.compare.selection import selection
from mtquant_rllib.evaluation.compare.table import rows_of, write_table
from mtquant_rllib.evaluation.statistics.overfitting import overfitting
from mtquant_rllib.evaluation.statistics.sharpe_tests import deflated_sharpe, sharpe_error, sharpe_influence
from mtquant_rllib.training.inspection.run_comparison import load, runs_named
from mtquant_rllib.training.records.ownership import SWEEP
from mtquant_rllib.training.run_store.tags import change_tags

PANELS = {
    "wealth", "rolling", "years", "months", "distribution", "parts", "costs", "trading", "edits", "seeds", "learning",
    "settings",
}  # fmt: skip

BOOTSTRAP = Settings.load().evaluation.bootstrap


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one configuration, which earn nothing, and one of another, which earns a lot."""
    folder = tmp_path_factory.mktemp("compared") / "runs"
    judged_run(folder, "plain_0")
    judged_run(folder, "plain_1", "seed=1", "resources.runners=2", book_seed=1)
    judged_run(folder, "better", "training.gamma=0.95", "seed=2", drift=0.0004, book_seed=2)
    return folder


@pytest.fixture(scope="module")
def comparison(runs: Path) -> Comparison:
    found = load([runs / name for name in ("plain_0", "plain_1", "better")], "test")
    return compare(found, BOOTSTRAP, Settings.load().evaluation.verdict)


@pytest.mark.slow
def test_figures_are_those_of_the_evaluations(comparison: Comparison, runs: Path) -> None:
    for row in comparison.rows:
        tree = json.loads((runs / row.run.name / "evaluation" / "test" / "evaluation.json").read_text())
        for name, value in tree["books"][0]["all_bars"]["values"].items():
            np.testing.assert_equal(row.run.values[name], np.nan if value is None else value)
        own = float(measures.sharpe(row.run.own.returns, row.run.bars_per_year)[0])
        assert row.run.values["sharpe_ann"] == pytest.approx(own)
    assert list(comparison.runs[0].books) == ["desk", "reference", "hold_EURUSD"]


def test_a_difference_is_of_the_same_bars_and_adjusted_for_all(comparison: Comparison) -> None:
    first, second, better = comparison.rows
    assert np.isnan(first.difference)
    for row in (second, better):
        gap = row.run.values["sharpe_ann"] - first.run.values["sharpe_ann"]
        # The one of a report divides by T - 1.
        assert row.difference == pytest.approx(gap, rel=2e-3)
        assert row.lower < row.difference < row.upper
    assert better.lower > 0
    assert better.p_value < 0.01 < second.p_value


def test_only_settings_that_shape_a_policy_and_differ_are_shown(comparison: Comparison) -> None:
    assert set(comparison.different) == {"seed", "training.gamma"}
    groups = comparison.configurations
    assert [len(group.rows) for group in groups] == [2, 1]
    sharpes = [row.run.values["sharpe_ann"] for row in comparison.rows[:2]]
    assert (groups[0].smallest, groups[0].largest) == (min(sharpes), max(sharpes))
    assert groups[1].name == "gamma 0.95"
    both, one = groups
    assert both.iqm.estimate == pytest.approx(np.mean(sharpes))
    assert both.smallest <= both.iqm.lower <= both.iqm.estimate <= both.iqm.upper <= both.largest
    assert both.profile is not None
    above = [sum(sharpe > threshold for sharpe in sharpes) / 2 for threshold in both.profile.thresholds]
    np.testing.assert_array_equal(both.profile.share, above)
    assert (one.iqm.estimate, one.profile) == (one.smallest, None)
    assert np.isnan(one.iqm.lower)


def test_the_best_configuration_is_judged_as_the_best_of_all(comparison: Comparison) -> None:
    """Seeds are no trials: two configurations, not three."""
    rule, chosen = Settings.load().evaluation.verdict, comparison.selection
    assert chosen is not None
    own = [np.nan_to_num(row.run.own.returns).ravel() for row in comparison.rows]
    trials = np.stack([own[0], own[2]])
    assert (chosen.name, chosen.n_configurations) == ("gamma 0.95", 2)
    assert chosen.overfitting == overfitting(trials.T, rule.overfitting_blocks).probability
    spread = min(float(sharpe_error(trials[1])), float(np.std(sharpe_influence(trials)[1], ddof=1)))
    assert chosen.deflated == pytest.approx(deflated_sharpe(trials[1], 2, spread))
    assert chosen.words in comparison.notes
    assert chosen.words in build_page(comparison, "Comparison", 500).render()


def test_the_best_is_judged_as_the_best_of_all_trainings_that_the_ledger_counts(runs: Path) -> None:
    found = load([runs / "plain_0", runs / "better"], "test")
    rule = Settings.load().evaluation.verdict
    few, many = (compare([replace(run, n_trials=n) for run in found], BOOTSTRAP, rule).selection for n in (1, 50))
    assert few is not None
    assert many is not None
    assert (few.n_trials, many.n_trials) == (2, 50)
    assert many.deflated < few.deflated
    alike = np.stack([one.own.returns[0] for one in (found[1], found[1])])
    alike[1] += 1e-7
    few_alike, many_alike = (selection(["a", "b"], alike, 252.0, rule, n_trials=n) for n in (2, 200))
    assert few_alike is not None
    assert many_alike is not None
    assert many_alike.deflated < many.deflated, "that two are alike says nothing of the other 198"
    assert "best of 2 configurations and of 50 trainings on these bars" in many.words
    assert "trainings" not in few.words


def test_a_copy_of_a_run_differs_by_nothing_and_takes_no_share_of_the_others_chances(runs: Path) -> None:
    first, better = load([runs / "plain_0", runs / "better"], "test")
    copied = replace(first, name="copy")
    alone = compare([first, better], BOOTSTRAP).rows[1]
    _, same, beside = compare([first, copied, better], BOOTSTRAP).rows
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert beside.p_value == pytest.approx(2 * alone.p_value), "Holm's step for two"


def test_one_configuration_is_no_choice(runs: Path) -> None:
    seeds = compare(load([runs / "plain_0", runs / "plain_1"], "test"), BOOTSTRAP, Settings.load().evaluation.verdict)
    assert seeds.selection is None


def test_configurations_are_judged_by_as_many_seeds_of_each(comparison: Comparison) -> None:
    """A mean of two seeds has less noise than one: the second seed of the first configuration is left out."""
    assert [len(one.rows) for one in comparison.configurations] == [2, 1]
    own = [np.nan_to_num(row.run.own.returns).ravel() for row in comparison.rows]
    alone = selection(["plain", "better"], np.stack([own[0], own[2]]), 252.0, Settings.load().evaluation.verdict)
    assert comparison.selection is not None
    assert alone is not None
    assert (comparison.selection.deflated, comparison.selection.overfitting) == (alone.deflated, alone.overfitting)


def test_episodes_that_share_bars_have_no_error_and_no_best(runs: Path) -> None:
    found = load([runs / name for name in ("plain_0", "better")], "test")
    for run in found:
        run.report["context"]["overlaps"] = True
    shared = compare(found, BOOTSTRAP, Settings.load().evaluation.verdict)
    assert shared.selection is None
    assert np.isfinite(shared.rows[1].difference)
    assert np.isnan([shared.rows[1].lower, shared.rows[1].upper, shared.rows[1].p_value]).all()
    assert any("share bars" in note for note in shared.notes)
    assert build_page(shared, "Comparison", 500).render()


@pytest.mark.slow
def test_runs_on_other_bars_are_refused(runs: Path, tmp_path: Path) -> None:
    other = judged_run(tmp_path, "other", n_bars=300)
    with pytest.raises(RunError, match=r"other was judged on 300 bars from .*, plain_0 on 600 bars"):
        compare(load([runs / "plain_0", other], "test"), BOOTSTRAP)


def test_years_and_months_compound_to_the_whole(comparison: Comparison) -> None:
    own = comparison.runs[0].own
    for unit in "YM":
        _, returns = performance.calendar_returns(own, unit)
        assert np.prod(1 + returns) == pytest.approx(own.wealth[-1])
    rolled = performance.rolling_sharpe(own.returns, 252, 252.0)
    assert np.isnan(rolled[:251]).all()
    for end in (252, 400, 600):
        assert rolled[end - 1] == pytest.approx(float(measures.sharpe(own.returns[0, end - 252 : end], 252.0)))


@pytest.mark.slow
def test_every_panel_is_there_and_plotly_knows_every_property(comparison: Comparison) -> None:
    page = build_page(comparison, "Comparison", 500)
    figures = {panel.id: panel.figure for section in page.sections for panel in section.panels}
    assert set(figures) == PANELS
    for figure in figures.values():
        plotly.graph_objects.Figure(copy.deepcopy(figure))
    text = page.render().replace(plotly.offline.get_plotlyjs(), "")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}", text.replace("// Draws", ""))
    assert text == build_page(comparison, "Comparison", 500).render().replace(plotly.offline.get_plotlyjs(), "")
    assert "median of 2" in text
    axes = figures["settings"]["data"][0]["dimensions"]
    assert [axis["label"] for axis in axes] == ["seed", "gamma", "test Sharpe"]
    curve = figures["learning"]["data"][0]
    assert curve["x"] == [1000, 2000, 3000, 4000, 5000]
    assert curve["y"] == [0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.slow
def test_one_run_alone_has_a_page_too(runs: Path) -> None:
    alone = compare(load([runs / "better"], "test"), BOOTSTRAP)
    page = build_page(alone, "One", 500)
    assert "settings" not in {panel.id for section in page.sections for panel in section.panels}
    assert page.render()


def test_the_table_says_the_same_in_every_form(comparison: Comparison, tmp_path: Path) -> None:
    rows = rows_of(comparison)
    as_csv, as_json, as_parquet = (
        write_table(comparison, tmp_path / f"t{end}") for end in (".csv", ".json", ".parquet")
    )
    with as_csv.open() as file:
        read = list(csv.DictReader(file))
    assert [row["run"] for row in read] == ["plain_0", "plain_1", "better"]
    stored = pq.read_table(as_parquet).to_pylist()
    for name in ("sharpe_ann", "cost_ccy", "p_value", "settings.training.gamma"):
        for one, two, three, four in zip(rows, read, json.loads(as_json.read_text()), stored, strict=True):
            if np.isnan(one[name]):
                assert (two[name], three[name]) == ("", None)
            else:
                assert float(two[name]) == pytest.approx(one[name])
                assert three[name] == one[name] == four[name]


@pytest.mark.slow
def test_runs_are_named_by_folder_sweep_or_tag(runs: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for number in range(2):
        judged_run(sweep, f"trial_00_seed_{number}", f"seed={number}", book_seed=number)
    (sweep / SWEEP).write_text("{}")
    stopped = judged_run(sweep, "trial_01_seed_0")
    shutil.rmtree(stopped / "evaluation")
    said: list[str] = []
    named = runs_named([sweep], None, tmp_path, said.append)
    assert [run.name for run in named] == ["trial_00_seed_0", "trial_00_seed_1"]
    assert said == [f"{sweep}: 1 of 3 runs are left out: no phase of them is done"]
    with pytest.raises(RunError, match=r"no run below .* bears this tag"):
        runs_named([], "good", tmp_path)
    change_tags(sweep / "trial_00_seed_1", add=["good", "june"])
    assert change_tags(sweep / "trial_00_seed_1", remove=["june"]) == ("good",)
    assert [run.name for run in runs_named([], "good", tmp_path)] == ["trial_00_seed_1"]
    twins = load([runs / "plain_0", judged_run(tmp_path, "plain_0")], "test")
    assert [run.name for run in twins] == ["runs/plain_0", f"{tmp_path.name}/plain_0"]


@pytest.mark.slow
def test_the_command_writes_table_and_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    words = ["compare", "plain_0", "better", "--html", str(tmp_path / "c.html"), "--table", str(tmp_path / "c.csv")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "less plain_0" in said
    assert max(len(line) for line in said.splitlines() if "│" not in line and "bars" in line) <= 80
    assert (tmp_path / "c.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no run named"),
        (["plain_0", "--table", "t.xlsx"], "ends with .csv, .json, .parquet"),
        (["plain_0", "--evaluation", "validation"], "1 of 1 runs have no evaluation 'validation'"),
        (["nowhere"], "nowhere"),
        (["plain_0", "--config", "laptop.yaml"], "with their own settings"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    runs: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err
