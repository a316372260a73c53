"""How bar and macro files are read, joined, judged and split. Values stand in `configs/market.yaml`."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from mtquant_rllib.config.base import (
    NUMBER,
    Amount,
    ClockTime,
    Count,
    Date,
    Fraction,
    Positive,
    Section,
    Share,
    ShareBelowOne,
    Window,
)
from mtquant_rllib.config.reading import (
    ClockConfig,
    ColumnNames,
    DialectConfig,
    FileOptions,
    Multipliers,
    Timezone,
    parse_timezone,
)

DayOfMonth = Annotated[int, Field(ge=1, le=31), NUMBER]
Bars = Annotated[int, Field(ge=0, le=100_000), NUMBER]
"""Bars left out; 0 leaves out none."""


class PublishedConfig(Section):
    """When the values of a series that is not daily are published.

    lag_days
        Calendar days from the date that a value bears to its publication, at the latest.
    revised
        Whether values change after it: a history then holds what was known later.
    """

    lag_days: Annotated[int, Field(ge=1, le=1000), NUMBER]
    revised: bool = False


class MacroConfig(Section):
    """Macro series and the delay with which they are known.

    A value dated d is known `lag_business_days` weekdays later, for intraday bars from `known_at` New York time.

    published
        Of series by the week, month or quarter, by name or by the source's id: they are refused without.
    """

    columns: tuple[str, ...]
    aliases: dict[str, tuple[str, ...]]
    positive: tuple[str, ...]
    allow_missing: tuple[str, ...]
    lag_business_days: Window
    known_at: ClockTime
    stale_after_days: Window
    published: dict[str, PublishedConfig]


class RepairConfig(Section):
    """How much of a file may be mended before it is refused.

    max_dropped_frac
        Share of rows that may be dropped as unreadable.
    max_frac
        Kind of repair -> share of rows. A kind that is not here, such as sorting, may touch them all.
    """

    max_dropped_frac: Share
    max_frac: dict[str, Share]


class PlausibleConfig(Section):
    """What bars could be real; see `configs/market.yaml` for each line."""

    earliest: Date
    latest: Date
    max_hole_days: Positive
    min_bars: Window
    window_bars: Window
    round_trip_bars: Window
    factor: Annotated[float, Field(gt=1, le=1000), NUMBER]
    level_factor: Annotated[float, Field(gt=1, le=1000), NUMBER]
    deviations: Positive
    suspect_deviations: Positive
    largest_price: Amount
    volume_multiple: Amount

    @model_validator(mode="after")
    def _times_are_in_order(self) -> PlausibleConfig:
        if self.earliest >= self.latest:
            raise ValueError(f"earliest {self.earliest} is not before latest {self.latest}")
        return self


class QualityConfig(Section):
    """Thresholds of suspicion. None of them changes a bar."""

    gap_days: Positive
    frozen_range_frac: Fraction
    frozen_bars: Count
    stale_repeat_frac: Fraction
    stale_peer_correlation: Fraction
    stale_peer_gap_ratio: Positive
    stale_min_bars: Count
    missing_volume_frac: Fraction
    partial_last_frac: Fraction
    engulfing_bars: Count
    engulfing_frac: Fraction
    scaled_min_rows: Count
    roll_gap_multiple: Positive
    roll_days: tuple[DayOfMonth, DayOfMonth]
    largest_moves: Count

    @model_validator(mode="after")
    def _days_are_in_order(self) -> QualityConfig:
        if self.roll_days[0] > self.roll_days[1]:
            raise ValueError(f"roll_days {self.roll_days[0]} to {self.roll_days[1]}: expected the earlier one first")
        return self


class FractionsConfig(Section):
    train: Fraction
    validation: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _sum_to_one(self) -> FractionsConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test sum to {total:g}; expected 1")
        return self


class SplitsConfig(Section):
    """Calendar cuts for daily bars that cover them, shares of the rows for everything else."""

    train_until: Date
    validation_until: Date
    test_until: Date
    min_bars: Count
    fractions: FractionsConfig
    purge_bars: Bars
    embargo_bars: Bars
    holdout_from: Date | None
    """Bars from this day on are no split's, and are played once (`mtquant evaluate --holdout`); None holds out none."""

    @model_validator(mode="after")
    def _in_order(self) -> SplitsConfig:
        if not self.train_until < self.validation_until < self.test_until:
            raise ValueError("expected train_until < validation_until < test_until")
        return self


class MarketConfig(Section):
    timezone: Timezone
    files: dict[str, FileOptions]
    dialects: dict[str, DialectConfig]
    """Layouts by name; one further down is tried before those above it."""
    multipliers: Multipliers
    """Letters behind a volume, and what each multiplies it by."""
    text_suffixes: tuple[str, ...]
    parquet_suffixes: tuple[str, ...]
    largest_file_mb: Count
    """A file that is larger, or unpacks to more, is refused."""
    clock_pattern: ClockConfig
    instruments: tuple[str, ...] | None
    """Those of the specialists' table that are traded; None for all. Roles and domains follow."""
    allow_missing: tuple[str, ...]
    columns: ColumnNames
    symbol_suffixes: tuple[str, ...]
    consistency_tolerance_frac: ShareBelowOne
    macro: MacroConfig
    repair: RepairConfig
    plausible: PlausibleConfig
    quality: QualityConfig
    splits: SplitsConfig

    @cached_property
    def clock(self) -> tuple[ZoneInfo, float]:
        return parse_timezone(self.timezone)
