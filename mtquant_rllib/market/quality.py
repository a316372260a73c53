"""What looks odd in bars that were taken as they are. Suspicion, not proof: nothing here changes a bar.

The most expensive oddity is a stale open: a daily bar whose open repeats the previous close although the market was
shut overnight. Whoever fills at such an open buys at yesterday's price. It shows as exact repeats, or, where the
vendor rounds, as opens whose gaps are far smaller than a peer's while the peer's gap predicts the open-to-close. A
market that trades round the clock repeats its close honestly, and its peer's gaps predict nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from mtquant_rllib.config.market import QualityConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.alignment import BarSeries
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME, MarketData
from mtquant_rllib.market.calendar import local_time, weekday

_DAY = np.timedelta64(1, "D")
# Bars that stand for "usual" when the last one is judged: a year of daily bars.
_RECENT = 250


@dataclass(frozen=True)
class Stretch:
    """A run of bars, or of missing ones: first and last stamp, number of bars, calendar days between."""

    first: str
    last: str
    bars: int
    days: float


@dataclass(frozen=True)
class InstrumentQuality:
    """One instrument's bars.

    missing_frac
        Share of the rows of the common axis, between its first and last bar, that it lacks.
    suspected_stale_years
        Year -> why its daily opens look stale; `stale_opens_until` is what the config says.
    largest_moves
        (stamp, close-to-close simple return), largest first.
    warnings, remarks
        What should be looked at, and what is odd but known.
    roll_jumps, roll_jump_sum
        Suspected contract rolls of an unadjusted future: their number, and the sum of their opening gaps.
    """

    symbol: str
    rows: int
    first: str
    last: str
    bars_per_year: float
    missing_frac: float
    missing_volume_frac: float
    zero_volume: int
    volume_proxy: bool
    non_positive: int
    weekend_bars: int
    frozen: tuple[Stretch, ...]
    gaps: tuple[Stretch, ...]
    largest_moves: tuple[tuple[str, float], ...]
    roll_jumps: int
    roll_jump_sum: float
    suspected_stale_years: dict[int, str]
    stale_opens_until: str | None
    warnings: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class QualityReport:
    """A market's rows and span, each instrument, and each macro column's share of rows without a value."""

    rows: int
    first: str
    last: str
    daily: bool
    bars_per_year: float
    common_rows: int
    instruments: tuple[InstrumentQuality, ...]
    macro_missing_frac: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def render(self) -> Group:
        """A table and the suspicions, for a terminal (`rich.print(report.render())`)."""
        kind = "daily" if self.daily else "intraday"
        title = (
            f"{self.rows:,} {kind} rows, {self.first} .. {self.last}, {self.bars_per_year:.1f} a year; "
            f"{self.common_rows:,} with all instruments"
        )
        grid = Grid(box=box.SIMPLE, pad_edge=False)
        grid.add_column("")
        for name in ("bars", "from", "to", "a year", "absent", "volume", "largest move"):
            grid.add_column(name, justify="right", no_wrap=True)
        for one in self.instruments:
            stamp, move = one.largest_moves[0] if one.largest_moves else ("", 0.0)
            volume = "proxy" if one.volume_proxy else f"{1 - one.missing_volume_frac:.0%}"
            grid.add_row(
                one.symbol,
                str(one.rows),
                one.first[:7],
                one.last[:7],
                f"{one.bars_per_year:.0f}",
                f"{one.missing_frac:.1%}",
                volume,
                f"{move:+.1%} {stamp[2:10]}",
            )
        lines = [Text(f"{one.symbol}: {text}") for one in self.instruments for text in (*one.warnings, *one.remarks)]
        macro = ", ".join(f"{name} {share:.1%}" for name, share in self.macro_missing_frac.items())
        lines += [Text(f"macro, rows without a value: {macro}")] if macro else []
        return Group(Text(title), grid, *lines)


def stamp_text(stamp: np.datetime64, daily: bool) -> str:
    """A stamp for people: the date of a daily bar, date and minute of a shorter one."""
    return str(stamp.astype("datetime64[D]")) if daily else str(stamp.astype("datetime64[m]")).replace("T", " ")


def describe(market: MarketData, settings: Settings) -> QualityReport:
    """Look through a market, instrument by instrument and (for stale opens) against its peers of the same domain."""
    stale = suspected_stale_years(market, settings) if market.daily else {}
    instruments = []
    for i, symbol in enumerate(market.symbols):
        own = market.valid[:, i]
        if own.any():
            series = BarSeries(symbol, market.stamps[own], market.bars[own, i], market.daily, "market")
            rows = np.flatnonzero(own)
            missing = 1 - len(rows) / (rows[-1] - rows[0] + 1)
            instruments.append(
                _instrument(
                    series,
                    settings,
                    float(market.bars_per_year_of[i]),
                    missing,
                    bool(market.volume_proxy[i]),
                    stale.get(symbol, {}),
                )
            )
    return QualityReport(
        rows=len(market),
        first=stamp_text(market.stamps[0], market.daily),
        last=stamp_text(market.stamps[-1], market.daily),
        daily=market.daily,
        bars_per_year=market.bars_per_year,
        common_rows=int(market.valid.all(axis=1).sum()),
        instruments=tuple(instruments),
        macro_missing_frac={n: float(np.isnan(market.macro[:, k]).mean()) for k, n in enumerate(market.macro_columns)},
    )


def suspicions(series: BarSeries, settings: Settings) -> tuple[str, ...]:
    """Warnings about one series on its own; what needs peers comes with `describe`."""
    config = settings.market.quality
    years = _exact_repeats(series.stamps, series.bars, config) if series.daily else {}
    return _instrument(series, settings, float("nan"), 0.0, False, years).warnings


def _instrument(
    series: BarSeries, settings: Settings, per_year: float, missing: float, proxy: bool, stale: Mapping[int, str]
) -> InstrumentQuality:
    config = settings.market.quality
    row = settings.symbols.get(series.symbol)
    stamps, bars = series.stamps, series.bars
    volume = bars[:, VOLUME]
    frozen = frozen_stretches(series, config)
    gaps = long_gaps(series, config)
    weekend = int((weekday(stamps) >= 5).sum()) if series.daily else 0
    is_future = row is not None and row.financing.kind == "commodity"
    jumps = roll_jumps(series, config) if is_future and series.daily else np.zeros(0)
    until = None if row is None or row.stale_opens_until is None else str(row.stale_opens_until)
    no_volume = float(np.isnan(volume).mean())
    non_positive = int((bars[:, :VOLUME] <= 0).any(axis=1).sum())

    warnings = []
    if frozen:
        longest = max(frozen, key=lambda s: s.bars)
        warnings.append(
            f"suspected frozen feed: {sum(s.bars for s in frozen)} bars in {len(frozen)} stretches between "
            f"{frozen[0].first} and {frozen[-1].last}, longest {longest.bars} bars from {longest.first}"
        )
    if gaps:
        longest = max(gaps, key=lambda s: s.days)
        warnings.append(
            f"{len(gaps)} gap{'s' if len(gaps) > 1 else ''} without bars, longest {longest.days:.0f} days from "
            f"{longest.first} to {longest.last}"
        )
    if weekend:
        warnings.append(f"{weekend} daily bars dated on a weekend (repair merges them into Monday's)")
    if non_positive:
        first = stamp_text(stamps[int(np.argmax((bars[:, :VOLUME] <= 0).any(axis=1)))], series.daily)
        warnings.append(f"{non_positive} bars with a non-positive price, first {first}")
    if no_volume == 1 or not (volume > 0).any():
        if row is None or not row.volume_proxy:
            warnings.append("no volume at all: true range stands in for it")
    elif no_volume > config.missing_volume_frac:
        warnings.append(f"volume missing on {no_volume:.0%} of bars: consider symbols.{series.symbol}.volume_proxy")
    elif zeros := int((volume == 0).sum()):
        warnings.append(f"zero volume on {zeros} bars")
    remarks = []
    known_years = [year for year in stale if until is not None and year <= int(until[:4])]
    if known_years:
        remarks.append(
            f"stale opens seen in {_spans(known_years)}, as configured (stale_opens_until {until}): they fill at the "
            "close"
        )
    if len(jumps):
        remarks.append(
            f"{len(jumps)} suspected contract rolls, opening gaps of {jumps.sum():+.1%} in sum: they look like P&L and "
            "are none"
        )
    open_years = [year for year in stale if until is None or year > int(until[:4])]
    if open_years:
        listed = ", ".join(f"{year} ({stale[year]})" for year in open_years)
        warnings.append(
            f"suspected stale opens in {listed}: consider "
            f"symbols.{series.symbol}.stale_opens_until={max(open_years)}-12-31"
        )
    if (reason := _partial_last(series, config)) is not None:
        warnings.append(f"the last bar ({stamp_text(stamps[-1], series.daily)}) may be unfinished: {reason}")
    if not series.daily and (share := engulfing_share(series, config)) >= config.engulfing_frac:
        warnings.append(
            f"at one hour, {share:.0%} of bars span all of the next {config.engulfing_bars}: they seem to carry "
            "the day's high and low, which is the future"
        )
    return InstrumentQuality(
        symbol=series.symbol,
        rows=len(series),
        first=stamp_text(stamps[0], series.daily),
        last=stamp_text(stamps[-1], series.daily),
        bars_per_year=per_year,
        missing_frac=float(missing),
        missing_volume_frac=no_volume,
        zero_volume=int((volume == 0).sum()),
        volume_proxy=proxy,
        non_positive=non_positive,
        weekend_bars=weekend,
        frozen=frozen,
        gaps=gaps,
        largest_moves=largest_moves(series, config),
        roll_jumps=len(jumps),
        roll_jump_sum=float(jumps.sum()),
        suspected_stale_years=dict(stale),
        stale_opens_until=until,
        warnings=tuple(warnings),
        remarks=tuple(remarks),
    )


def _spans(years: Sequence[int]) -> str:
    """2000, 2001, 2002, 2006 -> 2000-2002, 2006."""
    out: list[list[int]] = []
    for year in years:
        if out and year == out[-1][-1] + 1:
            out[-1].append(year)
        else:
            out.append([year])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in out)


def _runs(mask: np.ndarray, at_least: int) -> list[tuple[int, int]]:
    """[start, stop) of runs of True of a length of at least `at_least`."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= at_least]


def frozen_stretches(series: BarSeries, config: QualityConfig) -> tuple[Stretch, ...]:
    """Runs of bars far narrower than the median: a feed that repeats itself, whatever its tick counts say."""
    spread = series.bars[:, HIGH] - series.bars[:, LOW]
    narrow = spread <= config.frozen_range_frac * np.median(spread)
    return tuple(_stretch(series.stamps, a, b, series.daily) for a, b in _runs(narrow, config.frozen_bars))


def _stretch(stamps: np.ndarray, start: int, stop: int, daily: bool) -> Stretch:
    days = float((stamps[stop - 1] - stamps[start]) / _DAY)
    return Stretch(stamp_text(stamps[start], daily), stamp_text(stamps[stop - 1], daily), stop - start, days)


def long_gaps(series: BarSeries, config: QualityConfig) -> tuple[Stretch, ...]:
    """Stretches of more than `gap_days` calendar days without a bar (`bars` is 0)."""
    days = np.diff(series.stamps) / _DAY
    return tuple(
        Stretch(
            stamp_text(series.stamps[k], series.daily),
            stamp_text(series.stamps[k + 1], series.daily),
            0,
            float(days[k]),
        )
        for k in np.flatnonzero(days > config.gap_days)
    )


def largest_moves(series: BarSeries, config: QualityConfig) -> tuple[tuple[str, float], ...]:
    """(stamp, simple return of the close over the absolute previous close), largest first."""
    close = series.bars[:, CLOSE]
    if len(close) < 2:
        return ()
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = np.nan_to_num(np.diff(close) / np.abs(close[:-1]), posinf=0, neginf=0)
    top = np.argsort(-np.abs(moves), kind="stable")[: config.largest_moves]
    return tuple((stamp_text(series.stamps[k + 1], series.daily), float(moves[k])) for k in top)


def _gaps_frac(bars: np.ndarray) -> np.ndarray:
    """Open over the previous close, minus one: (R,), NaN at row 0 and where a price is not positive."""
    gap = np.full(len(bars), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap[1:] = bars[1:, OPEN] / bars[:-1, CLOSE] - 1
    gap[1:][(bars[1:, OPEN] <= 0) | (bars[:-1, CLOSE] <= 0)] = np.nan
    return gap


def roll_jumps(series: BarSeries, config: QualityConfig) -> np.ndarray:
    """Opening gaps, as fractions, that look like the change from one contract to the next."""
    gap = _gaps_frac(series.bars)
    dates = series.stamps.astype("datetime64[D]")
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
    for clock in (series.stamps[:count], local_time(series.stamps[:count])):
        hour = (clock - clock.astype("datetime64[D]")).astype(np.int64) // 3600
        total = np.bincount(hour, minlength=24)
        share = np.bincount(hour, weights=holds, minlength=24) / np.maximum(total, 1)
        # An hour that hardly occurs proves nothing.
        best = max(best, float(share[total > total.max() / 4].max()))
    return best


def _partial_last(series: BarSeries, config: QualityConfig) -> str | None:
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


def _exact_repeats(stamps: np.ndarray, bars: np.ndarray, config: QualityConfig) -> dict[int, str]:
    """Years in which most opens are the previous close to the digit."""
    year = stamps.astype("datetime64[Y]").astype(np.int64) + 1970
    repeats = np.zeros(len(stamps), dtype=bool)
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
        out[symbol] = _exact_repeats(market.stamps[own], bars, config)
    year = market.stamps.astype("datetime64[Y]").astype(np.int64) + 1970
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
