"""Macro series that fit the prices: a VIX that rises when the index falls, a dollar index against the euro, three
rates.

Row t of a series is its value at the close of bar t; the caller publishes it a business day later.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import lfilter

from mtquant_rllib.config.sections.synthetic import SyntheticDxy, SyntheticRates, SyntheticVix
from mtquant_rllib.market.synthetic.innovations import nearest_correlation


def autoregression(shocks: np.ndarray, start: np.ndarray, persistence: float) -> np.ndarray:
    """x_t = persistence * x_{t-1} + shock_t along axis 1, with x_{-1} = start of shape (n_paths, 1, ...)."""
    out, _ = lfilter([1.0], [1.0, -persistence], shocks, axis=1, zi=persistence * start)
    return out


def vix(
    config: SyntheticVix,
    index_shocks: np.ndarray,
    regimes: np.ndarray,
    regime_log_vol: np.ndarray,
    matrix: np.ndarray,
    law: np.ndarray,
    normals: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    """VIX, shape (n_paths, T).

    ln VIX = ln(mean) + regime part + AR(1). The regime part is `regime_loading` times the index's log volatility less
    its mean; the AR(1) gets what is left of the deviation, and its correlation with the index is raised so that the
    whole's is the configured one.

    Parameters
    ----------
    index_shocks
        Returns of the index over their unconditional deviation, (n_paths, T).
    regimes, regime_log_vol, matrix, law
        Regime of each bar; log volatility (4,), transitions (4, 4) and stationary law (4,) of the chain.
    normals, start
        Standard normals (n_paths, T) and, for the first value, (n_paths, 1).
    """
    by_regime = config.regime_loading * (regime_log_vol - law @ regime_log_vol)
    regime_variance = law @ by_regime**2
    regime_change_variance = (law[:, None] * matrix * (by_regime[None, :] - by_regime[:, None]) ** 2).sum()
    deviation = math.sqrt(config.deviation**2 - regime_variance)
    step = deviation * math.sqrt(1 - config.persistence**2)
    # The variance of an AR(1)'s change is step^2 * 2 / (1 + persistence); only the step goes with the index.
    change = math.sqrt(step**2 * 2 / (1 + config.persistence) + regime_change_variance)
    correlation = max(-1.0, min(1.0, config.correlation * change / step))
    shocks = step * (correlation * index_shocks + math.sqrt(1 - correlation**2) * normals)
    slow = autoregression(shocks, deviation * start, config.persistence)
    return np.clip(config.mean * np.exp(by_regime[regimes] + slow), *config.bounds)


def dollar_index(
    config: SyntheticDxy, currency_shocks: np.ndarray, normals: np.ndarray, bars_per_year: float
) -> np.ndarray:
    """Dollar index, shape (n_paths, T), from the euro's returns over their unconditional deviation."""
    mixed = config.correlation * currency_shocks + math.sqrt(1 - config.correlation**2) * normals
    return config.start * np.exp(np.cumsum(config.volatility_pct / 100 / math.sqrt(bars_per_year) * mixed, axis=1))


def rate_law(config: SyntheticRates) -> tuple[np.ndarray, float]:
    """Correlations of the rates, (3, 3), and the deviation of each over the years, per cent: that of an AR(1)."""
    matrix = np.eye(3)
    matrix[np.triu_indices(3, 1)] = config.correlations
    stationary = config.deviation_bp / 100 / math.sqrt(1 - (1 - config.reversion) ** 2)
    return nearest_correlation(matrix + np.triu(matrix, 1).T), stationary


def rates(config: SyntheticRates, normals: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Three rates in per cent, shape (n_paths, T, 3), from normals of that shape and (n_paths, 1, 3) for the first
    value."""
    matrix, stationary = rate_law(config)
    root = np.linalg.cholesky(matrix)
    persistence, step = 1 - config.reversion, config.deviation_bp / 100
    # einsum, not a matrix product: its sums do not depend on how many paths are drawn together
    shocks = np.einsum("ptk,jk->ptj", normals, root)
    first = np.einsum("ptk,jk->ptj", start, root)
    drawn = np.asarray(config.mean_pct) + autoregression(step * shocks, stationary * first, persistence)
    return config.floor_pct + np.abs(drawn - config.floor_pct)
