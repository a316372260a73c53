"""Shocks of unit variance: correlated across instruments, fat-tailed, and clustered in size.

A shock is sqrt(h) * m * g. g is Gaussian with the regime's correlations. m = sqrt(df / chi2_df) makes it a Student t;
one uniform a bar gives every instrument's chi-square its quantile, so a wild bar is wild everywhere (which reproduces
how absolute returns of currencies and equities go together). h is a GARCH(1,1) variance around 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import gammaincc, gammaincinv, ndtr


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


@dataclass(frozen=True)
class TailLaw:
    """The factor m that turns normals into Student t of variance 1, for each instrument and regime.

    Attributes
    ----------
    half_df
        Half the degrees of freedom, shape (n, 4), above 1.
    cut
        Quantiles of m's chi-square below it are raised to it, so that m is bounded; the variance is 1 after the cut.
    """

    half_df: np.ndarray
    cut: float

    @classmethod
    def of(cls, tail_df: np.ndarray, cut: float) -> TailLaw:
        return cls(np.asarray(tail_df, dtype=np.float64) / 2, cut)

    @cached_property
    def _second_moment(self) -> np.ndarray:
        # E[df / chi2_df; chi2 > x] = df / (df - 2) * P(chi2_(df - 2) > x), and the cut leaves an atom at x
        half, lowest = self.half_df, gammaincinv(self.half_df, self.cut)
        return half / (half - 1) * gammaincc(half - 1, lowest) + self.cut * half / lowest

    def _factor(self, half: np.ndarray, quantile: np.ndarray, second_moment: np.ndarray) -> np.ndarray:
        return np.sqrt(half / gammaincinv(half, np.maximum(quantile, self.cut)) / second_moment)

    def factors(self, uniforms: np.ndarray, regimes: np.ndarray) -> np.ndarray:
        """m of shape (n_paths, T, n) from the bars' common quantile and regime, both (n_paths, T)."""
        factors = np.empty((*uniforms.shape, len(self.half_df)))
        laws, first, law_of = np.unique(self.half_df, axis=0, return_index=True, return_inverse=True)
        for k, half in enumerate(laws):
            moment = self._second_moment[first[k]]
            factors[:, :, law_of.ravel() == k] = self._factor(half[regimes], uniforms, moment[regimes])[:, :, None]
        return factors

    def capped_square(self, cap: float) -> np.ndarray:
        """E[min(shock^2, cap)], shape (n, 4), by quadrature over the quantile of m."""
        quantiles = (np.arange(2000) + 0.5) / 2000
        m = self._factor(self.half_df[..., None], quantiles, self._second_moment[..., None])
        edge = np.sqrt(cap) / m
        inside = ndtr(edge) - ndtr(-edge)  # P(|g| < edge), and E[g^2; |g| < edge] = inside - 2 edge * density(edge)
        density = np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi)
        return (m**2 * (inside - 2 * edge * density) + cap * (1 - inside)).mean(axis=-1)


def clustered_variance(news: np.ndarray, alpha: np.ndarray, persistence: float) -> np.ndarray:
    """GARCH(1,1) variance h around 1, shape of `news` (n_paths, T, n): h_t knows what came before t.

    h_t = (1 - persistence) + (alpha * news_{t-1} + persistence - alpha) * h_{t-1}, h_0 = 1, with `news` of mean 1: the
    squared shock, or a bounded stand-in for it.
    """
    kept = alpha * news + (persistence - alpha)
    variance = np.empty_like(news)
    now = np.ones(news.shape[::2])
    variance[:, 0] = now
    for t in range(1, news.shape[1]):
        now = kept[:, t - 1] * now + (1.0 - persistence)
        variance[:, t] = now
    return variance
