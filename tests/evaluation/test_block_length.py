"""Blocks as long as the series asks for: against the closed form of an autoregression, and where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.statistics.block_length import bootstrapped_mean, mean_block_length

N = 20_000


def autoregression(rho: float, n: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(n + 500)
    series: np.ndarray = lfilter([1], [1, -rho], noise)[500:]
    return series


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_an_autoregressions_block_is_politis_and_whites(rho: float) -> None:
    """R(k) = rho^|k| gives sum |k| R = 2 rho / (1 - rho)^2 and sum R = (1 + rho) / (1 - rho), so
    b = (2 rho / (1 - rho^2))^(2/3) n^(1/3)."""
    expected = (2 * rho / (1 - rho**2)) ** (2 / 3) * N ** (1 / 3)
    found = np.mean([mean_block_length(autoregression(rho, N, seed)) for seed in range(5)])
    assert found == pytest.approx(expected, rel=0.15)


def test_independent_rows_and_constant_ones_need_hardly_any_block() -> None:
    found = [mean_block_length(np.random.default_rng(seed).standard_normal(2000)) for seed in range(20)]
    assert np.median(found) < 5
    assert mean_block_length(np.ones(100)) == mean_block_length(np.arange(5.0)) == 1


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    """An autoregression of .8 around 0: rows taken as independent would cover it in half of the cases."""
    config = BootstrapConfig(resamples=200, mean_block_bars=1, confidence=0.9)
    hits = 0
    for seed in range(100):
        series = autoregression(0.8, 600, seed)
        interval = bootstrapped_mean(series, config, np.random.default_rng(seed))
        hits += interval.lower <= 0 <= interval.upper
    assert 80 <= hits <= 98


def test_the_configured_block_counts_bars_and_rows_may_lie_further_apart() -> None:
    """Noise that repeats for ten rows; blocks of 100 bars are 100 rows of one bar, or two of fifty."""
    rng = np.random.default_rng(0)
    series = rng.standard_normal(400)
    config = BootstrapConfig(resamples=400, mean_block_bars=200, confidence=0.95)
    widths = {}
    for spacing in (1.0, 400.0):
        interval = bootstrapped_mean(series, config, np.random.default_rng(1), spacing)
        widths[spacing] = interval.standard_error
    assert widths[400.0] == pytest.approx(series.std() / np.sqrt(400), rel=0.25)
    assert widths[1.0] != pytest.approx(widths[400.0], rel=0.05)
