"""Reading time: from a file's dates, clocks and epochs to UTC, or to the date a daily bar is labelled with.

A stamp is the broker's wall clock, UTC, or a clock with its offset. Nothing here is guessed silently: 03/04/2019 is
refused until a date format is named, and server time is UTC unless a time zone is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mtquant_rllib.config.market import parse_timezone
from mtquant_rllib.market.calendar import ROLLOVER_HOUR, local_time

ACCEPTED = (
    "2019-02-15, 2019.02.15 14:00, 2019-02-15T14:00:00Z, 2019-02-15 14:00:00-05:00, 20190215 140000, 15.02.2019 14:00, "
    "seconds since 1970, or an explicit date_format"
)

_DAY = np.timedelta64(1, "D")
_ISO = re.compile(r"^(\d{4})([.\-/])\d{1,2}\2\d{1,2}")
_COMPACT = re.compile(r"^\d{8}(?=$|[ T]\d)")
_REVERSED = re.compile(r"^(\d{1,2})([.\-/])(\d{1,2})\2(\d{4})")
_EPOCH = re.compile(r"^\d{9,19}(\.0*)?$")
_CLOCK = re.compile(r"^(\d{1,2}):(\d{2})(:\d{2})?(\.\d+)?$")
_ZONE = re.compile(r"\s*(Z|UTC|(?:GMT|UTC)?[+-]\d{2}:?\d{2})$")


class AmbiguousDate(ValueError):
    """Day and month cannot be told apart anywhere in the file."""


@dataclass(frozen=True)
class Clock:
    """Parsed stamps: `wall` datetime64[s] (R,) as written, `offset_s` int64 (R,) or None, `bad` bool (R,)."""

    wall: np.ndarray
    offset_s: np.ndarray | None
    bad: np.ndarray
    wording: str


def _epoch_unit(magnitude: float) -> str:
    return "s" if magnitude < 1e11 else "ms" if magnitude < 1e14 else "us" if magnitude < 1e17 else "ns"


def from_epochs(values: np.ndarray) -> Clock:
    """Seconds (or milli-, micro-, nanoseconds) since 1970, int64 or float64 (R,); NaN is bad."""
    known = np.isfinite(values) & (np.abs(values) > 1e8)
    unit = _epoch_unit(float(np.median(values[known]))) if known.any() else "s"
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds = np.where(known, values, 0) / per_second
    fits = known & (seconds > 0) & (seconds < 32503680000)
    wall = np.where(fits, seconds, 0).astype(np.int64).astype("datetime64[s]")
    return Clock(wall, None, ~fits, f"epoch {unit}")


def from_datetimes(series: pd.Series) -> Clock:
    """Typed timestamps or dates of a Parquet file, with or without a zone."""
    offset = None
    index = pd.DatetimeIndex(pd.to_datetime(series, errors="coerce"))
    bad = np.asarray(index.isna())
    if index.tz is not None:
        utc = np.asarray(index.tz_convert("UTC").tz_localize(None).to_numpy(), dtype="datetime64[s]")
        wall = np.asarray(index.tz_localize(None).to_numpy(), dtype="datetime64[s]")
        offset = np.where(bad, 0, (wall - utc).astype(np.int64))
    else:
        wall = np.asarray(index.to_numpy(), dtype="datetime64[s]")
    wall = np.where(bad, np.datetime64(0, "s"), wall)
    return Clock(wall, offset, bad, "timestamps" + ("" if offset is None else " with zone"))


def _day_first(texts: pd.Series, separator: str) -> bool:
    """15/02/2019 or 02/15/2019? Told by any number above 12; a dot means day first. Raises AmbiguousDate."""
    if separator == ".":
        return True
    parts = texts.str.extract(_REVERSED)
    first, second = pd.to_numeric(parts[0]), pd.to_numeric(parts[2])
    if bool((first > 12).any()):
        return True
    if bool((second > 12).any()):
        return False
    raise AmbiguousDate


def _date_format(sample: str, texts: pd.Series) -> tuple[str, int] | None:
    """(strptime pattern, characters used) of the date at the start of `sample`."""
    if iso := _ISO.match(sample):
        return f"%Y{iso[2]}%m{iso[2]}%d", iso.end()
    if compact := _COMPACT.match(sample):
        return "%Y%m%d", compact.end()
    if reverse := _REVERSED.match(sample):
        separator = reverse[2]
        day_first = _day_first(texts, separator)
        return f"%d{separator}%m{separator}%Y" if day_first else f"%m{separator}%d{separator}%Y", reverse.end()
    return None


def _clock_format(text: str) -> str | None:
    """strptime pattern of a clock time such as 14:00, 14:00:00.000 or 140000; None if it is none."""
    if match := _CLOCK.match(text):
        return "%H:%M" + (":%S" if match[3] else "") + (".%f" if match[4] else "")
    if re.fullmatch(r"\d{6}", text):
        return "%H%M%S"
    if re.fullmatch(r"\d{4}", text):
        return "%H%M"
    return None


def from_texts(dates: pd.Series, times: pd.Series | None, date_format: str | None) -> Clock:
    """Parse strings. Raises AmbiguousDate; everything else unparsable is marked in `bad`.

    Parameters
    ----------
    dates, times
        str (R,): full stamps, or dates with clock times in a second column.
    date_format
        strptime pattern of the date (or of the whole stamp); None reads it off the file.
    """
    dates = dates.str.strip()
    sample = [text for text in dates.iloc[:8] if text]
    if times is None and date_format is None and sum(bool(_EPOCH.match(text)) for text in sample) * 2 > len(sample):
        # Eight digits are a date such as 20190215, nine and more a count of seconds.
        return from_epochs(np.asarray(pd.to_numeric(dates, errors="coerce"), dtype=np.float64))
    texts = dates if times is None else dates + " " + times.str.strip()
    texts, offset, zone_bad, zone = _split_zone(texts)
    pattern = date_format
    if pattern is None or "%H" not in pattern:
        pattern = _whole_format(texts, date_format)
    if pattern is None:
        everything = np.ones(len(texts), dtype=bool)
        return Clock(np.zeros(len(texts), dtype="datetime64[s]"), None, everything, "unreadable stamps")
    wall = np.asarray(pd.to_datetime(texts, format=pattern, errors="coerce").to_numpy(), dtype="datetime64[s]")
    bad = np.isnat(wall) | zone_bad
    return Clock(np.where(bad, np.datetime64(0, "s"), wall), offset, bad, f"stamps {pattern}{zone}")


def _whole_format(texts: pd.Series, date_format: str | None) -> str | None:
    """The pattern most of the first rows have, so that one broken row at the top does not decide."""
    votes: dict[str, int] = {}
    for text in texts.iloc[:9]:
        if date_format is not None:
            head, _, _ = text.partition(" ")
            found: tuple[str, int] | None = (date_format, len(head)) if head else None
            if date_format.count(" "):
                found = (date_format, len(text))
        else:
            found = _date_format(text, texts)
        if found is None:
            continue
        pattern, used = found
        rest = text[used:]
        if rest:
            gap = rest[: len(rest) - len(rest.lstrip(" T"))]
            clock = _clock_format(rest[len(gap) :])
            if clock is None or not gap:
                continue
            pattern += gap + clock
        votes[pattern] = votes.get(pattern, 0) + 1
    return max(votes, key=lambda key: votes[key]) if votes else None


def _split_zone(texts: pd.Series) -> tuple[pd.Series, np.ndarray | None, np.ndarray, str]:
    """Cut `Z` or `-05:00` off. Returns (texts, offset seconds or None, rows without the offset the others have,
    wording)."""
    zones = texts.str.extract(_ZONE, expand=False)
    has = zones.notna().to_numpy()
    if 2 * np.count_nonzero(has[:9]) <= len(has[:9]):
        return texts, None, np.zeros(len(texts), dtype=bool), ""
    codes, unique = pd.factorize(zones)
    seconds = np.array([_offset_seconds(str(zone)) for zone in unique] + [0])
    return texts.str.replace(_ZONE, "", regex=True), seconds[codes], ~has, f" with offset {', '.join(map(str, unique))}"


def _offset_seconds(zone: str) -> int:
    digits = re.sub(r"[^\d]", "", zone)
    if not digits:
        return 0
    sign = -1 if "-" in zone else 1
    return sign * (int(digits[:2]) * 3600 + int(digits[2:4]) * 60)


def to_utc(wall: np.ndarray, timezone: str, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(UTC datetime64[s] (R,), bool (R,) of clock times that never were) from a broker's wall clock.

    In the hour that a clock repeats in autumn, the first bar of a stamp is read as the earlier moment, a second as the
    later.

    Parameters
    ----------
    groups
        int (R,): which series a row belongs to, so that two instruments at one stamp are not taken for a repeated hour.
    """
    zone, ahead_h = parse_timezone(timezone)
    local = wall - np.timedelta64(round(ahead_h * 3600), "s")
    if zone.key == "UTC":
        return local, np.zeros(len(wall), dtype=bool)
    index = pd.DatetimeIndex(local)

    def localized(summer: bool) -> pd.DatetimeIndex:
        aware = index.tz_localize(zone, ambiguous=np.full(len(index), summer), nonexistent="NaT")
        return aware.tz_convert("UTC").tz_localize(None)

    earlier = np.asarray(localized(True).to_numpy(), dtype="datetime64[s]")
    later = np.asarray(localized(False).to_numpy(), dtype="datetime64[s]")
    missing = np.isnat(earlier)
    utc = earlier
    doubtful = ~missing & (earlier != later)
    if doubtful.any():
        again = pd.DataFrame({"wall": local, "group": groups}).duplicated().to_numpy()
        utc = np.where(doubtful & again, later, earlier)
    return np.where(missing, np.datetime64(0, "s"), utc), missing


def is_midnight(stamps: np.ndarray) -> np.ndarray:
    """bool (R,): the clock shows 00:00:00."""
    return stamps == stamps.astype("datetime64[D]").astype("datetime64[s]")


def at_rollover(stamps: np.ndarray) -> np.ndarray:
    """bool (R,): UTC moments that are 17:00 in New York, where daily bars of foreign exchange open."""
    local = local_time(stamps)
    return local - local.astype("datetime64[D]") == np.timedelta64(ROLLOVER_HOUR, "h")
