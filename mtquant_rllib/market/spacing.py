"""Distances between the timestamps of a series: which are its own, which another's, and which cannot be."""

from __future__ import annotations

import numpy as np

_DAY_S = 86_400
_LONE_S = 20 * 3600
"""From this distance on a bar has a trading day to itself."""
_RUN = 8
"""So many equal distances in a row are a frequency."""
_RUN_OF_DAYS = 4
_WEEKLY_S = 5 * _DAY_S
"""Daily bars are closer: from here on they are weekly or monthly ones."""


def usual_step_s(timestamps: np.ndarray) -> int:
    """The most frequent distance between neighbours, seconds; 0 for fewer than two timestamps. Holes, nights and
    weekends are too seldom to decide it."""
    if len(timestamps) < 2:
        return 0
    steps, counts = np.unique(np.diff(timestamps).astype(np.int64), return_counts=True)
    return int(steps[np.argmax(counts)])


def stray(timestamps: np.ndarray, max_hole_days: float) -> np.ndarray:
    """bool (R,): not of the largest part that holes of more than so many days leave of a series in order of time."""
    if len(timestamps) < 2:
        return np.zeros(len(timestamps), dtype=bool)
    hole = np.diff(timestamps).astype(np.int64) > max_hole_days * _DAY_S
    part = np.concatenate(([0], np.cumsum(hole)))
    return part != np.argmax(np.bincount(part))


def foreign_spacing(timestamps: np.ndarray) -> tuple[int, str, str] | None:
    """(first row, usual spacing, other spacing) of a stretch of a series (R,) in order of time that is spaced otherwise
    than the rest; None where there is none.

    Among shorter bars a stretch is a run of equal distances inside a trading day other than the usual one, or of days
    with one bar each; among daily ones a run of distances of five days or more.
    """
    usual = usual_step_s(timestamps)
    steps = np.diff(timestamps).astype(np.int64)
    if not usual:
        return None
    if usual >= _LONE_S:
        return _first_run(steps >= _WEEKLY_S, _RUN_OF_DAYS, steps, usual) or _first_run(
            steps < _LONE_S, _RUN, steps, usual
        )
    equal = np.concatenate(([False], steps[1:] == steps[:-1]))
    other = equal & (steps != usual) & (steps < _LONE_S)
    return _first_run(other, _RUN, steps, usual) or _first_run(steps >= _LONE_S, _RUN, steps, usual)


def in_runs(mask: np.ndarray, length: int) -> np.ndarray:
    """bool (R,): belongs to `length` or more True in a row."""
    if len(mask) < length:
        return np.zeros(len(mask), dtype=bool)
    whole = np.convolve(mask.astype(int), np.ones(length, dtype=int), mode="valid") == length
    out = np.zeros(len(mask), dtype=bool)
    for shift in range(length):
        out[shift : len(mask) - length + 1 + shift] |= whole
    return out


def _first_run(mask: np.ndarray, length: int, steps: np.ndarray, usual: int) -> tuple[int, str, str] | None:
    if len(mask) < length:
        return None
    runs = np.convolve(mask.astype(int), np.ones(length, dtype=int), mode="valid") == length
    if not runs.any():
        return None
    at = int(np.argmax(runs))
    return at, duration(usual), duration(int(np.median(steps[at : at + length])))


def duration(seconds: int) -> str:
    """3600 -> "1 hour"."""
    for unit, length in (("day", _DAY_S), ("hour", 3600), ("minute", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length} {unit}{'s' if seconds > length else ''}"
    return f"{seconds} seconds"
