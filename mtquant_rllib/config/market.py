"""How bar and macro files are read, joined, judged and split. Values stand in `configs/market.yaml`."""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from mtquant_rllib.config.base import Count, Fraction, NonNegative, Positive, Section
from mtquant_rllib.config.reading import (
    ClockConfig,
    ColumnNames,
    DialectConfig,
    FileOptions,
    Multipliers,
    Timezone,
    parse_timezone,
)

ClockTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class MacroConfig(Section):
    """Macro series and the delay with which they are known.

    A value dated d is known `lag_business_days` weekdays later, for intraday bars from `known_at` New York time.
    """

    columns: tuple[str, ...]
    aliases: dict[str, tuple[str, ...]]
    positive: tuple[str, ...]
    allow_missing: tuple[str, ...]
    lag_business_days: Count
    known_at: ClockTime
    stale_after_days: Count


class RepairConfig(Section):
    max_dropped_frac: Fraction


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
    roll_days: tuple[int, int]
    largest_moves: Count


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

    train_until: dt.date
    validation_until: dt.date
    test_until: dt.date
    min_bars: Count
    fractions: FractionsConfig
    purge_bars: Annotated[int, Field(ge=0)]
    embargo_bars: Annotated[int, Field(ge=0)]

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
    consistency_tolerance_frac: NonNegative
    macro: MacroConfig
    repair: RepairConfig
    quality: QualityConfig
    splits: SplitsConfig

    @cached_property
    def clock(self) -> tuple[ZoneInfo, float]:
        return parse_timezone(self.timezone)
