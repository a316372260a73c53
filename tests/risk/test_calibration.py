"""Calibration of a VaR forecast: against the quantile written out, causal, and the same day by day in the environments
as over a record."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.statistics.var_tests import judge_forecast
from mtquant_rllib.risk.calibration import VarCalibration, calibration_factors

SMALL = ["risk.var_calibration.window_days=40", "risk.var_calibration.min_days=20"]
CONFIG = Settings.load(overrides=SMALL).risk.var_calibration
CONFIDENCE = 0.95


def record(days: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 0.012 * rng.standard_t(4, days), rng.uniform(0.01, 0.03, days)


def test_a_factor_is_the_quantile_of_the_last_ratios() -> None:
    returns, forecast = record(100, 1)
    factors = calibration_factors(returns, forecast, CONFIDENCE, CONFIG)
    ratios = -returns / forecast
    for day in (21, 45, 99):
        # The forecast for a day is made while the day before it is still open.
        expected = np.quantile(ratios[max(day - 1 - 40, 0) : day - 1], CONFIDENCE)
        assert factors[day] == pytest.approx(np.clip(expected, 0.5, 2.0), rel=1e-12)
    assert (factors[:21] == 1).all(), "twenty days are known to the forecast of the twenty-second"


@pytest.mark.slow
def test_a_forecast_that_is_too_small_is_raised_to_its_coverage() -> None:
    """A constant forecast, 1.6 times too small. The factor is estimated from 250 days, and the dynamic quantile test
    can see its noise: where it is low, losses beyond it are more frequent."""
    rng = np.random.default_rng(2)
    returns = rng.normal(0, 0.01, 3000)
    forecast = np.full(3000, stats.norm.ppf(CONFIDENCE) * 0.01 / 1.6)
    config = Settings.load().risk.var_calibration
    scaled = forecast * calibration_factors(returns, forecast, CONFIDENCE, config)
    raw, calibrated = (
        judge_forecast(returns[400:], one[400:], CONFIDENCE, np.random.default_rng(0), 399)
        for one in (forecast, scaled)
    )
    assert raw is not None
    assert calibrated is not None
    assert raw.breach_rate > 0.12
    assert raw.rejected(0.05)
    assert calibrated.breach_rate == pytest.approx(0.05, abs=0.01)
    assert set(calibrated.rejected(0.05)) <= {"dynamic quantile"}


def test_no_factor_sees_its_own_day_nor_a_later_one() -> None:
    returns, forecast = record(100, 3)
    changed = returns.copy()
    changed[60:] *= -3
    before, after = (calibration_factors(one, forecast, CONFIDENCE, CONFIG) for one in (returns, changed))
    assert before[:62].tobytes() == after[:62].tobytes()
    assert (before[62:] != after[62:]).any()


def test_days_without_a_forecast_or_a_return_count_for_nothing() -> None:
    returns, forecast = record(80, 4)
    idle = np.zeros(80, dtype=bool)
    idle[10:30] = True
    even = np.arange(80) % 2 == 0
    with_gaps = np.where(idle & even, np.nan, returns), np.where(idle & ~even, 0.0, forecast)
    gaps = calibration_factors(*with_gaps, CONFIDENCE, CONFIG)
    without = calibration_factors(returns[~idle], forecast[~idle], CONFIDENCE, CONFIG)
    np.testing.assert_array_equal(gaps[31:], without[11:])


def test_the_raw_forecast_comes_back_from_the_calibrated_one() -> None:
    returns, forecast = record(200, 5)
    factors = calibration_factors(returns, forecast, CONFIDENCE, CONFIG)
    again = calibration_factors(returns, forecast * factors, CONFIDENCE, CONFIG, calibrated=True)
    np.testing.assert_allclose(again, factors, rtol=1e-12)


def test_environments_record_day_by_day_what_a_record_says_at_once() -> None:
    """Two accounts of three bars a day; the second rests for a while and holds nothing."""
    days, rng = 90, np.random.default_rng(6)
    state = VarCalibration(CONFIG, CONFIDENCE, 2)
    equity = np.array([100_000.0, 50_000.0])
    returns, made, used = np.zeros((2, days)), np.zeros((2, days)), np.zeros((2, days))
    for day in range(days):
        for bar in range(3):
            raw = rng.uniform(0.01, 0.03, 2)
            raw[1] *= not 30 <= day < 40
            state.at_close(equity, raw * state.factor)
            if bar == 0:
                made[:, day], used[:, day] = raw, state.factor
            state.begin_day(np.array([bar == 0, bar == 0]))
            step = 0.007 * rng.standard_t(4, 2)
            equity = equity * (1 + step)
            returns[:, day] = (1 + returns[:, day]) * (1 + step) - 1
    for env in range(2):
        expected = calibration_factors(returns[env], made[env], CONFIDENCE, CONFIG)
        np.testing.assert_allclose(used[env], expected, rtol=1e-9)
    assert (used[:, -1] != 1).all()
    state.restart(np.array([1]))
    assert state.factor[1] == 1
    assert state.factor[0] != 1


def test_bounds_and_days_are_checked() -> None:
    rising = calibration_factors(np.full(60, -0.5), np.full(60, 0.01), CONFIDENCE, CONFIG)
    assert rising[-1] == CONFIG.max_factor
    with pytest.raises(ConfigError, match="min_days 50 is more than window_days 40"):
        Settings.load(overrides=[*SMALL, "risk.var_calibration.min_days=50"])
