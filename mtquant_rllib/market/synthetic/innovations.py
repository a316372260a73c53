"""Shocks of unit variance: correlated across instruments, fat-tailed, and clustered in size.

A shock is sqrt(h) * m * g. g is Gaussian with the regime's correlations. m = sqrt(df / chi2_df) makes it a Student t;
one uniform a bar gives every instrument's chi-square its quantile, so a wild bar is wild everywhere (which reproduces
how absolute returns of currencies and equities go together). h is a GARCH(1,1) variance around 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import gammaincc, gammaincinv


def nearest_correlation(matrix: np.ndarray, sweeps: int = 200, floor: float = 1e-6) -> np.ndarray:
    """The positive definite correlation matrix nearest in Frobenius norm (Higham 2002, alternating projections)."""
    if np.linalg.eigvalsh(matrix)[0] >= floor:
        return matrix
    correction, unit = np.zeros_like(matrix), matrix.copy()
    for _ in range(sweeps):
        shifted = unit - correction
        values, vectors = np.linalg.eigh(shifted)
        definite = (vectors * np.maximum(values, floor)) @ vectors.T
        correction = definite - shifted
        unit = definite.copy()
        np.fill_diagonal(unit, 1.0)
    scale = np.sqrt(np.diag(definite))
    return definite / np.outer(scale, scale)


def correlation_matrices(pairs: Mapping[str, Sequence[float]], symbols: Sequence[str]) -> np.ndarray:
    """Shape (4, n, n), one per regime, from a table whose keys name two instruments; other pairs are uncorrelated."""
    matrices = np.tile(np.eye(len(symbols)), (4, 1, 1))
    for pair, by_regime in pairs.items():
        one, other = pair.split()
        if one in symbols and other in symbols:
            i, j = symbols.index(one), symbols.index(other)
            matrices[:, i, j] = matrices[:, j, i] = by_regime
    return np.stack([nearest_correlation(matrix) for matrix in matrices])


def correlate(gaussian: np.ndarray, regimes: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """One path's independent normals (T, n) given the correlations of each bar's regime (T,)."""
    out = np.empty_like(gaussian)
    for k, matrix in enumerate(matrices):
        rows = regimes == k
        out[rows] = gaussian[rows] @ np.linalg.cholesky(matrix).T
    return out


def tail_factors(uniforms: np.ndarray, regimes: np.ndarray, tail_df: np.ndarray, cut: float) -> np.ndarray:
    """The factor m that turns normals into Student t of variance 1, shape (n_paths, T, n).

    Parameters
    ----------
    uniforms, regimes
        Shape (n_paths, T): the common quantile and the regime of each bar.
    tail_df
        Shape (n, 4), above 2.
    cut
        Quantiles below it are raised to it, so that m is bounded; the variance is 1 after the cut.
    """
    quantile = np.maximum(uniforms, cut)
    factors = np.empty((*uniforms.shape, len(tail_df)))
    laws, law_of = np.unique(tail_df, axis=0, return_inverse=True)
    for k, df_by_regime in enumerate(laws):
        half = df_by_regime / 2
        lowest = gammaincinv(half, cut)
        # E[df / chi2_df; chi2 > x] = df / (df - 2) * P(chi2_(df - 2) > x), and the cut leaves an atom at x
        second_moment = half / (half - 1) * gammaincc(half - 1, lowest) + cut * half / lowest
        half_of_bar = half[regimes]
        factor = np.sqrt(half_of_bar / gammaincinv(half_of_bar, quantile) / second_moment[regimes])
        factors[:, :, law_of.ravel() == k] = factor[:, :, None]
    return factors


def clustered_variance(shocks: np.ndarray, alpha: np.ndarray, persistence: float) -> np.ndarray:
    """GARCH(1,1) variance h around 1, shape of `shocks` (n_paths, T, n): h_t knows the shocks before t.

    h_t = (1 - persistence) + (alpha * shock_{t-1}^2 + persistence - alpha) * h_{t-1}, h_0 = 1; shocks have variance 1.
    """
    kept = alpha * shocks**2 + (persistence - alpha)
    variance = np.empty_like(shocks)
    now = np.ones(shocks.shape[::2])
    variance[:, 0] = now
    for t in range(1, shocks.shape[1]):
        now = kept[:, t - 1] * now + (1.0 - persistence)
        variance[:, t] = now
    return variance
