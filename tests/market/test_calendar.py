"""Nights of financing, trading days and rollovers follow New York's clock through both of its changes."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.market.calendar import financing_nights, local_time, rollover_bar, trading_day, utc_time

NEW_YORK = ZoneInfo("America/New_York")


def timestamps(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[s]")


def hours(start: str, stop: str) -> np.ndarray:
    return np.arange(np.datetime64(start, "s"), np.datetime64(stop, "s"), np.timedelta64(1, "h"))


def test_a_week_of_daily_bars_pays_seven_nights_three_of_them_on_the_triple_day() -> None:
    week = timestamps(*(f"2024-01-{d:02d}" for d in (1, 2, 3, 4, 5, 8)))  # Monday to next Monday
    nights = financing_nights(week, True, ["Wed", "Fri"])
    assert nights[:, 0].tolist() == [0, 1, 1, 3, 1, 1]
    assert nights[:, 1].tolist() == [0, 1, 1, 1, 1, 3]


def test_a_missing_day_is_paid_by_the_next_bar() -> None:
    nights = financing_nights(timestamps("2024-01-02", "2024-01-04", "2024-01-16"), True, ["Wed"])
    # Tuesday and (triple) Wednesday; then Thursday, Friday, a full week, and Monday the 15th.
    assert nights[:, 0].tolist() == [0, 4, 2 + 7 + 1]


def test_an_intraday_bar_pays_the_instants_after_the_previous_and_up_to_itself() -> None:
    # Winter: 17:00 New York is 22:00 UTC. Tuesday 2024-01-09.
    bars = timestamps("2024-01-09T20:00:00", "2024-01-09T21:00:00", "2024-01-09T22:00:00", "2024-01-09T23:00:00")
    assert financing_nights(bars, False, ["Wed"])[:, 0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("day", "utc_hour"),
    [("2024-03-08", 22), ("2024-03-11", 21), ("2024-11-01", 21), ("2024-11-04", 22)],  # changes on March 10, November 3
)
def test_the_instant_moves_with_daylight_saving(day: str, utc_hour: int) -> None:
    bars = hours(f"{day}T00:00:00", f"{day}T23:30:00")
    nights = financing_nights(bars, False, ["Wed"])[:, 0]
    assert np.flatnonzero(nights).tolist() == [utc_hour]
    assert np.flatnonzero(rollover_bar(bars, False)).tolist() == [utc_hour]
    assert np.flatnonzero(np.diff(trading_day(bars, False))).tolist() in (
        [utc_hour - 1],
        [],
    )  # Friday evening is Monday


@pytest.mark.parametrize("triple", ["Mon", "Tue", "Wed", "Thu", "Fri"])
def test_every_hourly_week_sums_to_seven_also_across_clock_changes(triple: str) -> None:
    bars = hours("2024-01-01T00:00:00", "2025-01-01T00:00:00")
    nights = financing_nights(bars, False, [triple])[:, 0]
    ends_on = (local_time(bars) + np.timedelta64(7, "h")).astype("datetime64[D]")
    weeks = pd.Series(nights[1:]).groupby((ends_on[:-1].astype(int) + 3) // 7).sum()
    assert (weeks.iloc[1:-1] == 7).all()


@pytest.mark.slow
@given(st.lists(st.integers(0, 24 * 365 * 3), min_size=2, max_size=30, unique=True))
def test_nights_add_up_over_any_bars_and_equal_a_walk_through_the_days(offsets: list[int]) -> None:
    bars = np.datetime64("2022-01-01", "s") + np.sort(offsets).astype("timedelta64[h]")
    nights = financing_nights(bars, False, ["Wed"])[:, 0]
    count = 0
    day = dt.date(2021, 12, 30)
    first, last = (pd.Timestamp(b, tz="UTC").to_pydatetime() for b in (bars[0], bars[-1]))
    while day < dt.date(2025, 1, 5):
        instant = dt.datetime(day.year, day.month, day.day, 17, tzinfo=NEW_YORK)
        if day.weekday() < 5 and first < instant <= last:
            count += 3 if day.weekday() == 2 else 1
        day += dt.timedelta(days=1)
    assert nights[0] == 0
    assert nights.sum() == count


def test_daily_and_hourly_bars_pay_the_same_over_a_year() -> None:
    days = np.array(pd.bdate_range("2023-01-02", "2024-01-02"), dtype="datetime64[s]")
    # The close of each date, at 17:00 New York, as an intraday moment just after its instant was charged.
    closes = utc_time(days + np.timedelta64(17, "h"))
    assert financing_nights(days, True, ["Fri"]).sum() == financing_nights(closes, False, ["Fri"]).sum() == 366 - 1


def test_a_trading_day_runs_from_1700_to_1700_and_the_weekend_is_mondays() -> None:
    # Friday 21:00 UTC (16:00), Sunday 22:00 (17:00), Monday 21:00 (16:00), Monday 22:00 (17:00); winter.
    bars = timestamps("2024-01-05T21:00:00", "2024-01-07T22:00:00", "2024-01-08T21:00:00", "2024-01-08T22:00:00")
    ids = trading_day(bars, False)
    assert np.diff(ids).tolist() == [3, 0, 1]
    assert ids[0] == np.datetime64("2024-01-05", "D").astype(int)


def test_every_daily_row_is_a_day_and_none_is_a_rollover_bar() -> None:
    days = timestamps("2024-01-05", "2024-01-08")
    assert np.diff(trading_day(days, True)).tolist() == [3]
    assert not rollover_bar(days, True).any()


def test_quarter_hours_within_the_hour_after_the_rollover_are_marked_on_weekdays_only() -> None:
    bars = np.arange(
        np.datetime64("2024-01-05T21:30", "s"), np.datetime64("2024-01-05T23:30", "s"), np.timedelta64(15, "m")
    )
    assert rollover_bar(bars, False).tolist() == [False, False, True, True, True, True, False, False]
    assert not rollover_bar(timestamps("2024-01-07T22:00:00"), False).any()


def test_local_time_agrees_with_zoneinfo_hour_by_hour_through_a_year() -> None:
    bars = hours("2024-01-01T00:00:00", "2025-01-01T00:00:00")[::7]
    expected = [pd.Timestamp(b, tz="UTC").astimezone(NEW_YORK).replace(tzinfo=None) for b in bars]
    np.testing.assert_array_equal(local_time(bars), np.array(expected, dtype="datetime64[s]"))
