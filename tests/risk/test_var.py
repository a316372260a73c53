"""Value at risk against the pencil, scipy and itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.var import (
    age_weights,
    at_present_volatility,
    bootstrap_bounds,
    cholesky_root,
    component_var,
    expected_shortfall,
    historical_var,
    marginal_var,
    monte_carlo_losses,
    monte_carlo_var,
    normal_quantile,
    parametric_shortfall,
    parametric_var,
    weighted_var,
)

COVARIANCE = np.array([[1e-4, 5e-5], [5e-5, 4e-4]])

finite_books = arrays(np.float64, 8, elements=st.floats(-2, 2))


def test_two_longs_exceed_two_percent_and_their_hedge_does_not() -> None:
    assert parametric_var(np.array([0.5, 0.5]), COVARIANCE, 0.95) == pytest.approx(0.0201, abs=5e-5)
    assert parametric_var(np.array([0.5, -0.5]), COVARIANCE, 0.95) == pytest.approx(0.0164, abs=5e-5)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_parametric_var_is_the_quantile_of_a_normal_book(confidence: float) -> None:
    weights = np.array([0.3, -0.7])
    deviation = np.sqrt(weights @ COVARIANCE @ weights)
    expected = -stats.norm.ppf(1 - confidence, scale=deviation)
    assert parametric_var(weights, COVARIANCE, confidence) == pytest.approx(expected, rel=1e-12)
    assert normal_quantile(confidence) == pytest.approx(stats.norm.ppf(confidence), rel=1e-12)


@given(weights=finite_books, root=arrays(np.float64, (8, 8), elements=st.floats(-0.02, 0.02)))
def test_doubling_the_book_doubles_its_var(weights: np.ndarray, root: np.ndarray) -> None:
    covariance = root @ root.T
    once = parametric_var(weights, covariance, 0.95)
    assert parametric_var(2 * weights, covariance, 0.95) == pytest.approx(2 * once, rel=1e-12)
    assert parametric_var(weights, covariance, 0.95, horizon_days=4) == pytest.approx(2 * once, rel=1e-12)


def test_component_vars_add_up_and_a_hedge_has_a_negative_one() -> None:
    weights = np.array([-0.1, 0.5])
    components = component_var(weights, COVARIANCE, 0.95)
    assert components.sum() == pytest.approx(parametric_var(weights, COVARIANCE, 0.95), rel=1e-12)
    assert components[0] < 0 < components[1]
    assert component_var(np.zeros(2), COVARIANCE, 0.95).tolist() == [0.0, 0.0]


def test_historical_var_interpolates_between_the_worst_days() -> None:
    past = np.arange(-50, 50)[:, None] / 1000
    assert historical_var(np.array([1.0]), past, 0.95) == pytest.approx(0.04505, abs=1e-12)
    assert historical_var(np.array([2.0]), past, 0.95) == pytest.approx(0.0901, abs=1e-12)


def test_monte_carlo_agrees_with_the_formula_and_fat_tails_exceed_it_far_out() -> None:
    weights = np.array([0.5, 0.5])
    formula = parametric_var(weights, COVARIANCE, 0.99)
    normal = monte_carlo_var(weights, COVARIANCE, 0.99, 100_000, np.random.default_rng(1))
    fat = monte_carlo_var(weights, COVARIANCE, 0.99, 100_000, np.random.default_rng(1), degrees_of_freedom=4)
    assert normal == pytest.approx(formula, rel=0.02)
    assert fat > 1.05 * formula
    with pytest.raises(ValueError, match="more than 2"):
        monte_carlo_var(weights, COVARIANCE, 0.99, 10, np.random.default_rng(1), degrees_of_freedom=2)


def test_packed_products_give_the_quadratic_forms_of_full_matrices() -> None:
    rng = np.random.default_rng(0)
    index = PackedIndex(8)
    root = rng.normal(size=(5, 8, 8))
    covariance = root @ root.transpose(0, 2, 1)
    weights = rng.normal(size=(5, 8))
    products = index.products(weights)
    packed, hollow = index.pack(covariance), index.pack_hollow(covariance)
    assert packed.shape == (5, 36)
    assert hollow.shape == (5, 28)
    np.testing.assert_allclose((products * packed).sum(1), np.einsum("bi,bij,bj->b", weights, covariance, weights))
    off = covariance * (1 - np.eye(8))
    np.testing.assert_allclose(
        (products[:, index.off] * hollow).sum(1), np.einsum("bi,bij,bj->b", weights, off, weights)
    )
    np.testing.assert_allclose(index.matrices(packed), covariance)
    np.testing.assert_array_equal(index.hollow_matrices(hollow), np.where(np.eye(8) == 1, 0, index.matrices(packed)))


def test_expected_shortfall_is_the_mean_of_the_tail_and_the_last_loss_counts_in_part() -> None:
    losses = np.arange(1.0, 11.0)
    assert expected_shortfall(losses, 0.8) == pytest.approx(9.5)
    assert expected_shortfall(losses, 0.85) == pytest.approx((10 * 0.1 + 9 * 0.05) / 0.15)
    assert expected_shortfall(-losses, 0.8) == 0
    weights = np.array([0.3, -0.7])
    deviation = float(np.sqrt(weights @ COVARIANCE @ weights))
    tail = stats.norm.expect(lambda x: x, lb=stats.norm.ppf(0.95), conditional=True)
    assert parametric_shortfall(weights, COVARIANCE, 0.95) == pytest.approx(deviation * tail, rel=1e-8)
    drawn = monte_carlo_losses(weights, COVARIANCE, 200_000, np.random.default_rng(2))
    assert expected_shortfall(drawn, 0.95) == pytest.approx(deviation * tail, rel=0.02)


@given(losses=arrays(np.float64, (3, 40), elements=st.floats(-1, 1)))
def test_equal_probabilities_are_none_and_shortfall_is_not_below_var(losses: np.ndarray) -> None:
    equal = np.full(40, 1 / 40)
    np.testing.assert_allclose(expected_shortfall(losses, 0.9, equal), expected_shortfall(losses, 0.9), atol=1e-12)
    assert (expected_shortfall(losses, 0.9) >= weighted_var(losses, 0.9, equal) - 1e-12).all()


def test_old_days_count_less_and_quiet_ones_are_scaled_up() -> None:
    """Boudoukh, Richardson and Whitelaw: the worst loss, 100 days ago, no longer makes the quantile."""
    losses = np.full(200, 0.01)
    losses[:5], losses[99] = 0.02, 0.10
    weights = age_weights(200, 0.97)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] / weights[-2] == pytest.approx(1 / 0.97)
    assert weighted_var(losses, 0.99, np.full(200, 1 / 200)) == pytest.approx(0.02)
    assert weighted_var(losses, 0.99, weights) == pytest.approx(0.01)
    rng = np.random.default_rng(5)
    quiet, loud = rng.normal(0, 0.005, (300, 1)), rng.normal(0, 0.02, (100, 1))
    scaled = at_present_volatility(np.concatenate((quiet, loud)), 0.94)
    assert 0.012 < scaled[50:300].std() < 0.03


def test_a_covariance_that_is_not_positive_definite_is_repaired_and_keeps_its_variances() -> None:
    good = cholesky_root(COVARIANCE)
    np.testing.assert_allclose(good @ good.T, COVARIANCE)
    bad = np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    assert np.linalg.eigvalsh(bad)[0] < 0
    root = cholesky_root(bad)
    repaired = root @ root.T
    assert np.linalg.eigvalsh(repaired)[0] > -1e-12
    np.testing.assert_allclose(np.diagonal(repaired), 1.0)
    singular = np.ones((3, 3)) * 1e-4
    root = cholesky_root(singular)
    np.testing.assert_allclose(root @ root.T, singular, atol=1e-12)


def test_marginal_var_is_the_slope_of_var() -> None:
    weights, step = np.array([0.3, -0.7]), 1e-6
    for i in range(2):
        moved = weights.copy()
        moved[i] += step
        slope = (parametric_var(moved, COVARIANCE, 0.95) - parametric_var(weights, COVARIANCE, 0.95)) / step
        assert marginal_var(weights, COVARIANCE, 0.95)[i] == pytest.approx(slope, rel=1e-4)
    np.testing.assert_allclose(
        weights * marginal_var(weights, COVARIANCE, 0.95), component_var(weights, COVARIANCE, 0.95)
    )


@pytest.mark.slow
def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth, rng, inside = stats.norm.ppf(0.95), np.random.default_rng(6), 0
    for _ in range(200):
        (low, high), (less, more) = bootstrap_bounds(rng.normal(size=500), 0.95, 0.9, 200, rng)
        assert less < more
        inside += low <= truth <= high
    assert 0.8 < inside / 200 < 0.97
