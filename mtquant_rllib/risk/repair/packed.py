"""Symmetric matrices as their upper triangles, row by row: 36 numbers instead of 64 for eight instruments.

A covariance (B, n(n+1)/2) includes the diagonal, a correlation (B, n(n-1)/2) leaves out its ones. Both follow
`np.triu_indices`. Quadratic forms are then one product of pairs and one dot product a row, without a (B, n, n) array.
"""

from __future__ import annotations

import numpy as np


class PackedIndex:
    """Index arrays of packed upper triangles for n instruments, made once.

    Attributes
    ----------
    n
        Number of instruments.
    first, second
        Row and column of each packed covariance entry, shape (n(n+1)/2,).
    off
        Positions of the off-diagonal entries in a packed covariance, shape (n(n-1)/2,); in the order of a packed
        correlation.
    diagonal
        Positions of the variances in a packed covariance, shape (n,).
    doubled
        Columns of the array [w, 2w] that give the second factor of each pair: off-diagonal pairs count twice.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.first, self.second = np.triu_indices(n)
        on_diagonal = self.first == self.second
        self.off = np.flatnonzero(~on_diagonal)
        self.diagonal = np.flatnonzero(on_diagonal)
        self.doubled = np.where(on_diagonal, self.second, self.second + n)
        full = np.empty((n, n), dtype=np.intp)
        full[self.first, self.second] = full[self.second, self.first] = np.arange(len(self.first))
        self._full = full.ravel()
        hollow = np.zeros((n, n), dtype=np.intp)
        upper = np.triu_indices(n, 1)
        hollow[upper] = hollow.T[upper] = np.arange(len(self.off))
        self._hollow = hollow.ravel()
        self._mask = 1.0 - np.eye(n)

    def matrices(self, covariance: np.ndarray) -> np.ndarray:
        """Full matrices (B, n, n) of packed covariances (B, n(n+1)/2)."""
        return covariance.take(self._full, axis=-1).reshape(*covariance.shape[:-1], self.n, self.n)

    def hollow_matrices(self, correlation: np.ndarray) -> np.ndarray:
        """Full matrices (B, n, n) of packed correlations (B, n(n-1)/2) with zeros on the diagonal."""
        full = correlation.take(self._hollow, axis=-1).reshape(*correlation.shape[:-1], self.n, self.n)
        return full * self._mask

    def pack(self, matrix: np.ndarray) -> np.ndarray:
        """Upper triangle with diagonal, (..., n, n) -> (..., n(n+1)/2)."""
        return np.ascontiguousarray(matrix[..., self.first, self.second])

    def pack_hollow(self, matrix: np.ndarray) -> np.ndarray:
        """Upper triangle without diagonal, (..., n, n) -> (..., n(n-1)/2)."""
        return np.ascontiguousarray(matrix[..., self.first[self.off], self.second[self.off]])

    def products(self, weights: np.ndarray) -> np.ndarray:
        """w_i w_j of each packed pair, off-diagonal pairs counted twice: (B, n) -> (B, n(n+1)/2).

        Its dot product with a packed covariance is w'Sw; that of its `off` columns with a packed correlation is the sum
        of w_i w_j r_ij over i != j.
        """
        doubled = np.concatenate((weights, 2 * weights), axis=-1)
        return weights.take(self.first, axis=-1) * doubled.take(self.doubled, axis=-1)
