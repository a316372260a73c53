"""Value at risk: the loss that one day in twenty exceeds, as a positive fraction of equity.

0.02 at 95% means that on about one day in twenty we expect to lose more than 2% of equity. Positions are signed, so a
hedge lowers it; doubling the book doubles it. Three methods: parametric (normal quantile times the book's standard
deviation), historical (quantile of the returns that this book would have had) and Monte Carlo (quantile
over draws, normal or Student t).

The rule that limits books is a variance limit, `risk.repair.chain`: of this file it uses the quantile alone. The
functions are for reports, and the reference that tests hold the rule to.

The mean is taken as zero: over a day it is small beside the deviation, and its estimate is mostly noise.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def normal_quantile(confidence: float) -> float:
    """z with P(Z <= z) = confidence; 1.6449 at 0.95."""
    return NormalDist().inv_cdf(confidence)


def portfolio_variance(weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """w'Sw for weights (..., n) and covariances (..., n, n); shape (...,)."""
    return np.einsum("...i,...ij,...j->...", weights, covariance, weights)


def parametric_var(
    weights: np.ndarray, covariance: np.ndarray, confidence: float, horizon_days: float = 1.0
) -> np.ndarray:
    """z * sqrt(w'Sw * days).

    Parameters
    ----------
    weights
        Signed, ndarray of shape (..., n).
    covariance
        Of daily simple returns, ndarray of shape (..., n, n).
    confidence
        Such as 0.95.

    Returns
    -------
    ndarray of shape (...,), positive fraction of equity.
    """
    variance = np.maximum(portfolio_variance(weights, covariance), 0.0)
    return normal_quantile(confidence) * np.sqrt(variance * horizon_days)


def component_var(
    weights: np.ndarray, covariance: np.ndarray, confidence: float, horizon_days: float = 1.0
) -> np.ndarray:
    """Each position's share of the book's VaR, w_i (Sw)_i z / sigma; shape (..., n). The shares add up to the VaR.

    A negative share is a hedge. Zero for a book without risk.
    """
    marginal = np.einsum("...ij,...j->...i", covariance, weights)
    shares = weights * marginal
    deviation = np.sqrt(np.maximum(shares.sum(axis=-1, keepdims=True), 0.0))
    scale = normal_quantile(confidence) * np.sqrt(horizon_days)
    return np.divide(shares * scale, deviation, out=np.zeros_like(shares), where=deviation > 0)


def historical_var(weights: np.ndarray, past_returns: np.ndarray, confidence: float) -> np.ndarray:
    """Loss at the linearly interpolated (1 - confidence) quantile of the book's past returns; no less than 0.

    weights (..., n), past_returns (S, n) daily simple returns; shape (...,).
    """
    book_returns = np.asarray(weights) @ past_returns.T
    return np.maximum(-np.quantile(book_returns, 1 - confidence, axis=-1, method="linear"), 0.0)


def monte_carlo_var(
    weights: np.ndarray,
    covariance: np.ndarray,
    confidence: float,
    n_draws: int,
    generator: np.random.Generator,
    degrees_of_freedom: float | None = None,
) -> np.ndarray:
    """Loss quantile over draws with this covariance (n, n): normal, or Student t scaled to the same variance.

    weights (..., n); shape (...,). `degrees_of_freedom` must exceed 2, else there is no variance to scale to.
    """
    if degrees_of_freedom is not None and degrees_of_freedom <= 2:
        raise ValueError(f"degrees_of_freedom = {degrees_of_freedom}: expected more than 2 (variance must exist)")
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = generator.standard_normal((n_draws, len(root))) @ root.T
    if degrees_of_freedom is not None:
        mixing = generator.chisquare(degrees_of_freedom, size=(n_draws, 1)) / (degrees_of_freedom - 2)
        draws /= np.sqrt(mixing)
    return historical_var(weights, draws, confidence)
