"""The tear sheet: its figures are the textbook's and quantstats', its drawdowns and positions those of a ledger."""

from __future__ import annotations

import copy

import numpy as np
import plotly.graph_objects
import pyarrow as pa
import pytest
from evaluation_records import SETTINGS, played
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation.regimes.figures import performance_by_regime
from mtquant_rllib.evaluation.report.building import build_report
from mtquant_rllib.evaluation.tear_sheet.day_figures import drawdown_spells, figures_beside, figures_of_days
from mtquant_rllib.evaluation.tear_sheet.page import build_page
from mtquant_rllib.evaluation.tear_sheet.trade_figures import positions

DAYS = np.random.default_rng(3).standard_t(4, 1500) * 0.006 + 0.0003
OTHER = 0.4 * DAYS + np.random.default_rng(4).normal(0, 0.005, 1500)


def test_figures_that_can_be_told_by_hand() -> None:
    found = figures_of_days(np.array([0.1, -0.5, 1.0, -0.1, -0.1, 0.2]), days_per_year=6)
    assert found["total return"] == pytest.approx(1.1 * 0.5 * 2 * 0.9 * 0.9 * 1.2 - 1)
    assert found["return a year (CAGR)"] == pytest.approx(found["total return"])
    assert found["maximum drawdown"] == pytest.approx(0.5)
    assert found["longest drawdown, days"] == 3
    assert found["winning days"] == 0.5
    assert found["payoff ratio"] == pytest.approx((1.3 / 3) / (0.7 / 3))
    assert found["profit factor"] == found["Omega"] == pytest.approx(1.3 / 0.7)
    assert found["longest losing streak, days"] == 2
    assert (found["best day"], found["worst day"]) == (1.0, -0.5)
    assert figures_of_days(np.zeros(20), 252.0) == {}


def test_figures_beside_a_benchmark() -> None:
    found = figures_beside(OTHER, DAYS, 252.0)
    slope, intercept = np.polyfit(DAYS, OTHER, 1)
    assert found["beta"] == pytest.approx(slope)
    assert found["alpha a year"] == pytest.approx(252 * intercept)
    assert found["correlation"] == pytest.approx(np.corrcoef(DAYS, OTHER)[0, 1])
    assert figures_beside(DAYS, DAYS, 252.0)["up capture"] == pytest.approx(1.0)


def test_quantstats_says_the_same() -> None:
    qs = pytest.importorskip("quantstats.stats", reason="quantstats is not installed: a second opinion, no dependency")
    import pandas as pd

    series = pd.Series(DAYS, pd.bdate_range("2015-01-01", periods=len(DAYS)))
    found = figures_of_days(DAYS, 252.0)
    asked = {
        "total return": qs.comp(series),
        "volatility a year": qs.volatility(series),
        "Sharpe": qs.sharpe(series),
        "Sortino": qs.sortino(series),
        "maximum drawdown": -qs.max_drawdown(series),
        "ulcer index": qs.ulcer_index(series),
        "winning days": qs.win_rate(series),
        "payoff ratio": qs.payoff_ratio(series),
        "profit factor": qs.profit_factor(series),
        "Omega": qs.omega(series),
        "gain to pain": qs.gain_to_pain_ratio(series),
        "best day": qs.best(series),
        "worst day": qs.worst(series),
        "tail ratio": qs.tail_ratio(series),
        "longest losing streak, days": qs.consecutive_losses(series),
    }
    for name, value in asked.items():
        # It divides the ulcer index's squares by T - 1.
        assert found[name] == pytest.approx(float(value), rel=2e-3 if name == "ulcer index" else 1e-6), name


@given(arrays(float, st.integers(2, 60), elements=st.floats(-0.3, 0.3)))
def test_drawdowns_are_stretches_below_the_high_and_cover_all_of_them(returns: np.ndarray) -> None:
    curve = np.concatenate(([1.0], np.cumprod(1 + returns)))
    high = np.maximum.accumulate(curve)
    spells = drawdown_spells(returns, len(returns))
    inside = np.zeros(len(returns), dtype=bool)
    for spell in spells:
        stop = len(returns) if spell.end is None else spell.end
        assert not inside[spell.start : stop].any()
        inside[spell.start : stop] = True
        loss = (1 - curve / high)[1:]
        assert spell.depth == pytest.approx(loss[spell.start : stop].max())
        assert loss[spell.valley] == pytest.approx(spell.depth)
    np.testing.assert_array_equal(inside, (1 - curve / high)[1:] > 1e-12)
    assert [spell.depth for spell in spells] == sorted((spell.depth for spell in spells), reverse=True)


def test_positions_last_from_flat_or_the_other_side_to_flat_or_the_other_side() -> None:
    record = played(n_bars=10)
    record.weights[:] = 0.0
    record.weights[0, :, 0] = [0, 1, 1, 0, 0, -1, 2, 2, 2, 2]
    found = positions(record, np.arange(8) == 0)
    assert found["bars"].tolist() == [2, 1, 3]
    net = (record.pnl_ccy - record.cost_ccy - record.financing_ccy)[0, :, 0]
    assert found["profit"].tolist() == pytest.approx([net[1:4].sum(), net[5:7].sum(), net[6:10].sum()])


@pytest.mark.slow
@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_page_has_what_a_portfolio_manager_asks_for(n_envs: int) -> None:
    records = [
        played(n_envs=n_envs, n_bars=400),
        played("reference", n_envs, 400, seed=5),
        played("flat", n_envs, 400, 6),
    ]
    trades = pa.table(
        {"symbol": ["EURUSD", "XAUUSD"], "notional_ccy": [1e5, 2e5], "cost_ccy": [10.0, 40.0], "stopped": [False, True]}
    )
    labels = np.random.default_rng(1).integers(0, 4, (n_envs, 400))
    regimes = {record.name: performance_by_regime(record, labels) for record in records}
    page = build_page(
        records, build_report(records, SETTINGS), regimes, trades,
        title="x", bootstrap=Settings.load().evaluation.bootstrap, line_points=300,
    )  # fmt: skip
    panels = {panel.id: panel for section in page.sections for panel in section.panels}
    assert set(panels) == {
        "wealth", "rolling", "years", "months", "distribution", "drawdowns", "risk", "edits", "positions", "trading",
        "trades", "parts", "costs",
    }  # fmt: skip
    for panel in panels.values():
        plotly.graph_objects.Figure(copy.deepcopy(panel.figure))
    figures = {row[0]: row[1:] for row in page.table}
    assert figures["figure"] == ("desk", "reference", "flat")
    assert {"Calmar", "ulcer index", "expected shortfall of a day", "beta, to it"} <= set(figures)
    assert panels["trades"].table[-1][0] == "all"
    assert page.render()
