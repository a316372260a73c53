"""Scores of several training seeds on several histories, summed up so that neither one lucky seed nor one wild history
decides (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice").

The interquartile mean leaves out the best and the worst quarter of all scores. A performance profile is the share of
scores above each threshold: where one lies above another everywhere, that one is better at every level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.statistics.bootstrap import Interval, percentile_interval

_TRIM = 0.25


@dataclass(frozen=True)
class Profile:
    """Share of scores above each threshold, with its interval, (K,) each."""

    thresholds: np.ndarray
    share: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of (..., N), (...): a quarter, rounded down, is left out on either side."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    out = int(_TRIM * ordered.shape[-1])
    return np.asarray(ordered[..., out : ordered.shape[-1] - out].mean(axis=-1))


def interquartile_mean_interval(scores: np.ndarray, config: BootstrapConfig, rng: np.random.Generator) -> Interval:
    """Interquartile mean of scores (S, P) of S seeds on P histories, resampling seeds within each history."""
    drawn = interquartile_mean(_resampled(scores, config.resamples, rng).reshape(config.resamples, -1))
    return percentile_interval(float(interquartile_mean(np.ravel(scores))), drawn, config)


def performance_profile(
    scores: np.ndarray, thresholds: np.ndarray, config: BootstrapConfig, rng: np.random.Generator
) -> Profile:
    """Share of scores (S, P) above each of K thresholds, with intervals from resampled seeds."""
    drawn = _resampled(scores, config.resamples, rng).reshape(config.resamples, -1)
    tail = (1 - config.confidence) / 2
    shares = np.stack([(drawn > threshold).mean(axis=1) for threshold in thresholds])
    lower, upper = np.quantile(shares, [tail, 1 - tail], axis=1)
    share = (np.ravel(scores)[None] > np.asarray(thresholds)[:, None]).mean(axis=1)
    return Profile(np.asarray(thresholds), share, lower, upper)


def _resampled(scores: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, S, P): seeds drawn with replacement, history by history."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2:
        raise ValueError(f"expected scores of shape (S, P), got {scores.shape}")
    n_seeds, n_histories = scores.shape
    drawn = rng.integers(n_seeds, size=(resamples, n_seeds, n_histories))
    return scores[drawn, np.arange(n_histories)]
