"""Tests of a VaR forecast: a true one is rejected as seldom as promised, each kind of false one is found."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from asymptotic_var import backtest_var
from scipy import stats

from mtquant_rllib.evaluation.statistics.var_tests import GREEN, RED, YELLOW, VarTests, judge_forecast, traffic_light

Z = stats.norm.ppf(0.95)


def judged(returns: np.ndarray, forecast: np.ndarray, seed: int = 0, simulations: int = 499) -> VarTests:
    found = judge_forecast(returns, forecast, 0.95, np.random.default_rng(seed), simulations)
    assert found is not None
    return found


def named(found: VarTests) -> dict[str, float]:
    return {test.name: test.statistic for test in found.tests}


def test_statistics_are_the_textbooks() -> None:
    rng = np.random.default_rng(1)
    sigma = 0.01 * np.exp(0.3 * rng.standard_normal(1000))
    returns, forecast = rng.normal(0, 1.1 * sigma), Z * sigma
    found = named(judged(returns, forecast))
    own = backtest_var(returns, forecast, 0.95)
    assert found["coverage"] == pytest.approx(own.coverage.statistic)
    assert found["independence"] == pytest.approx(own.independence.statistic)
    assert found["conditional coverage"] == pytest.approx(own.conditional_coverage.statistic)
    excess = (-returns > forecast) - 0.05
    columns = np.column_stack([np.ones(996), *(excess[4 - k - 1 : -k - 1] for k in range(4)), forecast[4:]])
    fit = sm.OLS(excess[4:], columns).fit()
    assert found["dynamic quantile"] == pytest.approx((fit.fittedvalues**2).sum() / (0.05 * 0.95), rel=1e-6)
    shortfall = stats.norm.pdf(Z) / 0.05 * sigma
    second = (-returns * (-returns > forecast) / shortfall).sum() / (1000 * 0.05) - 1
    assert found["expected shortfall"] == pytest.approx(second)


@pytest.mark.slow
def test_a_true_forecast_is_rejected_no_more_often_than_promised() -> None:
    """On 250 days, any of the five at 5% after Holm's adjustment; asymptotic p-values reject one in seven."""
    rng, rejected, asymptotic = np.random.default_rng(2), 0, 0
    for world in range(120):
        returns, forecast = rng.normal(0, 0.01, 250), np.full(250, Z * 0.01)
        rejected += bool(judged(returns, forecast, world, 199).rejected(0.05))
        own = backtest_var(returns, forecast, 0.95)
        asymptotic += min(own.coverage.p_value, own.independence.p_value, own.conditional_coverage.p_value) < 0.05
    assert rejected / 120 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 120)
    assert asymptotic > rejected


@pytest.mark.slow
def test_a_shortfall_of_its_own_is_judged_by_the_losses_beyond_var() -> None:
    """Losses of a Student t with 3 degrees of freedom: its own shortfall passes, a normal book's with the same VaR is
    too small; the statistic is Student's of the residuals."""
    rng = np.random.default_rng(9)
    returns, quantile = 0.01 * rng.standard_t(3, 3000), stats.t.ppf(0.95, 3)
    forecast = np.full(3000, 0.01 * quantile)
    own = 0.01 * stats.t.pdf(quantile, 3) / 0.05 * (3 + quantile**2) / 2
    normal = forecast[0] * stats.norm.pdf(Z) / 0.05 / Z
    found = {}
    for name, value in {"own": own, "normal": normal}.items():
        rng = np.random.default_rng(0)
        found[name] = judge_forecast(returns, forecast, 0.95, rng, 499, shortfall=np.full(3000, value))
    assert "expected shortfall" not in found["own"].rejected(0.05)
    assert "expected shortfall" in found["normal"].rejected(0.05)
    residuals = -returns[-returns > forecast] / forecast[0] - own / forecast[0]
    assert named(found["own"])["expected shortfall"] == pytest.approx(stats.ttest_1samp(residuals, 0).statistic)
    plain = judged(returns, forecast)
    assert [test.p_value for test in found["own"].tests[:4]] == [test.p_value for test in plain.tests[:4]]


@pytest.mark.slow
def test_long_records_are_simulated_less_often() -> None:
    """So that eight paths of six years take a second or two; what is far beyond chance is as clear at 5%."""
    rng = np.random.default_rng(8)
    returns, forecast = rng.normal(0, 0.01, (8, 1560)), np.full((8, 1560), Z * 0.01)
    true, false = (judge_forecast(returns * scale, forecast, 0.95, rng) for scale in (1.0, 1.2))
    assert true is not None
    assert false is not None
    assert min(test.p_value for test in false.tests) == pytest.approx(1 / 400)
    assert not true.rejected(0.05)
    assert {"coverage", "expected shortfall"} <= set(false.rejected(0.05))


def test_a_record_of_a_few_days_is_judged_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n_days in (1, 3, 5):
            found = judged(np.full(n_days, -0.001), np.full(n_days, 0.01))
            assert (found.n_days, found.n_breaches, found.rejected(0.05)) == (n_days, 0, ())


@pytest.mark.slow
def test_each_kind_of_false_forecast_is_found_by_its_test() -> None:
    rng = np.random.default_rng(3)
    low = judged(rng.normal(0, 0.015, 1000), np.full(1000, Z * 0.01))
    assert {"coverage", "conditional coverage", "expected shortfall"} <= set(low.rejected(0.05))
    assert low.light == RED
    storms = np.where(np.arange(1000) % 200 < 40, 0.02, 0.005)
    clustered = judged(rng.normal(0, storms), np.full(1000, 0.0145))
    assert {"independence", "dynamic quantile"} & set(clustered.rejected(0.05))
    tails = 0.01 * stats.t.rvs(2.5, size=3000, random_state=4)
    fat = judged(tails, np.full(3000, np.quantile(-tails, 0.95)))
    assert fat.rejected(0.05) == ("expected shortfall",)
    assert fat.shortfall_ratio > 1.2


def test_basels_zones_are_those_of_its_table() -> None:
    """250 days at 99%: up to 4 green, up to 9 yellow, 10 and more red."""
    zones = [traffic_light(breaches, 250, 0.01) for breaches in range(12)]
    assert zones == [GREEN] * 5 + [YELLOW] * 5 + [RED] * 2


def test_days_without_a_forecast_and_the_edges_of_histories_are_left_out() -> None:
    rng = np.random.default_rng(5)
    returns, forecast = rng.normal(0, 0.01, (2, 300)), np.full((2, 300), Z * 0.01)
    forecast[0, 100:150] = 0
    returns[1, -20:] = np.nan
    found = judged(returns, forecast)
    assert found.n_days == 600 - 50 - 20
    assert found.n_breaches == ((-returns > forecast) & (forecast > 0)).sum()
    assert judge_forecast(returns, np.zeros_like(forecast), 0.95, rng) is None
