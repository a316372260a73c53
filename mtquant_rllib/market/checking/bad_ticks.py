"""Bars that nobody can have traded at: a decimal point moved, a price of another instrument, a volume of 1e300.

A bad tick stands alone: before and after it the series goes on as if nothing had happened. A move counts in units of
the trailing robust deviation (median absolute return, scaled to a normal's) and as a factor; only what is beyond both
bounds is impossible. A crisis is large and stays, or stands among others: the franc's day and negative oil are far
inside.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mtquant_rllib.config.sections.market import PlausibleConfig
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME

_MAD_TO_SD = 1.4826
_LEAST_SHARE = 0.25
"""Of the whole series' deviation: less is a frozen feed's, which would make the next honest move impossible."""
_LEAST_DEVIATION = 1e-12


def impossible(bars: np.ndarray, config: PlausibleConfig) -> np.ndarray:
    """Column at fault of each bar of a series, int64 (R,): -1 where it may be real. bars: float64 (R, 5)."""
    column = np.full(len(bars), -1)
    volume = bars[:, VOLUME]
    traded = volume[volume > 0]
    if len(traded):
        column[volume > config.volume_multiple * np.median(traded)] = VOLUME
    for price in (CLOSE, OPEN, HIGH, LOW):
        column[np.abs(bars[:, price]) > config.largest_price] = price
    if len(bars) < config.min_bars:
        return column
    sane = column < 0
    column[np.flatnonzero(sane)] = _off_level(bars[sane], config)
    return column


def suspect(bars: np.ndarray, config: PlausibleConfig) -> np.ndarray:
    """Size of each bar's excursion in trailing deviations, float64 (R,): of a close that the next one takes back for
    the most part, or of a wick; 0 below the bound."""
    out = np.zeros(len(bars))
    own = np.flatnonzero((bars[:, :VOLUME] > 0).all(axis=1))
    if len(own) < config.min_bars:
        return out
    log = np.log(bars[own, :VOLUME])
    step = np.diff(log[:, CLOSE])
    there, back = step[:-1], step[1:]
    size = np.maximum(
        log[:, HIGH] - np.maximum(log[:, OPEN], log[:, CLOSE]), np.minimum(log[:, OPEN], log[:, CLOSE]) - log[:, LOW]
    )
    undone = np.where(np.abs(there + back) < 0.25 * np.abs(there), np.abs(there), 0.0)
    size[1:-1] = np.maximum(size[1:-1], undone)
    least = max(_LEAST_SHARE * _usual(step), _LEAST_DEVIATION)
    rows = np.flatnonzero(size > config.suspect_deviations * least)
    if len(rows):
        moves = size[rows] / np.maximum(_trailings(step, rows - 1, config), least)
        out[own[rows]] = np.where(moves > config.suspect_deviations, moves, 0.0)
    return out


def _off_level(bars: np.ndarray, config: PlausibleConfig) -> np.ndarray:
    """-1, or the price column that lies beyond both bounds from the level of its neighbours."""
    column = np.full(len(bars), -1)
    prices = bars[:, :VOLUME]
    # A bar with a price of zero or below is allowed by its instrument's row and has no logarithm.
    own = np.flatnonzero((prices > 0).all(axis=1))
    if len(own) < config.min_bars:
        return column
    log = np.log(prices[own])
    step = np.diff(log[:, CLOSE])
    far = np.log(config.factor)
    wild = np.abs(log - log[:, [CLOSE]]).max(axis=1)
    wild[1:] = np.maximum(wild[1:], np.abs(step))
    reach = np.arange(-config.round_trip_bars, config.round_trip_bars + 1)
    # A bar that is far from its neighbours has one at least at this distance from the next.
    at = np.flatnonzero(wild >= far / config.round_trip_bars)
    if not len(at):
        return column
    near = np.unique(np.clip(at[:, None] + reach, 0, len(log) - 1))
    away = np.abs(log[near] - _level(log[:, CLOSE], near, config.round_trip_bars)[:, None])
    least = _LEAST_SHARE * _usual(step)
    beyond = away.max(axis=1) > far
    for row, distance in zip(near[beyond], away[beyond], strict=True):
        bound = max(far, config.deviations * max(_trailing(step, int(row) - 1, config), least))
        if distance.max() > bound:
            column[own[row]] = CLOSE if distance[CLOSE] > bound else int(np.argmax(distance))
    return column


def level_change(bars: np.ndarray, config: PlausibleConfig) -> tuple[int, float] | None:
    """(row from which on prices are a multiple of those before, the multiple) of a series without bad ticks; None where
    there is no such row."""
    own = np.flatnonzero((bars[:, :VOLUME] > 0).all(axis=1))
    if len(own) < config.min_bars:
        return None
    step = np.diff(np.log(bars[own, CLOSE]))
    far = np.log(config.level_factor)
    for k in np.flatnonzero(np.abs(step) > far):
        usual = max(_trailing(step, int(k), config), _LEAST_SHARE * _usual(step))
        if abs(step[k]) > config.deviations * usual:
            return int(own[k + 1]), float(np.exp(step[k]))
    return None


def _level(log_close: np.ndarray, rows: np.ndarray, bars: int) -> np.ndarray:
    """Median of the closes up to so many bars before and after each of `rows`, itself included: (k,).

    A run of at most `bars` bad closes does not move it; at the ends of a series the window is shifted inside.
    """
    width = min(2 * bars + 1, len(log_close))
    windows = np.lib.stride_tricks.sliding_window_view(log_close, width)
    at = np.clip(rows - width // 2, 0, len(windows) - 1)
    return np.asarray(np.median(windows[at], axis=1))


def _usual(step: np.ndarray) -> float:
    moved = np.abs(step[np.isfinite(step) & (step != 0)])
    return float(_MAD_TO_SD * np.median(moved)) if len(moved) else 0.0


def _trailing(step: np.ndarray, before: int, config: PlausibleConfig) -> float:
    """Robust deviation of the moves of the window that ends before `before`, or begins the series."""
    start = max(before - config.window_bars, 0)
    return _usual(step[start : max(before, start + config.min_bars)])


def _trailings(step: np.ndarray, before: np.ndarray, config: PlausibleConfig) -> np.ndarray:
    """`_trailing` at each of `before`, (k,): thousands of bars at once."""
    window = max(config.window_bars, config.min_bars)
    moved = pd.Series(np.where(np.isfinite(step) & (step != 0), np.abs(step), np.nan))
    rolled = moved.rolling(window, min_periods=1).median().fillna(0.0).to_numpy()
    ends = np.clip(before, min(config.min_bars, len(step)), len(step)) - 1
    return np.asarray(_MAD_TO_SD * rolled[ends])
