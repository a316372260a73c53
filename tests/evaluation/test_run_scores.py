"""Scores over seeds: scipy's trimmed mean, and profiles that can be counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.statistics.run_scores import (
    interquartile_mean,
    interquartile_mean_interval,
    performance_profile,
)

CONFIG = BootstrapConfig(resamples=1000, mean_block_bars=1, confidence=0.95)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 40])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    scores = np.random.default_rng(n).standard_normal((3, n))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=1))


def test_one_wild_seed_does_not_decide() -> None:
    scores = np.array([[1.0], [1.1], [0.9], [50.0]])
    found = interquartile_mean_interval(scores, CONFIG, np.random.default_rng(0))
    assert found.estimate == pytest.approx(1.05)
    assert found.lower < found.estimate < found.upper


def test_seeds_are_drawn_within_their_history() -> None:
    """Two histories of their own level: no resample mixes them, and without spread over seeds there is no interval."""
    scores = np.tile([1.0, 9.0], (5, 1))
    found = interquartile_mean_interval(scores, CONFIG, np.random.default_rng(0))
    assert (found.lower, found.upper) == (found.estimate, found.estimate)
    with pytest.raises(ValueError, match=r"shape \(S, P\)"):
        interquartile_mean_interval(np.ones(3), CONFIG, np.random.default_rng(0))


def test_a_profile_counts_the_scores_above() -> None:
    scores = np.array([[0.1, 0.4], [0.2, 0.8]])
    found = performance_profile(scores, np.array([0.0, 0.3, 0.8]), CONFIG, np.random.default_rng(0))
    np.testing.assert_allclose(found.share, [1.0, 0.5, 0.0])
    assert (found.lower <= found.share).all()
    assert (found.share <= found.upper).all()
