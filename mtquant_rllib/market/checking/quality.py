"""What looks odd in bars that were taken as they are. Suspicion, not proof: nothing here changes a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.alignment import BarSeries
from mtquant_rllib.market.bars import VOLUME, MarketData
from mtquant_rllib.market.calendar import weekday
from mtquant_rllib.market.checking.anomalies import (
    BarRange,
    engulfing_share,
    exact_repeats,
    frozen_ranges,
    largest_moves,
    long_gaps,
    partial_last,
    roll_jumps,
    suspected_stale_years,
    timestamp_text,
)
from mtquant_rllib.market.checking.bad_ticks import suspect
from mtquant_rllib.market.spacing import duration, usual_step_s


@dataclass(frozen=True)
class InstrumentQuality:
    """One instrument's bars.

    missing_frac
        Share of the rows of the common axis, between its first and last bar, that it lacks.
    suspected_stale_years
        Year -> why its daily opens look stale; `stale_opens_until` is what the config says.
    largest_moves
        (timestamp, close-to-close simple return), largest first.
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
    frozen: tuple[BarRange, ...]
    gaps: tuple[BarRange, ...]
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
            timestamp, move = one.largest_moves[0] if one.largest_moves else ("", 0.0)
            volume = "proxy" if one.volume_proxy else f"{1 - one.missing_volume_frac:.0%}"
            grid.add_row(
                one.symbol,
                str(one.rows),
                one.first[:7],
                one.last[:7],
                f"{one.bars_per_year:.0f}",
                f"{one.missing_frac:.1%}",
                volume,
                f"{move:+.1%} {timestamp[2:10]}",
            )
        lines = [Text(f"{one.symbol}: {text}") for one in self.instruments for text in (*one.warnings, *one.remarks)]
        macro = ", ".join(f"{name} {share:.1%}" for name, share in self.macro_missing_frac.items())
        lines += [Text(f"macro, rows without a value: {macro}")] if macro else []
        return Group(Text(title), grid, *lines)


def describe(market: MarketData, settings: Settings) -> QualityReport:
    """Look through a market, instrument by instrument and (for stale opens) against its peers of the same domain."""
    stale = suspected_stale_years(market, settings) if market.daily else {}
    instruments = []
    agreed = _agreed(market, settings)
    for i, symbol in enumerate(market.symbols):
        own = market.valid[:, i]
        if own.any():
            series = BarSeries(symbol, market.timestamps[own], market.bars[own, i], market.daily, "market")
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
                    agreed[own, i],
                )
            )
    return QualityReport(
        rows=len(market),
        first=timestamp_text(market.timestamps[0], market.daily),
        last=timestamp_text(market.timestamps[-1], market.daily),
        daily=market.daily,
        bars_per_year=market.bars_per_year,
        common_rows=int(market.valid.all(axis=1).sum()),
        instruments=tuple(instruments),
        macro_missing_frac={n: float(np.isnan(market.macro[:, k]).mean()) for k, n in enumerate(market.macro_columns)},
    )


def _agreed(market: MarketData, settings: Settings) -> np.ndarray:
    """bool (T, n): an excursion that another instrument of its class made too, which makes it the market's."""
    excursion = np.zeros(market.valid.shape, dtype=bool)
    for i in range(len(market.symbols)):
        own = market.valid[:, i]
        excursion[own, i] = suspect(market.bars[own, i], settings.market.plausible) > 0
    kinds = np.array([settings.symbols[s].asset_class if s in settings.symbols else s for s in market.symbols])
    for kind in np.unique(kinds):
        members = kinds == kind
        excursion[:, members] &= (excursion[:, members].sum(axis=1) > 1)[:, None]
    return excursion


def suspicions(series: BarSeries, settings: Settings) -> tuple[str, ...]:
    """Warnings about one series on its own; what needs peers comes with `describe`."""
    config = settings.market.quality
    years = exact_repeats(series.timestamps, series.bars, config) if series.daily else {}
    return _instrument(series, settings, float("nan"), 0.0, False, years).warnings


def _instrument(
    series: BarSeries,
    settings: Settings,
    per_year: float,
    missing: float,
    proxy: bool,
    stale: Mapping[int, str],
    agreed: np.ndarray | None = None,
) -> InstrumentQuality:
    """agreed: bool (R,), excursions that are no suspicion because a peer made them too."""
    config = settings.market.quality
    row = settings.symbols.get(series.symbol)
    timestamps, bars = series.timestamps, series.bars
    volume = bars[:, VOLUME]
    frozen = frozen_ranges(series, config)
    gaps = long_gaps(series, config)
    every_day = row is not None and row.triple_day is None
    weekend = int((weekday(timestamps) >= 5).sum()) if series.daily and not every_day else 0
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
    excursions = suspect(bars, settings.market.plausible)
    if agreed is not None:
        excursions = np.where(agreed, 0.0, excursions)
    if (n_suspect := int((excursions > 0).sum())) > 0:
        worst = int(np.argmax(excursions))
        warnings.append(
            f"{n_suspect} suspect bar{'s' if n_suspect > 1 else ''}, with a price that nothing after it confirms: "
            f"largest {timestamp_text(timestamps[worst], series.daily)}, {excursions[worst]:.0f} of the usual moves"
        )
    usual = usual_step_s(timestamps)
    # A bar may be stamped by its first tick; one that follows sooner than this is of another length.
    n_close = int((np.diff(timestamps).astype(np.int64) < 0.75 * usual).sum())
    if not series.daily and n_close:
        warnings.append(f"{n_close} bars follow sooner than the usual {duration(usual)}")
    if gaps:
        longest = max(gaps, key=lambda s: s.days)
        warnings.append(
            f"{len(gaps)} gap{'s' if len(gaps) > 1 else ''} without bars, longest {longest.days:.0f} days from "
            f"{longest.first} to {longest.last}"
        )
    if weekend:
        warnings.append(f"{weekend} daily bars dated on a weekend (repair merges them into Monday's)")
    if non_positive:
        first = timestamp_text(timestamps[int(np.argmax((bars[:, :VOLUME] <= 0).any(axis=1)))], series.daily)
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
    if (reason := partial_last(series, config)) is not None:
        warnings.append(f"the last bar ({timestamp_text(timestamps[-1], series.daily)}) may be unfinished: {reason}")
    if not series.daily and (share := engulfing_share(series, config)) >= config.engulfing_frac:
        warnings.append(
            f"at one hour, {share:.0%} of bars span all of the next {config.engulfing_bars}: they seem to carry "
            "the day's high and low, which is the future"
        )
    return InstrumentQuality(
        symbol=series.symbol,
        rows=len(series),
        first=timestamp_text(timestamps[0], series.daily),
        last=timestamp_text(timestamps[-1], series.daily),
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
