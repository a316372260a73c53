"""The risk report of a run: use of limits, edits and the forecast are those of its bars."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects
import pyarrow.parquet as pq
import pytest
from evaluation_records import judged_run, played

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.report.bar_tables import write_bar_tables
from mtquant_rllib.evaluation.risk_report.figures import build_report, raw_and_calibrated, uses
from mtquant_rllib.evaluation.risk_report.history import read_history
from mtquant_rllib.evaluation.risk_report.page import build_page, forecast_cells, forecast_words

SETTINGS = Settings.load()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    record = played(n_envs=2, n_bars=80)
    write_bar_tables([record, played("rule", 2, 80, 1)], tmp_path)
    history = read_history(tmp_path, "desk")
    np.testing.assert_array_equal(history.weights, record.weights.reshape(-1, 8))
    assert history.symbols == record.symbols
    days, returns, forecast = history.days()
    np.testing.assert_allclose(returns, record.returns, atol=1e-12)
    np.testing.assert_array_equal(forecast, record.var_forecast_frac)
    assert len(days) == 80
    with pytest.raises(RunError, match="cannot be read"):
        read_history(tmp_path, "nobody")


def test_bars_of_a_day_are_compounded_and_the_forecast_is_the_first(tmp_path: Path) -> None:
    hours = np.datetime64("2024-01-08T22:00", "s") + np.arange(48) * np.timedelta64(3600, "s")
    record = dataclasses.replace(played(n_bars=48), timestamps=hours, var_forecast_frac=np.arange(48)[None] / 1000)
    write_bar_tables([record], tmp_path)
    _, returns, forecast = read_history(tmp_path, "desk").days()
    assert returns.shape == (1, 2)
    assert returns[0, 0] == pytest.approx(np.prod(1 + record.returns[0, :24]) - 1)
    assert forecast.tolist() == [[0.0, 0.024]]


def test_use_is_the_measure_over_its_limit(tmp_path: Path) -> None:
    record = played(n_bars=100)
    write_bar_tables([record], tmp_path)
    found = {name: use for name, (_, use) in uses(read_history(tmp_path, "desk"), SETTINGS).items()}
    size = np.abs(record.weights[0])
    np.testing.assert_allclose(found["gross"], size.sum(axis=1) / 3.0)
    np.testing.assert_allclose(found["largest position"], size.max(axis=1) / 0.75)
    np.testing.assert_allclose(found["gross of forex"], size[:, :3].sum(axis=1) / 1.2)
    np.testing.assert_allclose(found["VaR forecast"], 0.014 / 0.02)


def test_edits_and_worst_days_are_those_of_the_record(tmp_path: Path) -> None:
    record = played(n_bars=100)
    write_bar_tables([record], tmp_path)
    history = read_history(tmp_path, "desk")
    report = build_report(history, SETTINGS, (2, 1, 0, 0))
    assert {one.rule: one.edits for one in report.edits} == {"concentration": 2, "var": 1}
    worst = np.sort(record.returns[0])[:10]
    assert [one.net_return for one in report.worst] == pytest.approx(worst.tolist())
    assert report.tests is not None
    assert report.tests.n_breaches == (record.returns < -0.014).sum()
    page = build_page(report, history, SETTINGS, "x", 200)
    panels = {panel.id: panel for section in page.sections for panel in section.panels}
    assert set(panels) == {"limit_use", "edits", "var"}
    for panel in panels.values():
        plotly.graph_objects.Figure(copy.deepcopy(panel.figure))
    assert page.render()


@pytest.mark.slow
def test_raw_and_calibrated_forecasts_stand_beside_each_other_and_one_is_in_force(tmp_path: Path) -> None:
    """A forecast of half the deviation's quantile: calibrated, it is exceeded less; where the run was held to the
    calibrated one, the raw one is what comes back."""
    rng = np.random.default_rng(1)
    returns, raw = 0.01 * rng.standard_normal((2, 400)), np.full((2, 400), 0.008)
    raw[1, :50] = 0.0
    off, on = (Settings.load(overrides=[f"risk.var_calibration.enabled={word}"]) for word in ("false", "true"))
    same, scaled = raw_and_calibrated(returns, raw, off)
    np.testing.assert_array_equal(same, raw)
    assert (scaled[0, :101] == raw[0, :101]).all()
    assert (scaled[0, 102:] > raw[0, 102:]).all()
    back, in_force = raw_and_calibrated(returns, scaled, on)
    np.testing.assert_allclose(back, raw, rtol=1e-12)
    np.testing.assert_array_equal(in_force, scaled)

    record = dataclasses.replace(played(n_bars=300), var_forecast_frac=np.full((1, 300), 0.003))
    write_bar_tables([record], tmp_path)
    history = read_history(tmp_path, "desk")
    report = build_report(history, off, (0, 0, 0, 0))
    assert report.tests == report.raw_tests
    assert report.calibrated_tests.n_breaches < report.raw_tests.n_breaches
    said = forecast_words(report)
    assert "In force was the raw forecast" in said
    assert "Calibrated, it was exceeded on" in said
    assert "In force was the calibrated forecast" in forecast_words(build_report(history, on, (0, 0, 0, 0)))
    assert [row[0] for row in forecast_cells(report)[1:]] == [test.name for test in report.raw_tests.tests]


@pytest.mark.slow
def test_the_command_reports_the_runs_own_book_or_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = judged_run(tmp_path, "x", n_bars=120)
    assert main(["risk", "report", str(run)]) == 0
    said = capsys.readouterr().out
    assert max(map(len, (line for line in said.splitlines() if ": /" not in line))) <= 80
    tree = json.loads((run / "evaluation" / "test" / "risk_report.json").read_text())
    assert tree["book"] == "desk"
    assert tree["breaker_trips"] == [2, 1, 0, 0]
    assert main(["risk", "report", str(run), "--book", "reference"]) == 0
    assert main(["risk", "report", str(run), "--book", "nobody"]) == 2
    assert main(["risk", "report", str(run), "--evaluation", "validation"]) == 2
    assert "mtquant evaluate" in capsys.readouterr().err
    bars = run / "evaluation" / "test" / "bars.parquet"
    pq.write_table(pq.read_table(bars).slice(0, 50), bars)
    assert main(["risk", "report", str(run)]) == 2
    assert "evaluate the run again" in capsys.readouterr().err
