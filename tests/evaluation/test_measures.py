"""Measures against pencils, pandas and scipy, and against their stated conventions for books that die or do nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from mtquant_rllib.evaluation import measures

FOUR = np.array([0.10, -0.05, 0.02, -0.01])


def test_four_returns_by_pencil():
    # Wealth 1, 1.1, 1.045, 1.0659, 1.055241.
    assert measures.total_return(FOUR) == pytest.approx(0.055241)
    assert measures.annual_return(FOUR, bars_per_year=2) == pytest.approx(1.055241**0.5 - 1)
    assert measures.max_drawdown(FOUR) == pytest.approx(0.05)
    assert measures.calmar(FOUR, 2) == pytest.approx((1.055241**0.5 - 1) / 0.05)
    assert measures.win_rate(FOUR) == 0.5
    assert measures.profit_factor(FOUR) == pytest.approx(0.12 / 0.06)
    # Mean .015; downside root mean square sqrt((.0025 + .0001) / 4).
    assert measures.sortino(FOUR, 4) == pytest.approx(0.015 / np.sqrt(0.0026 / 4) * 2)


def test_volatility_and_sharpe_agree_with_pandas():
    returns = np.random.default_rng(0).normal(0.001, 0.01, 500)
    series = pd.Series(returns)
    assert measures.volatility(returns, 252) == pytest.approx(series.std() * 252**0.5)
    assert measures.sharpe(returns, 252) == pytest.approx(series.mean() / series.std() * 252**0.5)


def test_drawdown_agrees_with_pandas():
    returns = np.random.default_rng(1).normal(0, 0.02, 300)
    curve = pd.Series(np.concatenate([[1.0], np.cumprod(1 + returns)]))
    np.testing.assert_allclose(measures.drawdown(returns), 1 - curve / curve.cummax(), atol=1e-12)


def test_historical_var_is_the_interpolated_five_per_cent_quantile():
    returns = np.arange(-50, 50) / 1000  # -50 .. 49 per mille
    assert measures.value_at_risk(returns, 0.95) == pytest.approx(0.04505)
    assert measures.value_at_risk(returns, 0.95) == pytest.approx(-np.percentile(returns, 5))
    # -50 .. -46 lie beyond it.
    assert measures.conditional_value_at_risk(returns, 0.95) == pytest.approx(0.048)


def test_standard_error_of_normal_returns_is_lo_2002():
    returns = np.random.default_rng(2).normal(0.001, 0.01, 100_000)
    per_bar = returns.mean() / returns.std()
    expected = np.sqrt((1 + per_bar**2 / 2) / len(returns))
    assert measures.sharpe_standard_error(returns, 1) == pytest.approx(expected, rel=0.02)


def test_standard_error_takes_skewness_and_kurtosis_from_scipy():
    returns = np.random.default_rng(3).standard_t(5, 400) ** 3 * 1e-4 + 1e-3
    s = returns.mean() / returns.std(ddof=1)
    spread = 1 - stats.skew(returns) * s + (stats.kurtosis(returns, fisher=False) - 1) / 4 * s**2
    assert measures.sharpe_standard_error(returns, 252) == pytest.approx(np.sqrt(spread / 400 * 252))


def test_six_years_cannot_tell_a_sharpe_of_four_tenths_from_none():
    returns = np.random.default_rng(4).normal(0, 0.01, 6 * 252)
    assert measures.sharpe_standard_error(returns, 252) == pytest.approx(1 / np.sqrt(6), rel=0.02)


def test_bankruptcy_keeps_the_debt_and_ends_the_sequence():
    returns = np.array([0.10, -1.30, 5.0, 5.0])  # wealth 1.1, then -0.33: a debt
    assert measures.total_return(returns) == pytest.approx(-1.33)
    assert measures.max_drawdown(returns) == pytest.approx(1.30)
    assert measures.annual_return(returns, 252) == -1
    assert measures.n_bars(returns) == 2
    np.testing.assert_allclose(measures.wealth(returns), [1, 1.1, -0.33, -0.33, -0.33])


def test_losing_exactly_everything_is_bankruptcy_too():
    assert measures.n_bars(np.array([-1.0, 0.5])) == 1
    assert measures.total_return(np.array([-1.0, 0.5])) == -1


def test_a_flat_book_has_no_ratio_rather_than_a_ratio_of_zero():
    figures = measures.measure_returns(np.zeros(10), 252, 0.95)
    for name in ("sharpe_ann", "sharpe_standard_error", "sortino_ann", "calmar", "win_rate", "profit_factor"):
        assert np.isnan(figures[name]), name
    for name in ("total_return", "annual_return", "volatility_ann", "max_drawdown_frac", "var_frac"):
        assert figures[name] == 0, name


def test_only_gains_make_loss_ratios_infinite_and_constant_gains_have_no_sharpe():
    gains = np.full(10, 0.01)
    assert measures.profit_factor(gains) == np.inf
    assert measures.sortino(gains, 252) == np.inf
    assert measures.calmar(gains, 252) == np.inf
    assert np.isnan(measures.sharpe(gains, 252))


def test_no_bars_are_no_result():
    figures = measures.measure_returns(np.full(5, np.nan), 252, 0.95)
    assert np.isnan(figures["annual_return"])
    assert np.isnan(figures["sharpe_ann"])
    assert np.isnan(figures["var_frac"])


def test_unplayed_bars_are_skipped():
    with_holes = np.array([np.nan, 0.10, np.nan, -0.05, 0.02, -0.01, np.nan])
    ours = measures.measure_returns(with_holes, 252, 0.95)
    plain = measures.measure_returns(FOUR, 252, 0.95)
    assert {k: float(v) for k, v in ours.items()} == pytest.approx({k: float(v) for k, v in plain.items()})


def test_turnover_exposure_and_cost_share_by_pencil():
    assert measures.turnover(np.array([0.5, 0.0, 0.1, np.nan]), bars_per_year=100) == pytest.approx(20)
    assert measures.exposure(np.array([1.0, 0.5, np.nan])) == pytest.approx(0.75)
    np.testing.assert_allclose(measures.cost_share(np.array([100.0, -5.0]), np.array([120.0, 1.0])), [1.2, np.nan])


@pytest.mark.slow
@given(hnp.arrays(np.float64, (3, 12), elements=st.floats(-1.5, 1.5)))
def test_leading_axes_change_nothing(returns):
    together = measures.measure_returns(returns, 252, 0.95)
    for i, row in enumerate(returns):
        for name, value in measures.measure_returns(row, 252, 0.95).items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-9, atol=1e-12, err_msg=name)


@given(hnp.arrays(np.float64, 20, elements=st.floats(-0.5, 0.5)))
def test_expected_shortfall_is_never_milder_than_var(returns):
    var, cvar = (f(returns, 0.95) for f in (measures.value_at_risk, measures.conditional_value_at_risk))
    assert cvar >= var - 1e-12


@given(hnp.arrays(np.float64, 20, elements=st.floats(-0.5, 0.5)), st.floats(0.1, 1.0))
def test_sharpe_does_not_know_leverage(returns, leverage):
    full, part = measures.sharpe(returns, 252), measures.sharpe(returns * leverage, 252)
    if np.ptp(returns) > 1e-6:
        np.testing.assert_allclose(part, full, rtol=1e-6, atol=1e-9)
