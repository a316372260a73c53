"""The average of the weights: what it is, where it begins, and that it goes on where it stood."""

import numpy as np
import pytest

from mtquant_rllib.training.algorithm.weight_average import WeightAverage


def states(value: float) -> dict[str, dict[str, np.ndarray]]:
    return {"EURUSD": {"policy.head.weight": np.full((2, 3), value, dtype=np.float32)}}


def value_of(average: WeightAverage) -> float:
    averaged = average.of(states(np.nan))
    assert averaged is not None
    return float(averaged["EURUSD"]["policy.head.weight"][0, 0])


def test_without_a_window_or_an_update_there_is_no_average() -> None:
    average = WeightAverage(None)
    average.take_in(states(1.0))
    assert average.of(states(5.0)) is None
    assert WeightAverage(3).of(states(5.0)) is None


def test_a_young_average_weighs_the_nth_update_by_n() -> None:
    average = WeightAverage(1000)
    for value in (1.0, 10.0, 100.0):
        average.take_in(states(value))
    assert value_of(average) == pytest.approx((1 * 1 + 2 * 10 + 3 * 100) / 6, rel=1e-5)


def test_a_long_series_is_averaged_over_the_window() -> None:
    """Of independent noise an exponential average of n updates keeps 1 / sqrt(2 n - 1) of the deviation."""
    rng = np.random.default_rng(0)
    average, seen = WeightAverage(33), []
    for value in rng.standard_normal(4000):
        average.take_in(states(float(value)))
        seen.append(value_of(average))
    assert np.std(seen[200:]) == pytest.approx(1 / np.sqrt(2 * 33 - 1), rel=0.15)


def test_the_first_weights_do_not_linger() -> None:
    average = WeightAverage(33)
    average.take_in(states(100.0))
    for _ in range(50):
        average.take_in(states(1.0))
    assert value_of(average) == pytest.approx(1.0, abs=0.1)


def test_what_does_not_learn_is_handed_through_untouched() -> None:
    average = WeightAverage(5)
    average.take_in(states(1.0))
    frozen = {"GBPUSD": {"policy.head.weight": np.ones(1, dtype=np.float32)}}
    averaged = average.of({**states(2.0), **frozen})
    assert averaged is not None
    assert averaged["GBPUSD"] is frozen["GBPUSD"]


def test_a_restored_average_goes_on_to_the_bit() -> None:
    one, other = WeightAverage(7), WeightAverage(7)
    values = np.random.default_rng(1).standard_normal(20)
    for value in values[:10]:
        one.take_in(states(float(value)))
    other.set_state(one.get_state())
    for value in values[10:]:
        one.take_in(states(float(value)))
        other.take_in(states(float(value)))
    assert value_of(one) == value_of(other)
