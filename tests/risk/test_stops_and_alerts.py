"""Stops never loosen, gaps fill at the open, and alerts say what stands."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.risk import stops
from mtquant_rllib.risk.alerts import alerts

LONG, SHORT, FLAT = 1.0, -1.0, 0.0


def array(*values: float) -> np.ndarray:
    return np.array(values)


def test_a_new_stop_stands_k_atrs_beyond_the_fill() -> None:
    level = stops.entry_stop(array(100, 100, 100), array(LONG, SHORT, FLAT), array(2, 2, 2), array(3, 3, 3))
    np.testing.assert_array_equal(level, [94, 106, np.nan])


def test_a_long_stop_follows_the_close_up_and_never_down() -> None:
    level = array(94.0)
    for close, expected in ((104, 98), (101, 98), (106, 100), (60, 100)):
        level = stops.trail(level, array(LONG), array(close), array(2), array(3))
        assert level == expected


def test_a_wider_distance_asked_for_later_does_not_loosen_the_stop() -> None:
    assert stops.trail(array(98), array(LONG), array(104), array(2), array(5)) == 98
    assert stops.trail(array(98), array(LONG), array(104), array(2), array(1)) == 102


@given(
    closes=st.lists(st.floats(50, 150), min_size=1, max_size=20),
    distances=st.lists(st.floats(1, 5), min_size=20, max_size=20),
    side=st.sampled_from([LONG, SHORT]),
)
def test_stops_only_tighten_on_any_path(closes: list[float], distances: list[float], side: float) -> None:
    level = stops.entry_stop(array(100), array(side), array(2), array(3))
    for close, k in zip(closes, distances, strict=False):
        new = stops.trail(level, array(side), array(close), array(2), array(k))
        assert side * (new - level) >= 0
        level = new


def test_a_bar_without_data_keeps_the_level() -> None:
    assert stops.trail(array(94), array(LONG), array(np.nan), array(2), array(3)) == 94
    assert stops.trail(array(np.nan), array(LONG), array(100), array(2), array(3)) == 94


def test_additions_and_reductions_keep_the_stop_a_flip_resets_it_and_closing_removes_it() -> None:
    old = array(98, 98, 98, 98, np.nan)
    before = array(1, 2, 1, 1, 0)
    after = array(3, 1, -1, 0, 1)
    level = stops.after_fill(old, before, after, np.full(5, 100.0), np.full(5, 2.0), np.full(5, 3.0))
    np.testing.assert_array_equal(level, [98, 98, 106, np.nan, 94])


def test_an_open_beyond_the_stop_fills_at_the_open_and_a_touch_within_the_bar_at_the_level() -> None:
    level, side = array(98, 98, 98, 106), array(LONG, LONG, LONG, SHORT)
    opens, highs, lows = array(95, 99, 99, 110), array(99, 101, 101, 111), array(94, 98, 98.5, 100)
    assert stops.open_stop_hit(level, side, opens).tolist() == [True, False, False, True]
    assert stops.intrabar_stop_hit(level, side, highs, lows).tolist() == [True, True, False, True]


def test_nothing_is_hit_without_a_position_a_level_or_a_bar() -> None:
    level, side, price = array(98, np.nan, 98), array(FLAT, LONG, LONG), array(50, 50, np.nan)
    assert not stops.open_stop_hit(level, side, price).any()
    assert not stops.intrabar_stop_hit(level, side, price, price).any()


def test_stops_work_below_zero() -> None:
    assert stops.open_stop_hit(array(10), array(LONG), array(-14.0))


def test_a_stopped_side_is_not_entered_again_on_its_bar() -> None:
    assert stops.without_reentry(array(0.3, -0.3, 0.3), array(1, 1, 0)).tolist() == [0, -0.3, 0.3]


def test_alerts_stand_at_their_thresholds_and_breakers_outrank_them() -> None:
    config = Settings.load().risk.alerts
    found = alerts(
        position_return=np.array([[-0.03, 0.1], [-0.029, np.nan], [0.0, 0.0]]),
        day_return=np.array([0.0, -0.02, 0.0]),
        correlation_shift=np.array([0.3, 0.0, 0.31]),
        config=config,
    )
    assert found.position.tolist() == [[True, False], [False, False], [False, False]]
    assert found.day.tolist() == [False, True, False]
    assert found.correlation.tolist() == [False, False, True]
    np.testing.assert_allclose(found.level(np.array([0, 0, 0])), [[0.2, 0.0], [0.2, 0.2], [0.2, 0.2]])
    np.testing.assert_allclose(found.level(np.array([1, 4, 0])), [[0.4, 0.4], [1.0, 1.0], [0.2, 0.2]])
