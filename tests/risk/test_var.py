"""Value at risk against the pencil, scipy and itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.var import component_var, historical_var, monte_carlo_var, normal_quantile, parametric_var

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
