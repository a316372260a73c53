"""Reading time: from a file's dates, clocks and epochs to UTC, or to the date a daily bar is labelled with.

A timestamp is the broker's wall clock, UTC, or a clock with its offset. Nothing here is guessed silently: 03/04/2019 is
refused until a date format is named, and server time is UTC unless a time zone is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mtquant_rllib.config.sections.market import parse_timezone
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
_VOTERS = 9
"""Rows at the top that decide how all are written."""
_ZONE = re.compile(r"\s*(Z|UTC|(?:GMT|UTC)?[+-]\d{2}:?\d{2})$")


class AmbiguousDate(ValueError):
    """Day and month cannot be told apart anywhere in the file."""


@dataclass(frozen=True)
class Clock:
    """Parsed timestamps: `wall` datetime64[s] (R,) as written, `offset_s` int64 (R,) or None, `bad` bool (R,)."""

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


def from_datetimes(column: pa.Array) -> Clock:
    """Typed timestamps or dates of a Parquet file, with or without a zone."""
    zone = getattr(column.type, "tz", None)
    try:
        utc = column.cast(pa.timestamp("s", tz=zone), safe=False)
        local = utc if zone is None else pc.local_timestamp(utc)
    except pa.ArrowException:
        everything = np.ones(len(column), dtype=bool)
        return Clock(np.zeros(len(column), dtype="datetime64[s]"), None, everything, f"timestamps of zone {zone!r}")
    bad = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    wall, moment = (
        np.where(
            bad, np.datetime64(0, "s"), np.asarray(timestamps.to_numpy(zero_copy_only=False), dtype="datetime64[s]")
        )
        for timestamps in (local, utc)
    )
    offset = None if zone is None else (wall - moment).astype(np.int64)
    return Clock(wall, offset, bad, "timestamps" + ("" if zone is None else " with zone"))


def _day_first(texts: pa.Array, separator: str) -> bool:
    """15/02/2019 or 02/15/2019? Told by any number above 12; a dot means day first. Raises AmbiguousDate."""
    if separator == ".":
        return True
    parts = pc.extract_regex(texts, r"^(?P<first>\d{1,2})[.\-/](?P<second>\d{1,2})[.\-/]\d{4}")
    for name, answer in (("first", True), ("second", False)):
        numbers = pc.cast(pc.struct_field(parts, name), pa.int64())
        if pc.any(pc.greater(numbers, 12)).as_py():
            return answer
    raise AmbiguousDate


def _date_format(sample: str, day_first: Callable[[str], bool]) -> tuple[str, int] | None:
    """(strptime pattern, characters used) of the date at the start of `sample`."""
    if iso := _ISO.match(sample):
        return f"%Y{iso[2]}%m{iso[2]}%d", iso.end()
    if compact := _COMPACT.match(sample):
        return "%Y%m%d", compact.end()
    if reverse := _REVERSED.match(sample):
        separator = reverse[2]
        order = ("%d", "%m", "%Y") if day_first(separator) else ("%m", "%d", "%Y")
        return separator.join(order), reverse.end()
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


def from_texts(dates: pa.Array, times: pa.Array | None, date_format: str | None) -> Clock:
    """Parse strings. Raises AmbiguousDate; everything else unparsable is marked in `bad`.

    Parameters
    ----------
    dates, times
        str (R,): full timestamps, or dates with clock times in a second column; nothing is missing.
    date_format
        strptime pattern of the date (or of the whole timestamp); None reads it off the file.
    """
    dates = pc.utf8_trim_whitespace(dates)
    sample = [text for text in dates[:8].to_pylist() if text]
    if times is None and date_format is None and sum(bool(_EPOCH.match(text)) for text in sample) * 2 > len(sample):
        # Eight digits are a date such as 20190215, nine and more a count of seconds.
        epochs = pc.if_else(pc.match_substring_regex(dates, _EPOCH.pattern), dates, pa.scalar(None, pa.string()))
        return from_epochs(np.array(pc.cast(epochs, pa.float64()).to_numpy(zero_copy_only=False)))
    texts = dates if times is None else pc.binary_join_element_wise(dates, pc.utf8_trim_whitespace(times), " ")
    texts, offset, zone_bad, zone = _split_zone(texts)
    pattern = date_format
    if pattern is None or "%H" not in pattern:
        pattern = _whole_format(texts, date_format)
    if pattern is None:
        everything = np.ones(len(texts), dtype=bool)
        return Clock(np.zeros(len(texts), dtype="datetime64[s]"), None, everything, "unreadable timestamps")
    wall = _parsed(texts, pattern)
    bad = np.isnat(wall) | zone_bad
    return Clock(np.where(bad, np.datetime64(0, "s"), wall), offset, bad, f"timestamps {pattern}{zone}")


def _parsed(texts: pa.Array, pattern: str) -> np.ndarray:
    """datetime64[s] (R,) by a strptime pattern; NaT where a text does not fit it."""
    try:
        timestamps = pd.to_datetime(pd.Series(texts.to_pandas(), dtype=object), format=pattern, errors="coerce")
        return np.asarray(timestamps.to_numpy(), dtype="datetime64[s]")
    except (ValueError, TypeError, OverflowError):
        # A pattern that strptime does not know fits nothing.
        return np.full(len(texts), np.datetime64("NaT", "s"))


def _whole_format(texts: pa.Array, date_format: str | None) -> str | None:
    """The pattern most of the first rows have, so that one broken row at the top does not decide."""
    votes: dict[str, int] = {}
    day_first = functools.cache(functools.partial(_day_first, texts))
    for text in texts[:_VOTERS].to_pylist():
        if date_format is not None:
            head, _, _ = text.partition(" ")
            found: tuple[str, int] | None = (date_format, len(head)) if head else None
            if date_format.count(" "):
                found = (date_format, len(text))
        else:
            found = _date_format(text, day_first)
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


def _split_zone(texts: pa.Array) -> tuple[pa.Array, np.ndarray | None, np.ndarray, str]:
    """Cut `Z` or `-05:00` off. Returns (texts, offset seconds or None, rows without the offset the others have,
    wording)."""
    head = [_ZONE.search(text) is not None for text in texts[:_VOTERS].to_pylist()]
    if 2 * sum(head) <= len(head):
        return texts, None, np.zeros(len(texts), dtype=bool), ""
    parts = pc.extract_regex(texts, r"^(?P<timestamp>.*?)\s*(?P<zone>Z|UTC|(?:GMT|UTC)?[+-]\d{2}:?\d{2})$")
    zones = pc.struct_field(parts, "zone").dictionary_encode()
    codes = zones.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    unique = zones.dictionary.to_pylist()
    seconds = np.array([*map(_offset_seconds, unique), 0])
    timestamps = pc.coalesce(pc.struct_field(parts, "timestamp"), texts)
    return timestamps, seconds[codes], codes < 0, f" with offset {', '.join(unique)}"


def _offset_seconds(zone: str) -> int:
    digits = re.sub(r"[^\d]", "", zone)
    if not digits:
        return 0
    sign = -1 if "-" in zone else 1
    return sign * (int(digits[:2]) * 3600 + int(digits[2:4]) * 60)


def to_utc(wall: np.ndarray, timezone: str, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(UTC datetime64[s] (R,), bool (R,) of clock times that never were) from a broker's wall clock.

    In the hour that a clock repeats in autumn, the first bar of a timestamp is read as the earlier moment, a second as
    the later.

    Parameters
    ----------
    groups
        int (R,): which series a row belongs to, so that two instruments at one timestamp are not taken for a repeated
        hour.
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


def is_midnight(timestamps: np.ndarray) -> np.ndarray:
    """bool (R,): the clock shows 00:00:00."""
    return timestamps == timestamps.astype("datetime64[D]").astype("datetime64[s]")


def at_rollover(timestamps: np.ndarray) -> np.ndarray:
    """bool (R,): UTC moments that are 17:00 in New York, where daily bars of foreign exchange open."""
    local = local_time(timestamps)
    return local - local.astype("datetime64[D]") == np.timedelta64(ROLLOVER_HOUR, "h")
