"""Portfolios of a few long positions that sum to one: the best one for a mean and a covariance, and the one in which
every asset carries the same risk. Many rows at once, exact to rounding."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np

_MOST_ASSETS = 10
"""Supports are tried one by one, 2^n - 1 of them."""
_TOLERANCE = 1e-12
_SWEEPS = 1000


def best_weights(mean: np.ndarray, covariance: np.ndarray, risk_aversion: float) -> np.ndarray:
    """argmax over the simplex of w'mean - risk_aversion / 2 w'Sw, (R, n).

    The optimum of this quadratic programme holds some set of assets, and among those it solves

        [ a S_kk  1 ] [w_k]   [mean_k]
        [ 1'      0 ] [ v ] = [  1   ]

    With few assets every set can be tried: of the solutions without a negative weight the best is the optimum.

    Parameters
    ----------
    mean, covariance
        (R, n) and (R, n, n), positive definite.
    risk_aversion
        a > 0, per unit of variance of the same period.
    """
    rows, n = mean.shape
    if n > _MOST_ASSETS:
        raise ValueError(f"{n} assets: expected at most {_MOST_ASSETS}, every set of them is tried")
    best = np.zeros((rows, n))
    value = np.full(rows, -np.inf)
    for support in chain.from_iterable(combinations(range(n), size) for size in range(1, n + 1)):
        k, held = len(support), list(support)
        system = np.zeros((rows, k + 1, k + 1))
        system[:, :k, :k] = risk_aversion * covariance[:, held][:, :, held]
        # The constraint's rows on the scale of the variances, which are tiny: the solution is the same.
        scale = np.einsum("rii->r", system[:, :k, :k]) / k
        system[:, :k, k] = system[:, k, :k] = scale[:, None]
        right = np.concatenate((mean[:, held], scale[:, None]), axis=1)
        weights = np.linalg.solve(system, right[..., None])[:, :k, 0]
        variance = np.einsum("ri,rij,rj->r", weights, covariance[:, held][:, :, held], weights)
        utility = np.einsum("ri,ri->r", weights, mean[:, held]) - risk_aversion / 2 * variance
        better = (weights >= -_TOLERANCE).all(axis=1) & (utility > value)
        best[better] = 0.0
        best[np.ix_(better, held)] = np.maximum(weights[better], 0.0)
        value[better] = utility[better]
    return best / best.sum(axis=1, keepdims=True)


def equal_risk_weights(covariance: np.ndarray) -> np.ndarray:
    """Long weights (R, n) that sum to one and contribute equally to risk: w_i (Sw)_i is the same for all i.

    They are the minimum of w'Sw / 2 - sum_i ln w_i (Maillard, Roncalli and Teiletche 2010), up to their sum. It is
    found by cyclical coordinate descent (Griveau-Billion, Richard and Roncalli 2013), here on positions in units of
    their own deviations, x_i = w_i sigma_i:

        x_i <- (-c + sqrt(c^2 + 4)) / 2,      c = sum over j != i of r_ij x_j

    covariance: (R, n, n). A row with a variance of zero has no such portfolio: all zeros.
    """
    deviation = np.sqrt(np.maximum(np.einsum("rii->ri", covariance), 0.0))
    known = (deviation > 0).all(axis=1)
    scale = np.where(known[:, None], deviation, 1.0)
    correlation = covariance / (scale[:, :, None] * scale[:, None, :])
    positions = np.ones_like(deviation)
    for _ in range(_SWEEPS):
        before = positions.copy()
        for i in range(positions.shape[1]):
            others = np.einsum("rj,rj->r", correlation[:, i], positions) - correlation[:, i, i] * positions[:, i]
            positions[:, i] = (-others + np.sqrt(others**2 + 4.0)) / 2.0
        if np.abs(positions - before).max(initial=0.0) < _TOLERANCE:
            break
    weights = positions / scale
    return np.where(known[:, None], weights / weights.sum(axis=1, keepdims=True), 0.0)
