"""Intervals that cover what they should, and VaR backtests against the published formulas."""

from __future__ import annotations

import numpy as np
import pytest
from asymptotic_var import backtest_var, christoffersen, kupiec
from scipy import stats

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.statistics.bootstrap import (
    gain_interval,
    pooled_sharpe,
    pooled_sharpe_interval,
    share_of_gain,
    share_of_oracle,
    sharpe_interval,
    stationary_bootstrap_indices,
)

BOOTSTRAP = BootstrapConfig(resamples=500, mean_block_bars=10, confidence=0.95)


def test_blocks_run_on_and_have_the_mean_length_asked_for():
    picked = stationary_bootstrap_indices(400, 10, 200, np.random.default_rng(0))
    assert picked.shape == (200, 400)
    assert picked.min() >= 0
    assert picked.max() < 400
    follows = (picked[:, 1:] - picked[:, :-1]) % 400 == 1
    assert 1 / (1 - follows.mean()) == pytest.approx(10, rel=0.05)


def test_every_bar_is_drawn_equally_often():
    picked = stationary_bootstrap_indices(50, 5, 4_000, np.random.default_rng(1))
    shares = np.bincount(picked.ravel(), minlength=50) / picked.size
    np.testing.assert_allclose(shares, 1 / 50, rtol=0.06)


def test_interval_of_independent_returns_has_the_width_of_the_analytic_error():
    returns = np.random.default_rng(2).normal(0.0005, 0.01, 1_000)
    interval = sharpe_interval(returns, 252, BOOTSTRAP, np.random.default_rng(0))
    assert interval.estimate == pytest.approx(returns.mean() / returns.std(ddof=1) * 252**0.5)
    assert interval.standard_error == pytest.approx(np.sqrt(252 / 1_000), rel=0.2)
    assert interval.lower < interval.estimate < interval.upper


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(120):
        interval = sharpe_interval(rng.normal(0.0005, 0.01, 250), 1, BOOTSTRAP, rng)
        hits += interval.lower <= 0.05 <= interval.upper
    assert 0.86 <= hits / 120 <= 0.995


def test_blocks_see_the_autocorrelation_that_single_bars_hide():
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 0.01, 3_000)
    trending = np.convolve(noise, np.full(10, 0.1), mode="valid")
    single = sharpe_interval(trending, 1, BOOTSTRAP.model_copy(update={"mean_block_bars": 1.0}), rng)
    blocks = sharpe_interval(trending, 1, BOOTSTRAP.model_copy(update={"mean_block_bars": 40.0}), rng)
    assert blocks.standard_error > 2 * single.standard_error


def test_a_flat_history_has_no_interval():
    assert np.isnan(sharpe_interval(np.zeros(100), 252, BOOTSTRAP, np.random.default_rng(0)).estimate)


def test_pooled_sharpe_is_that_of_all_bars_together():
    returns = np.random.default_rng(5).normal(0.001, 0.01, (7, 60))
    flat = returns.ravel()
    assert pooled_sharpe(returns, 252) == pytest.approx(flat.mean() / flat.std(ddof=1) * 252**0.5)


def test_pooled_interval_over_paths_is_narrower_with_more_paths():
    returns = np.random.default_rng(6).normal(0.001, 0.01, (64, 100))
    many = pooled_sharpe_interval(returns, 252, BOOTSTRAP, np.random.default_rng(0))
    few = pooled_sharpe_interval(returns[:16], 252, BOOTSTRAP, np.random.default_rng(0))
    assert many.standard_error == pytest.approx(np.sqrt(252 / 6_400), rel=0.25)
    assert few.standard_error > 1.5 * many.standard_error


def test_an_agent_that_earns_half_the_oracles_return_at_its_risk_has_half_its_share():
    noise = np.random.default_rng(7).normal(0, 0.01, (40, 200))
    noise -= noise.mean()
    result = share_of_oracle(
        np.stack([noise + 0.001, noise + 0.001]), noise + 0.002, 252, BOOTSTRAP, np.random.default_rng(0)
    )
    assert result.share.estimate == pytest.approx(0.5)
    assert result.share.lower < 0.5 < result.share.upper
    np.testing.assert_allclose(result.per_seed, 0.5)


def test_playing_the_oracles_own_paths_makes_the_share_sharper():
    noise = np.random.default_rng(12).normal(0, 0.01, (40, 200))
    oracle, agent = noise + 0.002, noise + 0.0015
    paired, unpaired = (
        share_of_oracle(agent[order], oracle, 252, BOOTSTRAP, np.random.default_rng(0)).share
        for order in (np.arange(40), np.random.default_rng(1).permutation(40))
    )
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.standard_error < 0.5 * unpaired.standard_error


def test_seeds_that_disagree_widen_the_share():
    noise = np.random.default_rng(8).normal(0, 0.01, (40, 200))
    alike = np.stack([noise + 0.0015] * 4)
    apart = np.stack([noise + drift for drift in (0.0005, 0.001, 0.002, 0.0025)])
    narrow, wide = (
        share_of_oracle(agent, noise + 0.002, 252, BOOTSTRAP, np.random.default_rng(0)).share
        for agent in (alike, apart)
    )
    assert wide.standard_error > 3 * narrow.standard_error


def test_no_share_of_an_oracle_that_loses():
    noise = np.random.default_rng(9).normal(0, 0.01, (10, 100))
    with pytest.raises(ValueError, match="no share of it can be taken"):
        share_of_oracle(noise, noise - 0.001, 252, BOOTSTRAP, np.random.default_rng(0))


def test_agent_and_oracle_must_play_the_same_paths():
    with pytest.raises(ValueError, match="they must be the same"):
        share_of_oracle(np.zeros((3, 5, 10)), np.zeros((4, 10)), 252, BOOTSTRAP, np.random.default_rng(0))


def test_an_agent_that_gains_a_quarter_of_what_the_oracle_gains_has_a_quarter_of_it():
    noise = np.random.default_rng(10).normal(0, 0.01, (40, 200))
    noise -= noise.mean()
    oracle, parts = noise + 0.003, noise + 0.001
    learned, before = np.stack([noise + 0.0013, noise + 0.0015]), np.stack([noise + 0.001, noise + 0.0008])
    found = share_of_gain((learned, before), (oracle, parts), 252, BOOTSTRAP, np.random.default_rng(0))
    # Gains of .0003 and .0007 of .002.
    np.testing.assert_allclose(found.per_seed, [0.15, 0.35])
    assert found.share.estimate == pytest.approx(0.25)
    assert found.oracle_gain.estimate == pytest.approx(0.002 / noise.std(ddof=1) * np.sqrt(252), rel=1e-6)
    assert found.agent_gain.lower < found.agent_gain.estimate < found.agent_gain.upper
    again = gain_interval(oracle, parts, 252, BOOTSTRAP, np.random.default_rng(0))
    assert again.estimate == pytest.approx(found.oracle_gain.estimate)


def test_a_gain_over_the_same_paths_is_known_better_than_either_sharpe_ratio():
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 0.01, (40, 200))
    better = noise + 0.001 + rng.normal(0, 0.001, noise.shape)
    gain = gain_interval(better, noise, 252, BOOTSTRAP, np.random.default_rng(0))
    alone = pooled_sharpe_interval(noise, 252, BOOTSTRAP, np.random.default_rng(0))
    assert gain.standard_error < 0.3 * alone.standard_error


def test_no_share_of_a_gain_that_is_none():
    noise = np.random.default_rng(9).normal(0, 0.01, (10, 100))
    with pytest.raises(ValueError, match="no share of it can be taken"):
        share_of_gain((noise, noise), (noise - 0.001, noise), 252, BOOTSTRAP, np.random.default_rng(0))
    with pytest.raises(ValueError, match="must play the same paths"):
        gain_interval(noise, noise[:5], 252, BOOTSTRAP, np.random.default_rng(0))


@pytest.mark.parametrize(("breaches", "bars", "rate"), [(7, 100, 0.05), (1, 255, 0.01), (20, 250, 0.05)])
def test_kupiec_is_the_published_ratio(breaches, bars, rate):
    quiet = bars - breaches
    observed = breaches / bars
    ratio = ((1 - rate) ** quiet * rate**breaches) / ((1 - observed) ** quiet * observed**breaches)
    result = kupiec(breaches, bars, rate)
    assert result.statistic == pytest.approx(-2 * np.log(ratio))
    assert result.p_value == pytest.approx(stats.chi2.sf(-2 * np.log(ratio), 1))


@pytest.mark.parametrize(
    ("rate", "bars", "above", "below"),
    # Kupiec (1995), table 3, repeated in Jorion's Value at Risk: numbers of failures not rejected at the 5% level.
    [(0.05, 255, 6, 21), (0.05, 510, 16, 36), (0.05, 1_000, 37, 65), (0.01, 510, 1, 11), (0.025, 510, 6, 21)],
)
def test_kupiecs_non_rejection_region(rate, bars, above, below):
    accepted = [x for x in range(bars) if kupiec(x, bars, rate).p_value > 0.05]
    assert accepted == list(range(above + 1, below))


def test_no_breach_at_all_is_finite_and_suspicious():
    assert kupiec(0, 500, 0.05).statistic == pytest.approx(-2 * 500 * np.log(0.95))
    assert kupiec(0, 500, 0.05).p_value < 1e-6


def test_christoffersen_by_pencil():
    # 0 0 1 1 0 0 0 1: from 0 -> (0: 3, 1: 2), from 1 -> (0: 1, 1: 1).
    breached = np.array([0, 0, 1, 1, 0, 0, 0, 1])
    separate = 3 * np.log(3 / 5) + 2 * np.log(2 / 5) + np.log(1 / 2) + np.log(1 / 2)
    together = 4 * np.log(4 / 7) + 3 * np.log(3 / 7)
    result = christoffersen(breached)
    assert result.statistic == pytest.approx(2 * (separate - together))
    assert result.p_value == pytest.approx(stats.chi2.sf(2 * (separate - together), 1))


def test_christoffersen_tells_clusters_from_scattered_breaches():
    scattered = np.random.default_rng(10).random(1_000) < 0.05
    clustered = np.zeros(1_000)
    clustered[500:550] = 1
    assert christoffersen(scattered).p_value > 0.05
    assert christoffersen(clustered).p_value < 1e-6


def test_transitions_are_not_counted_across_rows_or_gaps():
    rows = np.array([[0, 0, 1], [1, 0, 0]])
    assert christoffersen(rows).statistic != pytest.approx(christoffersen(rows.ravel()).statistic)
    assert christoffersen(np.array([0, 0, 1, np.nan, 1, 0, 0])).statistic == christoffersen(rows).statistic


def test_an_honest_forecast_passes_and_half_of_it_fails():
    returns = np.random.default_rng(11).normal(0, 0.01, 1_500)
    honest = np.full(1_500, stats.norm.ppf(0.95) * 0.01)
    assert backtest_var(returns, honest, 0.95).conditional_coverage.p_value > 0.05
    assert backtest_var(returns, honest / 2, 0.95).coverage.p_value < 1e-6


def test_conditional_coverage_adds_the_two_tests_and_flat_bars_are_left_out():
    returns = np.array([-0.03, 0.01, -0.03, -0.03, 0.0, 0.01, 0.0])
    forecast = np.array([0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.0])
    result = backtest_var(returns, forecast, 0.95)
    assert (result.n_bars, result.n_breaches) == (6, 3)
    assert result.conditional_coverage.statistic == pytest.approx(
        result.coverage.statistic + result.independence.statistic
    )
    assert result.conditional_coverage.degrees == 2
