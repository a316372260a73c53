"""Sharpe ratios and luck: the papers' printed numbers, statsmodels' long-run variance, skfolio if installed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.sandwich_covariance import S_hac_simple

from mtquant_rllib.evaluation.measures import sharpe_variance
from mtquant_rllib.evaluation.statistics.sharpe_tests import (
    bandwidth,
    deflated_sharpe,
    expected_best_of,
    long_run_variance,
    minimum_track_record,
    probabilistic_sharpe,
    sharpe_error,
    sharpe_influence,
)


def skewed(n: int, seed: int, mean: float = 0.05) -> np.ndarray:
    """Independent returns with a fat left tail."""
    rng = np.random.default_rng(seed)
    return mean + rng.standard_t(5, n) - 0.5 * (rng.exponential(1.0, n) - 1)


def autoregression(rho: float, n: int, paths: int, seed: int) -> np.ndarray:
    shocks = np.random.default_rng(seed).standard_normal((paths, n + 50))
    x = np.zeros_like(shocks)
    for t in range(1, n + 50):
        x[:, t] = rho * x[:, t - 1] + shocks[:, t]
    return x[:, 50:]


def probability(sharpe: float, benchmark: float, n_bars: int, skewness: float, kurtosis: float) -> float:
    error = np.sqrt(sharpe_variance(sharpe, skewness, kurtosis) / (n_bars - 1))
    return float(probabilistic_sharpe(sharpe, benchmark, error))


def test_the_probability_of_skill_is_the_papers() -> None:
    """Bailey and Lopez de Prado 2012: 24 months at a Sharpe of .458 look like skill, until one sees how they are
    spread."""
    assert probability(0.458, 0.0, 24, 0.0, 3.0) == pytest.approx(0.982, abs=5e-4)
    assert probability(0.458, 0.0, 24, -2.448, 10.164) == pytest.approx(0.913, abs=5e-4)


@pytest.mark.parametrize(
    ("per_year", "skewness", "kurtosis", "years"),
    [(252, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_the_minimum_track_record_is_the_papers(per_year: int, skewness: float, kurtosis: float, years: float) -> None:
    """Years in which an annual Sharpe of 2 is told from one of 1, at 95%."""
    sharpe, benchmark = 2 / np.sqrt(per_year), 1 / np.sqrt(per_year)
    bars = minimum_track_record(sharpe, benchmark, sharpe_variance(sharpe, skewness, kurtosis), 0.95)
    assert bars / per_year == pytest.approx(years, abs=5e-3)
    assert minimum_track_record(benchmark, sharpe, 1.0, 0.95) == np.inf


def test_the_deflated_sharpe_is_the_papers() -> None:
    """Bailey and Lopez de Prado 2014: the best of 100 daily trials over five years, at an annual Sharpe of 2.5."""
    sharpe, deviation = 2.5 / np.sqrt(250), np.sqrt(0.5 / 250)
    assert expected_best_of(100, deviation) == pytest.approx(0.1132, abs=5e-5)
    assert probability(sharpe, expected_best_of(100, deviation), 1250, -3.0, 10.0) == pytest.approx(0.9004, abs=5e-5)
    assert probability(sharpe, expected_best_of(46, deviation), 1250, -3.0, 10.0) == pytest.approx(0.9505, abs=5e-5)
    assert probability(sharpe, expected_best_of(88, deviation), 1250, 0.0, 3.0) == pytest.approx(0.9505, abs=5e-5)


def test_the_expected_best_is_what_draws_give() -> None:
    best = np.random.default_rng(0).standard_normal((40_000, 50)).max(axis=1)
    assert expected_best_of(50, 1.0) == pytest.approx(best.mean(), rel=0.02), "it is an approximation"
    assert expected_best_of(1, 0.3) == 0, "nobody chose"
    with pytest.raises(ValueError, match="expected at least one"):
        expected_best_of(0, 1.0)


def test_without_lags_the_error_is_that_of_the_moments() -> None:
    returns = skewed(400, 1)
    sharpe = returns.mean() / returns.std()
    variance = sharpe_variance(sharpe, stats.skew(returns), stats.kurtosis(returns, fisher=False))
    assert sharpe_error(returns, lags=0) == pytest.approx(np.sqrt(variance / 399), rel=1e-12)
    psi, found = sharpe_influence(returns)
    assert found == pytest.approx(sharpe)
    assert psi.mean() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("lags", [0, 1, 5, 12])
def test_the_long_run_variance_is_statsmodels(lags: int) -> None:
    series = autoregression(0.4, 500, 1, 2)[0]
    centred = series - series.mean()
    expected = float(S_hac_simple(centred[:, None], nlags=lags)[0, 0]) / len(series)
    assert long_run_variance(series, lags) == pytest.approx(expected, rel=1e-12)


def test_rows_are_judged_each_by_its_own_bandwidth() -> None:
    rows = np.concatenate((autoregression(0.0, 800, 1, 3), autoregression(0.6, 800, 1, 4)))
    assert bandwidth(rows)[1] > 2 * bandwidth(rows)[0]
    for row, both in zip(rows, long_run_variance(rows)):
        assert long_run_variance(row) == pytest.approx(both)


@pytest.mark.parametrize("rho", [-0.2, 0.0, 0.3])
def test_the_error_of_dependent_returns_is_how_their_sharpe_ratios_spread(rho: float) -> None:
    """Of 600 records; independent errors would be wrong by a third at rho .3."""
    records = 0.05 + autoregression(rho, 1000, 600, 5)
    spread = (records.mean(axis=1) / records.std(axis=1)).std(ddof=1)
    assert sharpe_error(records).mean() == pytest.approx(spread, rel=0.09)
    if rho:
        assert sharpe_error(records, lags=0).mean() != pytest.approx(spread, rel=0.15)


def test_a_book_that_never_moves_has_no_sharpe_and_missing_bars_are_refused() -> None:
    assert np.isnan(sharpe_influence(np.full(50, 0.01))[1])
    with pytest.raises(ValueError, match="leave those bars out"):
        sharpe_influence(np.array([0.1, np.nan, 0.2]))


def test_skfolio_agrees() -> None:
    measures = pytest.importorskip(
        "skfolio.measures", reason="skfolio is not installed: a second opinion, no dependency"
    )
    if not hasattr(measures, "deflated_sharpe_ratio"):
        pytest.skip("this skfolio has no deflated Sharpe ratio")
    returns, trials = skewed(750, 6), 0.05 * np.random.default_rng(7).standard_normal(40)
    sharpe = returns.mean() / returns.std(ddof=1)
    own = probability(
        sharpe,
        float(expected_best_of(40, trials.std(ddof=1))),
        750,
        stats.skew(returns),
        stats.kurtosis(returns, fisher=False),
    )
    assert own == pytest.approx(measures.deflated_sharpe_ratio(returns, trials), abs=2e-3)
    assert deflated_sharpe(returns, 40, float(trials.std(ddof=1)), lags=0) == pytest.approx(own, abs=2e-3)


def test_quantstats_agrees() -> None:
    quantstats = pytest.importorskip(
        "quantstats.stats", reason="quantstats is not installed: a second opinion, no dependency"
    )
    import pandas as pd

    returns = 0.01 * skewed(750, 8)
    series = pd.Series(returns, index=pd.bdate_range("2018-01-01", periods=750))
    sharpe = returns.mean() / returns.std(ddof=1)
    own = probability(sharpe, 0.0, 750, stats.skew(returns), stats.kurtosis(returns, fisher=False))
    assert own == pytest.approx(float(quantstats.probabilistic_sharpe_ratio(series)), abs=5e-3)
