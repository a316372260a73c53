"""Circuit breakers: thresholds, cooldowns, latches, and what each level asks for."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.risk.breakers import Breakers

CONFIG = Settings.load().risk.breakers
START = 100_000.0
WEIGHTS = np.array([[0.4, -0.2]])
ALL = np.array([True])
TRADABLE = np.ones((1, 2), dtype=bool)


def fresh() -> Breakers:
    return Breakers(CONFIG, np.array([START]), n_instruments=2)


def fire(breakers: Breakers, equity: float) -> int:
    return int(breakers.mark(np.array([equity]), WEIGHTS)[0])


@pytest.mark.parametrize(
    ("equity", "level"),
    [(95_001, 0), (95_000, 1), (90_001, 1), (90_000, 2), (85_000, 3), (80_001, 3), (80_000, 4), (0, 4), (-5_000, 4)],
)
def test_thresholds_are_inclusive(equity: float, level: int) -> None:
    assert fire(fresh(), equity) == level


def test_a_falling_day_climbs_the_levels_and_a_rise_does_not_step_down() -> None:
    breakers = fresh()
    assert [fire(breakers, equity) for equity in (96e3, 95e3, 94e3, 90e3, 97e3, 89e3, 85e3, 80e3)] == [
        0,
        1,
        0,
        2,
        0,
        0,
        3,
        4,
    ]
    assert breakers.level.tolist() == [4]
    assert breakers.n_triggers.tolist() == [[1, 1, 1, 1]]


def test_level_one_caps_each_position_at_half_for_one_bar() -> None:
    breakers = fresh()
    fire(breakers, 95_000)
    limits = breakers.limits()
    assert limits.cap_abs is not None
    assert limits.cap_abs.tolist() == [[0.2, 0.1]]
    assert limits.no_increase is limits.flatten is limits.var_limit_scale is None
    breakers.after_fills(TRADABLE)
    assert breakers.limits().cap_abs is None


def test_a_cap_waits_for_an_instrument_without_a_bar() -> None:
    breakers = fresh()
    fire(breakers, 95_000)
    breakers.after_fills(np.array([[True, False]]))
    cap = breakers.limits().cap_abs
    assert cap is not None
    assert cap.tolist() == [[np.inf, 0.1]]
    breakers.after_fills(TRADABLE)
    assert breakers.limits().cap_abs is None


def test_level_two_binds_three_bars_through_a_new_day() -> None:
    breakers = fresh()
    fire(breakers, 90_000)
    for _ in range(3):
        breakers.start_day(np.array([90_000.0]), ALL)
        limits = breakers.limits()
        assert limits.no_increase is not None
        assert limits.var_limit_scale is not None
        assert limits.no_increase.tolist() == [True]
        assert limits.var_limit_scale.tolist() == [0.5]
        breakers.after_fills(TRADABLE)
    assert breakers.limits().no_increase is None


def test_a_gap_through_two_levels_takes_the_actions_of_both() -> None:
    breakers = fresh()
    fire(breakers, 90_000)
    cap = breakers.limits().cap_abs
    assert cap is not None
    assert cap.tolist() == [[0.2, 0.1]]


def test_higher_levels_fire_during_a_cooldown_and_the_same_level_does_not() -> None:
    breakers = fresh()
    fire(breakers, 90_000)
    breakers.after_fills(TRADABLE)
    breakers.start_day(np.array([90_000.0]), ALL)
    assert fire(breakers, 81_000) == 1  # another 10%: level 2 still cools down, level 1 no longer does
    assert fire(breakers, 76_500) == 3  # 15% of the new start


def test_a_level_whose_cooldown_has_run_out_fires_if_the_loss_still_stands() -> None:
    breakers = fresh()
    fire(breakers, 95_000)
    breakers.start_day(np.array([95_000.0]), ALL)
    assert fire(breakers, 90_250) == 0  # at the open, before the fills that the first trigger binds
    breakers.after_fills(TRADABLE)
    assert fire(breakers, 90_250) == 1


def test_level_three_latches_until_flat_and_a_new_day_or_a_hand() -> None:
    breakers = fresh()
    fire(breakers, 85_000)
    flatten = breakers.limits().flatten
    assert flatten is not None
    assert flatten.tolist() == [True]
    # The day changes before the flattening order has filled: the latch must hold through that fill.
    breakers.start_day(np.array([85_000.0]), ALL, flat=np.array([False]))
    assert breakers.limits().flatten is not None
    breakers.after_fills(TRADABLE)
    breakers.start_day(np.array([84_000.0]), ALL)
    assert breakers.limits().flatten is not None
    breakers.start_day(np.array([84_000.0]), ALL, flat=np.array([True]))
    assert breakers.limits().flatten is None
    assert breakers.n_releases.tolist() == [1]

    by_hand = fresh()
    fire(by_hand, 85_000)
    by_hand.reset_by_hand(ALL)
    assert by_hand.limits().flatten is None


def test_level_four_is_not_lifted_by_hand_but_by_a_new_start() -> None:
    breakers = fresh()
    fire(breakers, 64_000)
    breakers.reset_by_hand(ALL)
    assert breakers.latched.tolist() == [4]
    breakers.restart(ALL, np.array([START]))
    assert breakers.latched.tolist() == breakers.level.tolist() == [0]
    limits = breakers.limits()
    assert limits.cap_abs is limits.no_increase is limits.flatten is limits.var_limit_scale is None


def test_environments_do_not_touch_each_other_and_a_masked_one_has_no_mark() -> None:
    breakers = Breakers(CONFIG, np.full(3, START), n_instruments=2)
    weights = np.repeat(WEIGHTS, 3, axis=0)
    fired = breakers.mark(np.array([94_000.0, 99_000.0, 79_000.0]), weights, np.array([True, True, False]))
    assert fired.tolist() == [1, 0, 0]
    cap = breakers.limits().cap_abs
    assert cap is not None
    assert cap.tolist() == [[0.2, 0.1], [np.inf, np.inf], [np.inf, np.inf]]
    np.testing.assert_allclose(breakers.day_loss(np.array([94_000.0, 99_000.0, 79_000.0])), [0.06, 0.01, 0.21])
