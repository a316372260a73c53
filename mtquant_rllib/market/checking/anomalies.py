"""Signs that bars are not what they seem, frozen feeds, gaps, rolls, stale opens, bars that know the future.

The most expensive anomaly is a stale open: a daily bar whose open repeats the previous close although the market was
shut overnight. Whoever fills at such an open buys at yesterday's price. It shows as exact repeats, or, where the
vendor rounds, as opens whose gaps are far smaller than a peer's while the peer's gap predicts the open-to-close. A
market that trades round the clock repeats its close honestly, and its peer's gaps predict nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.market import QualityConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.alignment import BarSeries
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME, MarketData
from mtquant_rllib.market.calendar import local_time

_DAY = np.timedelta64(1, "D")
# Bars that stand for "usual" when the last one is judged: a year of daily bars.
_RECENT = 250


@dataclass(frozen=True)
class BarRange:
    """A run of bars, or of missing ones: first and last timestamp, number of bars, calendar days between."""

    first: str
    last: str
    bars: int
    days: float


def timestamp_text(timestamp: np.datetime64, daily: bool) -> str:
    """A timestamp for people: the date of a daily bar, date and minute of a shorter one."""
    return str(timestamp.astype("datetime64[D]")) if daily else str(timestamp.astype("datetime64[m]")).replace("T", " ")


def frozen_ranges(series: BarSeries, config: QualityConfig) -> tuple[BarRange, ...]:
    """Runs of bars far narrower than the median: a feed that repeats itself, whatever its tick counts say."""
    spread = series.bars[:, HIGH] - series.bars[:, LOW]
    narrow = spread <= config.frozen_range_frac * np.median(spread)
    return tuple(_bar_range(series.timestamps, a, b, series.daily) for a, b in _runs(narrow, config.frozen_bars))


def long_gaps(series: BarSeries, config: QualityConfig) -> tuple[BarRange, ...]:
    """Stretches of more than `gap_days` calendar days without a bar (`bars` is 0)."""
    days = np.diff(series.timestamps) / _DAY
    return tuple(
        BarRange(
            timestamp_text(series.timestamps[k], series.daily),
            timestamp_text(series.timestamps[k + 1], series.daily),
            0,
            float(days[k]),
        )
        for k in np.flatnonzero(days > config.gap_days)
    )


def largest_moves(series: BarSeries, config: QualityConfig) -> tuple[tuple[str, float], ...]:
    """(timestamp, simple return of the close over the absolute previous close), largest first."""
    close = series.bars[:, CLOSE]
    if len(close) < 2:
        return ()
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = np.nan_to_num(np.diff(close) / np.abs(close[:-1]), posinf=0, neginf=0)
    top = np.argsort(-np.abs(moves), kind="stable")[: config.largest_moves]
    return tuple((timestamp_text(series.timestamps[k + 1], series.daily), float(moves[k])) for k in top)


def roll_jumps(series: BarSeries, config: QualityConfig) -> np.ndarray:
    """Opening gaps, as fractions, that look like the change from one contract to the next."""
    gap = _gaps_frac(series.bars)
    dates = series.timestamps.astype("datetime64[D]")
    day = (dates - dates.astype("datetime64[M]")).astype(np.int64) + 1
    in_days = (day >= config.roll_days[0]) & (day <= config.roll_days[1])
    usual = np.nanmedian(np.abs(gap)) if np.isfinite(gap).any() else np.inf
    return gap[in_days & (np.abs(gap) > config.roll_gap_multiple * usual)]


def engulfing_share(series: BarSeries, config: QualityConfig) -> float:
    """The largest share, over the hours of the day, of bars whose range holds all of the next `engulfing_bars`."""
    n = config.engulfing_bars
    if len(series) < 10 * n:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view
    ahead_high = windows(series.bars[1:, HIGH], n).max(axis=1)
    ahead_low = windows(series.bars[1:, LOW], n).min(axis=1)
    count = len(ahead_high)
    holds = (series.bars[:count, HIGH] >= ahead_high) & (series.bars[:count, LOW] <= ahead_low)
    best = 0.0
    for clock in (series.timestamps[:count], local_time(series.timestamps[:count])):
        hour = (clock - clock.astype("datetime64[D]")).astype(np.int64) // 3600
        total = np.bincount(hour, minlength=24)
        share = np.bincount(hour, weights=holds, minlength=24) / np.maximum(total, 1)
        # An hour that hardly occurs proves nothing.
        best = max(best, float(share[total > total.max() / 4].max()))
    return best


def partial_last(series: BarSeries, config: QualityConfig) -> str | None:
    recent = series.bars[-_RECENT - 1 : -1]
    if not series.daily or len(recent) < 20:
        return None
    last = series.bars[-1]
    usual = np.median(recent[:, VOLUME][recent[:, VOLUME] > 0]) if (recent[:, VOLUME] > 0).any() else np.nan
    if last[VOLUME] < config.partial_last_frac * usual:
        return f"volume {last[VOLUME]:.0f} where {usual:.0f} is usual"
    spread, spreads = last[HIGH] - last[LOW], recent[:, HIGH] - recent[:, LOW]
    if spread < config.partial_last_frac * np.median(spreads):
        return f"range {spread:.6g} where {np.median(spreads):.6g} is usual"
    return None


def exact_repeats(timestamps: np.ndarray, bars: np.ndarray, config: QualityConfig) -> dict[int, str]:
    """Years in which most opens are the previous close to the digit."""
    year = timestamps.astype("datetime64[Y]").astype(np.int64) + 1970
    repeats = np.zeros(len(timestamps), dtype=bool)
    repeats[1:] = bars[1:, OPEN] == bars[:-1, CLOSE]
    out = {}
    for one in np.unique(year):
        own = year == one
        share = float(repeats[own].mean())
        if own.sum() >= config.stale_min_bars and share >= config.stale_repeat_frac:
            out[int(one)] = f"{share:.0%} repeat the previous close"
    return out


def suspected_stale_years(market: MarketData, settings: Settings) -> dict[str, dict[int, str]]:
    """Symbol -> year -> reason: exact repeats of the close, or a peer's gap that predicts the open-to-close.

    Peers are the instruments of the same asset class. Correlation is taken over the rows of a year that both have.
    """
    config = settings.market.quality
    n = len(market.symbols)
    gap = np.full((len(market), n), np.nan)
    body = np.full((len(market), n), np.nan)
    out: dict[str, dict[int, str]] = {}
    for i, symbol in enumerate(market.symbols):
        own = market.valid[:, i]
        bars = market.bars[own, i]
        gap[own, i] = _gaps_frac(bars)
        with np.errstate(divide="ignore", invalid="ignore"):
            body[own, i] = np.where(bars[:, OPEN] > 0, bars[:, CLOSE] / bars[:, OPEN] - 1, np.nan)
        out[symbol] = exact_repeats(market.timestamps[own], bars, config)
    year = market.timestamps.astype("datetime64[Y]").astype(np.int64) + 1970
    kind = {s: settings.symbols[s].asset_class if s in settings.symbols else "" for s in market.symbols}
    for i, symbol in enumerate(market.symbols):
        for j, peer in enumerate(market.symbols):
            if i == j or kind[symbol] != kind[peer]:
                continue
            both = np.isfinite(gap[:, i]) & np.isfinite(gap[:, j]) & np.isfinite(body[:, i])
            for one in np.unique(year[both]):
                rows = both & (year == one)
                ours, theirs = float(gap[rows, i].std()), float(gap[rows, j].std())
                if rows.sum() < config.stale_min_bars or theirs == 0 or ours >= config.stale_peer_gap_ratio * theirs:
                    continue
                correlation = float(np.corrcoef(gap[rows, j], body[rows, i])[0, 1])
                if correlation >= config.stale_peer_correlation:
                    out[symbol].setdefault(
                        int(one), f"{peer}'s gap predicts open-to-close, correlation {correlation:.2f}"
                    )
    return {symbol: dict(sorted(years.items())) for symbol, years in out.items()}


def _gaps_frac(bars: np.ndarray) -> np.ndarray:
    """Open over the previous close, minus one: (R,), NaN at row 0 and where a price is not positive."""
    gap = np.full(len(bars), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap[1:] = bars[1:, OPEN] / bars[:-1, CLOSE] - 1
    gap[1:][(bars[1:, OPEN] <= 0) | (bars[:-1, CLOSE] <= 0)] = np.nan
    return gap


def _runs(mask: np.ndarray, at_least: int) -> list[tuple[int, int]]:
    """[start, stop) of runs of True of a length of at least `at_least`."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= at_least]


def _bar_range(timestamps: np.ndarray, start: int, stop: int, daily: bool) -> BarRange:
    days = float((timestamps[stop - 1] - timestamps[start]) / _DAY)
    return BarRange(
        timestamp_text(timestamps[start], daily), timestamp_text(timestamps[stop - 1], daily), stop - start, days
    )
