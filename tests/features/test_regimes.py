"""Regime detectors on paths drawn by hand, and their shares on the real bars."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.features import regimes
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.regimes import Regime, detect, measure
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.market.bars import MarketData


@pytest.fixture(scope="module")
def fixed() -> Settings:
    return Settings.load(overrides=["features.regimes.detector=fixed"])


def label_of(returns: list[float], settings: Settings) -> Regime:
    labels, _ = detect(np.array(returns)[:, None], settings.features.regimes)
    return Regime(int(labels[-1, 0]))


def test_fixed_labels_of_plain_histories(fixed: Settings) -> None:
    assert label_of([0.004] * 20, fixed) is Regime.BULL  # 19 steps of .4% fit a move of 7.6%
    assert label_of([-0.004] * 20, fixed) is Regime.BEAR
    assert label_of([0.002] * 20, fixed) is Regime.SIDEWAYS  # 3.8%
    assert label_of([0.03, -0.03] * 10, fixed) is Regime.VOLATILE


def test_trend_is_the_fitted_move_over_the_window(settings: Settings) -> None:
    returns = np.full((20, 1), 0.01)
    measured = measure(returns, 20)
    assert measured.trend[-1, 0] == pytest.approx(19 * np.log(1.01))
    assert measured.momentum[-1, 0] == pytest.approx(0.20)
    assert measured.volatility[-1, 0] == pytest.approx(0)


def test_trailing_quantiles_equal_numpy(settings: Settings) -> None:
    config = settings.features.regimes.model_copy(
        update={"adaptive": settings.features.regimes.adaptive.model_copy(update={"quantile_window_bars": 100})}
    )
    returns = 0.01 * np.random.default_rng(0).standard_normal((400, 1))
    measured = measure(returns, config.window_bars)
    one = regimes.RegimeMeasures(measured.volatility[:, 0], measured.momentum[:, 0], measured.trend[:, 0])
    thresholds = regimes.adaptive_thresholds(one, config)
    for t in (120, 250, 399):
        window = slice(t - 99, t + 1)
        expected = [
            *np.nanquantile(one.volatility[window], [0.85, 0.75]),
            *np.nanquantile(np.abs(one.trend[window]), [0.50, 0.35]),
        ]
        np.testing.assert_allclose(thresholds[t], expected, rtol=1e-12)


def test_fixed_values_hold_until_there_are_sixty_measures(settings: Settings) -> None:
    config = settings.features.regimes
    measured = measure(0.01 * np.random.default_rng(0).standard_normal((100, 1)), config.window_bars)
    one = regimes.RegimeMeasures(measured.volatility[:, 0], measured.momentum[:, 0], measured.trend[:, 0])
    thresholds = regimes.adaptive_thresholds(one, config)
    sixtieth = 19 + 59
    assert (thresholds[:sixtieth] == [0.02, 0.02, 0.05, 0.05]).all()
    assert (thresholds[sixtieth] != [0.02, 0.02, 0.05, 0.05]).all()


def test_a_label_must_hold_three_bars_and_is_left_late() -> None:
    volatility = np.array([1, 9, 9, 1, 9, 9, 9, 6, 6, 6, 4, 4, 4, 4.0])
    calm = np.zeros(len(volatility))
    thresholds = np.tile([8.0, 5.0, 1.0, 0.5], (len(volatility), 1))
    labels = regimes._with_hysteresis(regimes.RegimeMeasures(volatility, calm, calm), thresholds, 3)
    volatile = [label == Regime.VOLATILE for label in labels]
    # Two bars above 8 are not enough; the third of the second run is; 6 is above the leaving 5; 4 must hold as well.
    assert volatile == [False] * 6 + [True] * 6 + [False] * 2


def test_a_trend_against_its_momentum_is_no_trend() -> None:
    trend, momentum = np.full(5, 2.0), np.full(5, -1.0)
    thresholds = np.tile([8.0, 5.0, 1.0, 0.5], (5, 1))
    labels = regimes._with_hysteresis(regimes.RegimeMeasures(np.zeros(5), momentum, trend), thresholds, 3)
    assert (labels == Regime.SIDEWAYS).all()


def test_confidence_is_the_distance_to_the_nearest_threshold(fixed: Settings) -> None:
    _, confidence = detect(np.full((20, 1), 0.004), fixed.features.regimes)
    trend = 19 * np.log(1.004)
    assert confidence[-1, 0] == pytest.approx((trend - 0.05) / 0.05, rel=1e-5)


# The shares of the document's detector and of the adaptive one on eight instruments, 2007-2022.


@pytest.fixture(scope="module")
def labels(real_bars: MarketData, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    table = build_features(settings, [real_bars], None)
    common = np.flatnonzero(real_bars.valid.all(axis=1))[20:]
    return table.regime[common], real_bars.timestamps[common]


def shares(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels, minlength=len(Regime)) / len(labels)


def test_adaptive_shares_on_real_bars(labels: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(shares(labels[0]), [0.26, 0.13, 0.17, 0.44], atol=0.01)


def test_adaptive_regimes_last_for_weeks(labels: tuple[np.ndarray, np.ndarray]) -> None:
    starts = np.flatnonzero(np.diff(labels[0], prepend=-1))
    lengths = np.diff(np.append(starts, len(labels[0])))
    means = [lengths[labels[0][starts] == regime].mean() for regime in Regime]
    np.testing.assert_allclose(means, [16, 16, 43, 18], atol=1.5)


def test_march_2020_is_wholly_volatile(labels: tuple[np.ndarray, np.ndarray]) -> None:
    month = labels[1].astype("datetime64[M]") == np.datetime64("2020-03")
    assert month.sum() > 15
    assert (labels[0][month] == Regime.VOLATILE).all()


def test_a_third_of_2017_is_bull(labels: tuple[np.ndarray, np.ndarray]) -> None:
    year = labels[1].astype("datetime64[Y]") == np.datetime64("2017")
    assert shares(labels[0][year])[Regime.BULL] == pytest.approx(1 / 3, abs=0.05)


def test_the_fixed_detector_calls_nearly_everything_sideways(real_bars: MarketData, fixed: Settings) -> None:
    table: FeatureTable = build_features(fixed, [real_bars], None)
    common = np.flatnonzero(real_bars.valid.all(axis=1))[20:]
    np.testing.assert_allclose(shares(table.regime[common]), [0.036, 0.034, 0.024, 0.905], atol=0.004)
