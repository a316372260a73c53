"""Two portfolios of long positions, against closed forms and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from mtquant_rllib.evaluation.backtest.long_only_optimiser import best_weights, equal_risk_weights


def covariance(deviation: list[float], correlation: float) -> np.ndarray:
    matrix = np.full((len(deviation), len(deviation)), correlation)
    np.fill_diagonal(matrix, 1.0)
    return (matrix * np.outer(deviation, deviation))[None]


def random_covariances(rows: int, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(rows, n, 2 * n))
    scale = np.exp(rng.normal(scale=0.7, size=(rows, n))) * 0.006
    return factors @ factors.mT / (2 * n) * scale[:, :, None] * scale[:, None, :]


# -- equal contributions to risk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_two_assets_share_risk_by_inverse_volatility_whatever_their_correlation(correlation: float) -> None:
    weights = equal_risk_weights(covariance([0.01, 0.03], correlation))
    assert weights[0] == pytest.approx([0.75, 0.25], abs=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_with_equal_correlations_risk_parity_is_inverse_volatility(correlation: float) -> None:
    deviation = np.array([0.005, 0.01, 0.02, 0.004, 0.016])
    weights = equal_risk_weights(covariance(deviation.tolist(), correlation))
    assert weights[0] == pytest.approx((1 / deviation) / (1 / deviation).sum(), abs=1e-9)


def test_every_asset_contributes_the_same_share_of_variance() -> None:
    matrices = random_covariances(50, 5, seed=1)
    weights = equal_risk_weights(matrices)
    parts = weights * np.einsum("rij,rj->ri", matrices, weights)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert (weights > 0).all()
    assert parts / parts.sum(axis=1, keepdims=True) == pytest.approx(0.2, abs=1e-6)


def test_an_asset_without_variance_has_no_such_portfolio() -> None:
    matrices = np.concatenate((covariance([0.01, 0.03], 0.2), covariance([0.0, 0.03], 0.0)))
    weights = equal_risk_weights(matrices)
    assert weights[0] == pytest.approx([0.75, 0.25])
    assert not weights[1].any()


# -- the quadratic programme -------------------------------------------------------------------------------------------


def test_without_a_mean_it_is_the_least_variance() -> None:
    """Two uncorrelated assets: w_1 = v_2 / (v_1 + v_2)."""
    weights = best_weights(np.zeros((1, 2)), covariance([0.01, 0.02], 0.0), 5.0)
    assert weights[0] == pytest.approx([0.8, 0.2])


def test_a_large_mean_takes_everything() -> None:
    weights = best_weights(np.array([[0.0, 0.1, 0.0]]), covariance([0.01, 0.02, 0.01], 0.3), 1.0)
    assert weights[0] == pytest.approx([0, 1, 0])


def test_two_assets_with_a_mean_have_a_closed_form() -> None:
    """w_1 = (m_1 - m_2) / (a (v_1 + v_2)) + v_2 / (v_1 + v_2), uncorrelated and inside."""
    mean, a = np.array([[4e-4, 1e-4]]), 4.0
    weights = best_weights(mean, covariance([0.01, 0.02], 0.0), a)
    assert weights[0, 0] == pytest.approx(3e-4 / (a * 5e-4) + 0.8)


def test_it_agrees_with_a_general_solver() -> None:
    rng = np.random.default_rng(2)
    matrices = random_covariances(25, 5, seed=3)
    means = rng.normal(scale=5e-4, size=(25, 5))
    for mean, matrix, weights in zip(means, matrices, best_weights(means, matrices, 8.0)):

        def loss(w: np.ndarray, mean: np.ndarray = mean, matrix: np.ndarray = matrix) -> float:
            return float(1e4 * (4.0 * w @ matrix @ w - w @ mean))

        found = minimize(
            loss,
            np.full(5, 0.2),
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
        assert loss(weights) <= found.fun + 1e-6
        assert weights == pytest.approx(found.x, abs=2e-3)


def test_too_many_assets_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        best_weights(np.zeros((1, 11)), np.eye(11)[None], 1.0)
