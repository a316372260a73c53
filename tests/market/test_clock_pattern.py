"""A server's clock that was taken for UTC is recognised by its weeks, and by its lag behind a file whose clock is
known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.market.alignment import BarSeries
from mtquant_rllib.market.checking.clock_pattern import agreement, agreement_line, clock_doubt
from mtquant_rllib.market.importing.importers import import_raw

SETTINGS = Settings.load()
CONFIG = SETTINGS.market.clock_pattern
SESSION = SETTINGS.symbols["EURUSD"].session


def hours(months: int = 4, step: str = "1h") -> pd.DatetimeIndex:
    """UTC opens of foreign exchange's bars, from Sunday 17:00 to Friday 17:00 New York, from February 2023 on; those of
    four hours begin at 17:00."""
    every_h = 4 if step == "4h" else 1
    step = "1h" if step == "4h" else step
    end = pd.Timestamp("2023-02-01") + pd.DateOffset(months=months)
    local = pd.date_range("2023-02-01", end, freq=step, tz="America/New_York")
    week = local.day_of_week * 24 + local.hour
    own = ((week < 4 * 24 + 17) | (week >= 6 * 24 + 17)) & ((local.hour - 17) % every_h == 0)
    return local[own].tz_convert("UTC")


def wall(timestamps: pd.DatetimeIndex, zone: str, ahead_h: float = 0) -> np.ndarray:
    shown = timestamps.tz_convert(zone).tz_localize(None) + pd.Timedelta(hours=ahead_h)
    return np.asarray(shown.to_numpy(), dtype="datetime64[s]")


CLOCKS = {
    "New York+7": ("America/New_York", 7.0),
    "Europe/Athens": ("Europe/Athens", 0.0),
    "UTC-5": ("UTC", -5.0),
    "New York": ("America/New_York", 0.0),
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("step", ["1h", "15min", "4h"])
def test_a_clock_taken_for_utc_is_named(clock: str, step: str) -> None:
    zone, ahead_h = CLOCKS[clock]
    timestamps = wall(hours(step=step), zone, ahead_h)
    doubt = clock_doubt(timestamps, "UTC", SESSION, CONFIG)
    assert doubt is not None
    assert f"a clock of {clock} " in doubt or f" or {clock} " in doubt
    assert clock_doubt(timestamps, clock, SESSION, CONFIG) is None


def test_utc_is_no_cause_for_doubt() -> None:
    assert clock_doubt(wall(hours(), "UTC"), "UTC", SESSION, CONFIG) is None


def test_weeks_that_fit_no_clock_and_files_of_few_weeks_are_not_judged() -> None:
    scattered = np.arange(np.datetime64("2023-01-01", "s"), np.datetime64("2023-06-01", "s"), np.timedelta64(1, "h"))
    assert clock_doubt(scattered, "UTC", SESSION, CONFIG) is None
    athens = wall(hours(), "Europe/Athens")
    assert clock_doubt(athens[: 3 * 120], "UTC", SESSION, CONFIG) is None


def test_an_import_warns_of_the_clock_and_a_named_one_ends_the_warning(tmp_path: Path) -> None:
    path = tmp_path / "EURUSD.csv"
    rng = np.random.default_rng(0)
    timestamps = wall(hours(), "Europe/Athens")
    close = 1.1 + np.cumsum(rng.normal(0, 1e-4, len(timestamps)))
    rows = [f"{timestamp},{c:.5f},{c + 1e-3:.5f},{c - 1e-3:.5f},{c:.5f},5" for timestamp, c in zip(timestamps, close)]
    path.write_text("\n".join(["time,open,high,low,close,volume", *rows, ""]))
    _, report = import_raw(path, SETTINGS)
    assert any("weeks open and close as on a clock of Europe/Athens" in warning for warning in report.warnings)
    _, report = import_raw(path, SETTINGS, timezone="Europe/Athens")
    assert not any("weeks open and close" in warning for warning in report.warnings)


def walk(timestamps: np.ndarray, source: str) -> BarSeries:
    rng = np.random.default_rng(1)
    close = 1.1 + np.cumsum(rng.normal(0, 1e-4, len(timestamps)))
    return BarSeries("EURUSD", timestamps, np.repeat(close[:, None], 5, axis=1), False, source)


def test_the_lag_behind_a_reference_is_the_hours_between_the_clocks() -> None:
    true, server = walk(wall(hours(), "UTC"), "reference"), walk(wall(hours(), "UTC", 3), "server")
    found = agreement(server, true, CONFIG)
    assert found is not None
    assert found.lag_h == -3
    assert found.correlation == pytest.approx(1)
    assert abs(found.as_is) < 0.1
    assert "moved by -3 h" in agreement_line(server, true, CONFIG)
    assert "as it stands" in agreement_line(true, true, CONFIG)


def test_a_lag_that_changes_with_the_season_is_told_by_season() -> None:
    true = walk(wall(hours(12), "UTC"), "reference")
    server = walk(wall(hours(12), "Europe/Athens"), "server")
    line = agreement_line(server, true, CONFIG)
    assert "-2 h in winter, -3 h in summer" in line
