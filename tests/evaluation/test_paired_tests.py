"""Comparisons of books on the same bars: statsmodels for the adjustment, draws for the level."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from mtquant_rllib.evaluation.statistics.paired_tests import compare_sharpes, holm
from mtquant_rllib.evaluation.statistics.sharpe_tests import sharpe_error


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_holms_adjustment_is_statsmodels(seed: int) -> None:
    p_values = np.random.default_rng(seed).uniform(0, 0.2, 7)
    p_values[3] = p_values[5]
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])


def test_holm_with_a_pencil() -> None:
    """The smallest of three counts threefold, the next twice, and none is smaller than one before it."""
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.02])), [0.04, 0.03, 0.04])
    assert holm(np.array([0.2])) == 0.2


def test_books_of_one_market_are_told_apart_sooner_than_each_from_nothing() -> None:
    rng = np.random.default_rng(0)
    market = 0.01 * rng.standard_normal(1500)
    better = market + 0.002 * rng.standard_normal(1500) + 0.0003
    found = compare_sharpes(better, market[None])
    assert found.error[0] < 0.3 * sharpe_error(better)
    assert found.p_value[0] < 0.01
    assert compare_sharpes(market, better[None]).p_value[0] > 0.99


def test_leverage_is_no_skill_and_a_twin_proves_nothing() -> None:
    returns = 0.01 * np.random.default_rng(1).standard_normal(300) + 0.001
    found = compare_sharpes(returns, np.stack((returns, 3 * returns)))
    np.testing.assert_array_equal(found.p_value, 1.0)


def test_doing_nothing_is_a_book_of_no_sharpe() -> None:
    returns = 0.01 * np.random.default_rng(2).standard_normal(1000) + 0.002
    found = compare_sharpes(returns, np.zeros((1, 1000)))
    assert found.difference[0] == pytest.approx(returns.mean() / returns.std())
    assert found.error[0] == pytest.approx(float(sharpe_error(returns)))


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_no_better_books_are_called_better_as_often_as_said(rho: float) -> None:
    """Of 500 pairs with fat tails and the same true Sharpe ratio."""
    rng = np.random.default_rng(3)
    shared = rng.standard_t(5, (500, 400))
    wrong = 0
    for row in shared:
        pair = rho * row + np.sqrt(1 - rho**2) * rng.standard_t(5, (2, 400)) + 0.05
        wrong += compare_sharpes(pair[0], pair[1:]).p_value[0] <= 0.05
    assert wrong / 500 == pytest.approx(0.05, abs=0.025)
