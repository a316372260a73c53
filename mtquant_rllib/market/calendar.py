"""The trading day: from 17:00 to 17:00 in New York, whatever that is in UTC on the day.

Overnight financing is charged on the book held through each 17:00 New York instant of Monday to Friday; the instant of
an instrument's triple day counts three, for the weekend that settlement skips, so that a week always sums to seven. An
instrument without a triple day is traded on all seven days, and pays for each of them.
Daylight saving moves these instants by an hour in UTC, at dates that differ from Europe's; a fixed UTC hour would be
wrong for months. Labels of daily bars are dates and need no clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

NEW_YORK = "America/New_York"
ROLLOVER_HOUR = 17
"""New York hour at which the foreign exchange day ends and financing is charged."""

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# 1970-01-01 was a Thursday; counted from the Monday before it, `days // 7` is a week and `days % 7` a weekday.
_MONDAY_SHIFT = 3


_YEAR = np.timedelta64(int(365.25 * 86400), "s")
HOLE = np.timedelta64(14, "D")
"""No market closes for two weeks: a longer stretch without bars is one that the source lacks."""


def bars_per_year(timestamps: np.ndarray) -> float:
    """Bars a year of timestamps (T,) in order of time, holes left out of both; NaN for fewer than two."""
    steps = np.diff(timestamps)
    known = steps[steps <= HOLE]
    if len(known) == len(steps):
        return float(len(steps) / ((timestamps[-1] - timestamps[0]) / _YEAR)) if len(steps) else float("nan")
    return float(len(known) / (known.sum() / _YEAR)) if len(known) else float("nan")


def without_holes(timestamps: np.ndarray) -> np.ndarray:
    """Timestamps (T,) in order of time with every hole closed: those after it are earlier by its length. Never more
    than the timestamps themselves where there is none; a timestamp's own does not depend on later ones."""
    steps = np.diff(timestamps)
    hole = steps > HOLE
    if not hole.any():
        return timestamps
    return timestamps - np.concatenate(
        ([np.timedelta64(0, "s")], np.cumsum(np.where(hole, steps, np.timedelta64(0, "s"))))
    )


def closed_hours(timestamps: np.ndarray, opens: str, closes: str) -> np.ndarray:
    """bool (T,): UTC moments outside a session in New York time.

    A session that closes no later than it opens goes over midnight: its week begins on Sunday at `opens` and ends on
    Friday at `closes`, with a break between the two where they differ ("18:00" to "17:00"). One that opens before it
    closes ("09:30" to "16:00") is of Monday to Friday.
    """
    local = local_time(timestamps)
    day, minute = weekday(local), (local - local.astype("datetime64[D]")).astype(np.int64) // 60
    start, end = (60 * int(text[:2]) + int(text[3:]) for text in (opens, closes))
    if start < end:
        return (day >= 5) | (minute < start) | (minute >= end)
    over = (day == 5) | ((day == 4) & (minute >= end)) | ((day == 6) & (minute < start))
    return over | ((minute >= end) & (minute < start))


def local_time(timestamps: np.ndarray, zone: str = NEW_YORK) -> np.ndarray:
    """Wall clock of a zone: datetime64[s] (T,) from UTC datetime64 (T,), daylight saving included."""
    index = pd.DatetimeIndex(np.asarray(timestamps).astype("datetime64[s]")).tz_localize("UTC").tz_convert(zone)
    return np.asarray(index.tz_localize(None).to_numpy(), dtype="datetime64[s]")


def utc_time(local: np.ndarray, zone: str = NEW_YORK) -> np.ndarray:
    """UTC datetime64[s] (T,) of wall-clock times. Times that do not exist move forward; doubtful ones are the later."""
    index = pd.DatetimeIndex(np.asarray(local).astype("datetime64[s]"))
    standard = np.zeros(len(index), dtype=bool)
    aware = index.tz_localize(zone, ambiguous=standard, nonexistent="shift_forward")
    return np.asarray(aware.tz_convert("UTC").tz_localize(None).to_numpy(), dtype="datetime64[s]")


def weekday(dates: np.ndarray) -> np.ndarray:
    """0 Monday .. 6 Sunday, int64 (T,), of datetime64 dates."""
    return (np.asarray(dates).astype("datetime64[D]").astype(np.int64) + _MONDAY_SHIFT) % 7


def trading_date(timestamps: np.ndarray) -> np.ndarray:
    """Date datetime64[D] (T,) on which the trading day of a UTC moment ends; the weekend belongs to Monday."""
    ends_on = (local_time(timestamps) + np.timedelta64(24 - ROLLOVER_HOUR, "h")).astype("datetime64[D]")
    return np.busday_offset(ends_on, 0, roll="forward")


def trading_day(timestamps: np.ndarray, daily: bool) -> np.ndarray:
    """int64 (T,): changes exactly where a new trading day begins (days since 1970 of its date).

    Daily bars: every row is a day of its own. Intraday: 17:00 to 17:00 New York, bars of the weekend with Monday's.
    """
    if daily:
        return np.asarray(timestamps).astype("datetime64[D]").astype(np.int64)
    return trading_date(timestamps).astype(np.int64)


def _nights_before(dates: np.ndarray, triple_day: str | None) -> np.ndarray:
    """Weighted nights from a fixed Monday up to, not including, each date: int64 (T,)."""
    weights = np.ones(7, dtype=np.int64)
    if triple_day is not None:
        weights[5:] = 0
        weights[_WEEKDAYS.index(triple_day)] = 3
    up_to = np.concatenate(([0], np.cumsum(weights)[:-1]))
    days = dates.astype("datetime64[D]").astype(np.int64) + _MONDAY_SHIFT
    return (days // 7) * int(weights.sum()) + up_to[days % 7]


def financing_nights(timestamps: np.ndarray, daily: bool, triple_days: Sequence[str | None]) -> np.ndarray:
    """Nights of financing a book held from row t-1 to row t pays for: float64 (T, n_instruments), row 0 is 0.

    Counts the 17:00 New York instants of Monday to Friday, the instrument's triple day three times; without one, those
    of all seven days.

    Parameters
    ----------
    timestamps
        UTC datetime64 (T,), increasing.
    daily
        Timestamps are dates: the night of date d falls between rows t-1 and t if label_{t-1} <= d < label_t. Otherwise
        an instant counts if it lies in (timestamp_{t-1}, timestamp_t].
    triple_days
        One of Mon..Fri per instrument, None for one that is traded on all seven days.
    """
    if daily:
        reached = np.asarray(timestamps).astype("datetime64[D]")
    else:
        # The date of an instant is behind us once the local clock has reached 17:00 of it.
        reached = (local_time(timestamps) + np.timedelta64(24 - ROLLOVER_HOUR, "h")).astype("datetime64[D]")
    nights = np.zeros((len(reached), len(triple_days)))
    for day in dict.fromkeys(triple_days):
        columns = [i for i, own in enumerate(triple_days) if own == day]
        nights[1:, columns] = np.diff(_nights_before(reached, day))[:, None]
    return nights


def rollover_bar(timestamps: np.ndarray, daily: bool) -> np.ndarray:
    """bool (T,): intraday bars that open at, or less than an hour after, a 17:00 New York instant of Monday to Friday.

    Liquidity is thin there and spreads widen. All False for daily bars.
    """
    if daily:
        return np.zeros(len(timestamps), dtype=bool)
    local = local_time(timestamps)
    hour = (local - local.astype("datetime64[D]")) // np.timedelta64(1, "h")
    return (hour == ROLLOVER_HOUR) & (weekday(local) < 5)
