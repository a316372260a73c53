"""A Markov chain over the regimes of `config.sections.synthetic.REGIMES`, started from its stationary law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtquant_rllib.config.sections.synthetic import REGIMES


def transition_matrix(rows: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Shape (4, 4): from, to. Rows are rescaled to sum to one."""
    matrix = np.array([rows[name] for name in REGIMES], dtype=np.float64)
    return matrix / matrix.sum(axis=1, keepdims=True)


def stationary_law(matrix: np.ndarray) -> np.ndarray:
    """Share of time spent in each regime, shape (4,): the left eigenvector of eigenvalue 1."""
    n = len(matrix)
    system = np.vstack([matrix.T - np.eye(n), np.ones(n)])
    law, *_ = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)
    return np.clip(law, 0.0, 1.0)


def walk(matrix: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Regime of each bar, int8 of the shape (n_paths, T) of `uniforms`, which decide every move."""
    law = stationary_law(matrix)
    first = np.cumsum(law / law.sum())
    onward = np.cumsum(matrix, axis=1)
    first[-1] = onward[:, -1] = 1.0
    regimes = np.empty(uniforms.shape[::-1], dtype=np.int8)
    draws = np.ascontiguousarray(uniforms.T)[:, :, None]
    now = (draws[0] >= first).sum(axis=1)
    regimes[0] = now
    for t in range(1, len(draws)):
        now = (draws[t] >= onward[now]).sum(axis=1)
        regimes[t] = now
    return np.ascontiguousarray(regimes.T)
