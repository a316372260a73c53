"""The block length of a bootstrap, chosen from the series.

Neighbouring decisions observe nearly the same bars, so that a series of decisions is autocorrelated over an unknown
length. The rule of Politis and White (2004, "Automatic block-length
selection for the dependent bootstrap") with the correction of Patton, Politis and White (2009) balances the bias of
blocks that are too short against the noise of blocks that are too long, for the mean of a series:

    b = (2 G^2 / D)^(1/3) n^(1/3),    G = sum_k l(k/M) |k| R(k),    D = 2 (sum_k l(k/M) R(k))^2

R are autocovariances, l is the flat-top window (1 up to a half, then down to 0 at 1), and M is twice the lag after
which no autocorrelation differs from 0.
"""

from __future__ import annotations

import math

import numpy as np

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.statistics.bootstrap import Interval, percentile_interval, stationary_bootstrap_indices

_SIGNIFICANT = 2.0
"""Politis and White's c: autocorrelations below c sqrt(log10(n) / n) count as none."""


def mean_block_length(series: np.ndarray) -> float:
    """Mean block of the stationary bootstrap for the mean of a series (N,), in rows, at least 1.

    1 for a series without variation, which needs no blocks, and for one of less than ten rows.
    """
    n = len(series)
    centred = np.asarray(series, dtype=np.float64) - np.mean(series)
    variance = centred @ centred / n
    if n < 10 or variance <= 1e-20:
        return 1.0
    quiet = max(5, math.ceil(math.sqrt(math.log10(n))))
    most = min(math.ceil(math.sqrt(n)) + quiet, n - 1)
    covariance = np.array([centred[: n - k] @ centred[k:] / n for k in range(most + 1)])
    loud = np.abs(covariance[1:] / variance) >= _SIGNIFICANT * math.sqrt(math.log10(n) / n)
    # The last lag before the first run of `quiet` silent ones; without such a run, the last loud one.
    runs = [lag for lag in range(most - quiet + 1) if not loud[lag : lag + quiet].any()]
    last = runs[0] if runs else int(np.flatnonzero(loud).max(initial=0)) + 1
    window = min(2 * max(last, 1), most)
    lags = np.arange(1, window + 1)
    weight = np.clip(2 * (1 - lags / window), 0, 1)
    weighted = weight * covariance[1 : window + 1]
    spectrum = variance + 2 * weighted.sum()
    slope = 2 * (lags * weighted).sum()
    if spectrum <= 0:
        return 1.0
    best = (slope / spectrum) ** 2
    longest = math.ceil(min(3 * math.sqrt(n), n / 3))
    return float(np.clip(best ** (1 / 3) * n ** (1 / 3), 1.0, longest))


def bootstrapped_mean(
    series: np.ndarray, config: BootstrapConfig, rng: np.random.Generator, bars_per_row: float = 1.0
) -> Interval:
    """Mean of a series (N,) of decisions with its interval: blocks as long as the series asks for, and never shorter
    than the configured bars.

    bars_per_row: bars from one row to the next.
    """
    block = max(mean_block_length(series), config.mean_block_bars / bars_per_row)
    picked = stationary_bootstrap_indices(len(series), min(max(block, 1.0), len(series)), config.resamples, rng)
    return percentile_interval(float(np.mean(series)), series[picked].mean(axis=1), config)
