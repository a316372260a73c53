"""What cannot have been is refused, or left out and counted: times, spacings, closed hours, prices, whole columns.
Crises stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.alignment import align
from mtquant_rllib.market.calendar import bars_per_year, closed_hours, without_holes
from mtquant_rllib.market.checking.bad_ticks import impossible, level_change, suspect
from mtquant_rllib.market.checking.quality import describe
from mtquant_rllib.market.importing.importers import Imported, import_paths
from mtquant_rllib.market.spacing import foreign_spacing, stray

SETTINGS = Settings.load()
BOUNDS = SETTINGS.market.plausible
SHARED = os.environ.get("MTQUANT_BARS")


def frame(timestamps: pd.DatetimeIndex, seed: int = 0, deviation: float = 0.005, start: float = 1.1) -> pd.DataFrame:
    """A random walk as bars."""
    rng = np.random.default_rng(seed)
    close = start * np.exp(np.cumsum(rng.normal(0, deviation, len(timestamps))))
    opens = np.concatenate(([start], close[:-1]))
    spread = 0.3 * deviation * close * rng.uniform(0.5, 1.5, len(timestamps))
    bars = {"open": opens, "high": np.maximum(opens, close) + spread, "low": np.minimum(opens, close) - spread}
    return pd.DataFrame(bars | {"close": close, "volume": rng.integers(900, 1100, len(timestamps))}, index=timestamps)


def daily(n: int = 300, **how: float) -> pd.DataFrame:
    return frame(pd.bdate_range("2019-01-01", periods=n), **how)  # type: ignore[arg-type]


def hourly(n: int = 480, first: str = "2023-01-09", step: str = "1h") -> pd.DataFrame:
    timestamps = pd.date_range(first, periods=2 * n, freq=step)
    return frame(timestamps[~closed_hours(timestamps.to_numpy(), "17:00", "17:00")][:n], deviation=0.001)


def read(bars: pd.DataFrame, tmp_path: Path, repair: bool = False) -> Imported:
    path = tmp_path / "EURUSD.csv"
    bars.to_csv(path, index_label="timestamp", date_format="%Y-%m-%d %H:%M:%S")
    return import_paths(path, SETTINGS, repair=repair)


def repairs(bars: pd.DataFrame, tmp_path: Path) -> dict[str, int]:
    return read(bars, tmp_path, repair=True).report.repairs


def refusal(bars: pd.DataFrame, tmp_path: Path, repair: bool = False) -> str:
    with pytest.raises(MarketDataError) as caught:
        read(bars, tmp_path, repair)
    assert "; accepted: " in str(caught.value)
    return str(caught.value)


# Times


@pytest.mark.parametrize(("year", "said"), [(1700, "is no time of a bar"), (2220, "is no time"), (2084, "1100 days")])
def test_a_year_that_cannot_be_is_refused_and_left_out_by_a_repair(year: int, said: str, tmp_path: Path) -> None:
    bars = daily()
    timestamps = bars.index.to_list()
    at = 0 if year < 1900 else -1
    timestamps[at] = timestamps[at].replace(year=year)
    bars.index = pd.DatetimeIndex(np.array(timestamps, dtype="datetime64[s]"))
    assert said in refusal(bars, tmp_path)
    assert repairs(bars, tmp_path) == {"impossible_times_dropped": 1}


def test_the_smaller_part_of_a_history_is_the_stray_one() -> None:
    timestamps = np.array(["2001-01-01", "2019-01-01", "2019-01-02", "2019-01-03"], dtype="datetime64[s]")
    assert stray(timestamps, 1100).tolist() == [True, False, False, False]
    assert not stray(timestamps[1:], 1100).any()


SPLICES: dict[str, Callable[[], pd.DataFrame]] = {
    "1 day": lambda: pd.concat([frame(pd.bdate_range("2022-09-01", periods=60)), hourly()]),
    "4 hours": lambda: pd.concat([hourly(), hourly(60, "2023-03-01", "4h")]),
    "15 minutes": lambda: pd.concat([hourly(), hourly(200, "2023-03-01", "15min")]),
    "1 minute": lambda: pd.concat([hourly(100, "2022-11-01", "1min"), hourly()]),
}


@pytest.mark.parametrize("other", SPLICES)
def test_bars_of_two_lengths_are_no_history(other: str, tmp_path: Path) -> None:
    """Hours after days, four-hour bars after hours, quarters after hours, hours after minutes."""
    message = refusal(SPLICES[other](), tmp_path)
    assert "1 day" not in other or "daily bars" in message
    assert "1 day" in other or f"are {other} apart, the others 1 hour" in message


def test_files_of_two_lengths_are_no_history_either(tmp_path: Path) -> None:
    for name, bars in (("EURUSD_H1", hourly()), ("EURUSD_H4", hourly(60, "2023-03-01", "4h"))):
        bars.to_csv(tmp_path / f"{name}.csv", index_label="timestamp", date_format="%Y-%m-%d %H:%M:%S")
    with pytest.raises(MarketDataError, match="are 4 hours apart, the others 1 hour"):
        import_paths(tmp_path, SETTINGS)


def test_weeks_among_days_are_no_daily_bars(tmp_path: Path) -> None:
    weeks = frame(pd.date_range("2020-06-05", periods=20, freq="7D"))
    assert "are 7 days apart, the others 1 day" in refusal(pd.concat([daily(), weeks]), tmp_path)


def test_nights_weekends_holes_and_a_missing_hour_are_no_other_spacing() -> None:
    timestamps = hourly().index.to_numpy().astype("datetime64[s]")
    assert foreign_spacing(timestamps) is None
    assert foreign_spacing(np.delete(timestamps, [5, 50, 51, *range(100, 300)])) is None
    timestamps = daily().index.to_numpy().astype("datetime64[s]")
    assert foreign_spacing(np.delete(timestamps, [5, 50, 51, *range(100, 160)])) is None


def test_a_year_has_as_many_bars_with_a_hole_as_without() -> None:
    """55 days out of a year of hours took a tenth of its bars a year."""
    timestamps = hourly(6_000, "2023-01-02").index.to_numpy().astype("datetime64[s]")
    holed = np.concatenate(
        (timestamps[:3_000], timestamps[3_000:][timestamps[3_000:] > timestamps[2_999] + np.timedelta64(55, "D")])
    )
    assert bars_per_year(timestamps) == pytest.approx(6_250, rel=0.02)
    assert bars_per_year(holed) == pytest.approx(bars_per_year(timestamps), rel=0.01)
    assert (len(holed) - 1) / ((holed[-1] - holed[0]) / np.timedelta64(31_557_600, "s")) < 5_600, "what it was"
    assert (without_holes(timestamps) == timestamps).all()
    assert np.diff(without_holes(holed)).max() < np.timedelta64(3, "D")


def test_of_timestamps_without_holes_bars_a_year_are_what_they_were_to_the_byte() -> None:
    timestamps = daily().index.to_numpy().astype("datetime64[s]")
    year = np.timedelta64(int(365.25 * 86400), "s")
    assert bars_per_year(timestamps) == float((len(timestamps) - 1) / ((timestamps[-1] - timestamps[0]) / year))
    assert np.isnan(bars_per_year(timestamps[:1]))


# Hours


def test_a_session_is_new_yorks_and_follows_its_clock() -> None:
    """Foreign exchange rests from Friday to Sunday 17:00, gold for an hour a day too; shares trade in the daytime."""
    winter = np.array(
        ["2023-01-06T21:59", "2023-01-06T22:00", "2023-01-07T12:00", "2023-01-08T21:59", "2023-01-08T22:00"],
        dtype="datetime64[s]",
    )
    assert closed_hours(winter, "17:00", "17:00").tolist() == [False, True, True, True, False]
    summer = winter + np.timedelta64(182, "D") - np.timedelta64(1, "h")
    assert closed_hours(summer, "17:00", "17:00").tolist() == [False, True, True, True, False]
    gold = np.array(["2023-01-10T21:59", "2023-01-10T22:30", "2023-01-10T23:00"], dtype="datetime64[s]")
    assert closed_hours(gold, "18:00", "17:00").tolist() == [False, True, False]
    shares = np.array(["2023-01-10T14:29", "2023-01-10T14:30", "2023-01-10T21:00"], dtype="datetime64[s]")
    assert closed_hours(shares, "09:30", "16:00").tolist() == [True, False, True]


def test_flat_bars_of_closed_hours_are_no_bars(tmp_path: Path) -> None:
    bars = frame(pd.date_range("2023-01-02", periods=1_008, freq="1h"), deviation=0.001)
    closed = closed_hours(bars.index.to_numpy(), "17:00", "17:00")
    assert closed.sum() == 6 * 48
    for column in ("open", "high", "low"):
        bars.loc[closed, column] = bars.loc[closed, "close"]
    bars.loc[closed, "volume"] = 0
    bars.iloc[0, :4] = 1.1  # flat and without volume, but on Monday: a thin hour
    bars.iloc[0, 4] = 0
    for repair in (False, True):
        found = read(bars, tmp_path, repair)
        assert found.report.repairs == {"closed_hours_masked": 288}
        assert len(found.series[0]) == 720
    assert "288" in "\n".join(found.report.lines())


def test_a_day_without_a_single_trade_is_closed(tmp_path: Path) -> None:
    """Christmas is a Monday here: 24 flat hours without volume from Sunday 17:00 New York on."""
    timestamps = pd.date_range("2023-12-18", periods=336, freq="1h")
    bars = frame(timestamps[~closed_hours(timestamps.to_numpy(), "17:00", "17:00")], deviation=0.001)
    christmas = (bars.index >= "2023-12-24 22:00") & (bars.index < "2023-12-25 22:00")
    for column in ("open", "high", "low"):
        bars.loc[christmas, column] = bars.loc[christmas, "close"]
    bars.loc[christmas, "volume"] = 0
    assert read(bars, tmp_path).report.repairs == {"closed_hours_masked": 24}


def test_without_volume_a_weekend_of_flat_bars_says_it_and_a_single_one_does_not(tmp_path: Path) -> None:
    bars = frame(pd.date_range("2023-01-02", periods=336, freq="1h"), deviation=0.001).drop(columns="volume")
    weekend = np.flatnonzero(closed_hours(bars.index.to_numpy(), "17:00", "17:00"))
    for column in ("open", "high", "low"):
        bars.iloc[[*weekend[:48], weekend[60]], bars.columns.get_loc(column)] = bars["close"].iloc[
            [*weekend[:48], weekend[60]]
        ]
    assert read(bars, tmp_path).report.repairs == {"closed_hours_masked": 48}


def test_bars_of_closed_hours_that_moved_stay(tmp_path: Path) -> None:
    bars = frame(pd.date_range("2023-01-02", periods=1_008, freq="1h"), deviation=0.001)
    assert len(read(bars, tmp_path).series[0]) == 1_008


# Prices


def test_a_bar_at_a_thousand_times_is_impossible_wherever_it_stands(tmp_path: Path) -> None:
    for at in (0, 150, 299):
        bars = daily()
        bars.iloc[at, :4] *= 1000
        message = refusal(bars, tmp_path)
        assert f"line {at + 2}, column close" in message
        assert "is impossible beside its neighbours" in message
        assert repairs(bars, tmp_path) == {"impossible_bars_masked": 1}


@pytest.mark.parametrize(
    ("column", "value"), [("high", 1e308), ("high", 3.0), ("low", 0.1), ("volume", 1e300), ("close", 11.0)]
)
def test_a_value_from_another_world_is_named(column: str, value: float, tmp_path: Path) -> None:
    bars = daily().astype(float)
    bars.iloc[100, bars.columns.get_loc(column)] = value
    if column == "close":
        bars.iloc[100, bars.columns.get_loc("high")] = value
    assert f"column {column}" in refusal(bars, tmp_path)
    assert repairs(bars, tmp_path) == {"impossible_bars_masked": 1}


def test_a_handful_of_bad_bars_in_a_row_are_found_each(tmp_path: Path) -> None:
    bars = daily()
    bars.iloc[100:103, :4] *= 100
    assert repairs(bars, tmp_path) == {"impossible_bars_masked": 3}


def test_prices_that_go_on_at_another_scale_are_refused_also_by_a_repair(tmp_path: Path) -> None:
    bars = daily()
    bars.iloc[150:, :4] *= 100
    assert "times those before" in refusal(bars, tmp_path, repair=True)


def test_a_repair_that_would_leave_out_many_bars_is_refused(tmp_path: Path) -> None:
    bars = daily()
    bars.iloc[10:290:20, :4] *= 1000
    assert "market.repair.max_frac.impossible_bars_masked" in refusal(bars, tmp_path, repair=True)


def test_crises_are_not_impossible() -> None:
    """A day of -19% after a year of 0.1% a day, as the franc's; a crash that goes on for weeks; 9% in an hour that come
    back within it."""
    franc = daily(deviation=0.001).to_numpy(dtype=float)
    franc[200:, :4] *= 0.81
    franc[200, 0] /= 0.81
    franc[200, 1], franc[200, 2] = franc[200, :4].max(), franc[200, :4].min() * 0.86
    assert (impossible(franc, BOUNDS) < 0).all()
    assert level_change(franc, BOUNDS) is None
    crash = daily(deviation=0.02).to_numpy(dtype=float)
    crash[100:110, :4] *= np.cumprod(np.full(10, 0.88))[:, None]
    crash[110:, :4] *= 0.88**10
    assert (impossible(crash, BOUNDS) < 0).all()
    flash = hourly().to_numpy(dtype=float)
    flash[200, 2] *= 0.91
    assert (impossible(flash, BOUNDS) < 0).all()


def test_a_smaller_excursion_is_suspect_and_stays(tmp_path: Path) -> None:
    bars = daily(deviation=0.002)
    bars.iloc[100, :4] *= 1.08
    found = read(bars, tmp_path)
    assert len(found.series[0]) == 300
    assert any(
        "1 suspect bar, with a price that nothing after it confirms" in text for text in found.report.files[0].warnings
    )
    assert not (suspect(daily().to_numpy(dtype=float), BOUNDS) > 0).any()


def test_a_wick_is_suspect_too() -> None:
    bars = daily(deviation=0.002).to_numpy(dtype=float)
    bars[100, 2] *= 0.92
    assert np.flatnonzero(suspect(bars, BOUNDS)).tolist() == [100]


def test_an_excursion_that_a_peer_makes_too_is_the_markets(tmp_path: Path) -> None:
    one, other, third = (daily(deviation=0.002, seed=seed) for seed in (1, 2, 3))
    one.iloc[100, :4] *= 1.08
    other.iloc[100, :4] *= 1.07
    for bars, name in ((one, "EURUSD"), (other, "GBPUSD"), (third, "USDJPY")):
        bars.to_csv(tmp_path / f"{name}.csv", index_label="date", date_format="%Y-%m-%d")
    alone = describe(align(import_paths(tmp_path / "EURUSD.csv", SETTINGS).series, SETTINGS), SETTINGS)
    together = describe(align(import_paths(tmp_path, SETTINGS).series, SETTINGS), SETTINGS)
    assert any("suspect bar" in text for text in alone.instruments[0].warnings)
    assert not any("suspect bar" in text for row in together.instruments for text in row.warnings)


# Whole columns


def _adjusted(bars: pd.DataFrame) -> pd.DataFrame:
    return bars.assign(close=bars["close"] * np.linspace(0.6, 1.0, len(bars)))


COLUMN_FAULTS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "swapped": (lambda b: b.rename(columns={"high": "low", "low": "high"}), "high and low are swapped"),
    "adjusted close": (_adjusted, "close lies outside low..high on"),
    "adjusted rest": (
        lambda b: b.assign(high=b["high"] * 0.7, low=b["low"] * 0.7),
        "open and close lie outside low..high",
    ),
    "shifted": (
        lambda b: b.set_axis(["low", "open", "high", "close", "volume"], axis=1),
        "columns are shifted: open holds the highs and high the lows",
    ),
    "close a row early": (
        lambda b: b.assign(close=b["close"].shift(-1).ffill()),
        "close is shifted: it is that of the row after",
    ),
}


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("kind", COLUMN_FAULTS)
def test_a_fault_of_a_whole_column_is_named_and_never_mended(kind: str, repair: bool, tmp_path: Path) -> None:
    spoil, said = COLUMN_FAULTS[kind]
    assert said in refusal(spoil(daily()), tmp_path, repair)


def test_a_few_bars_are_widened_and_many_are_not(tmp_path: Path) -> None:
    bars = daily()
    bars.iloc[:12, 1] = bars.iloc[:12, :1].to_numpy().ravel() * 0.999
    bars.iloc[:12, 2] = bars.iloc[:12, 1] * 0.99
    assert repairs(bars, tmp_path) == {"high_low_widened": 12}
    rng = np.random.default_rng(5)
    rows = rng.choice(300, 28, replace=False)
    bars = daily()
    bars.iloc[rows, 1] = bars.iloc[rows, [0, 3]].max(axis=1) * 0.9999
    assert "market.repair.max_frac.high_low_widened" in refusal(bars, tmp_path, repair=True)


# Real bars


@pytest.mark.skipif(SHARED is None, reason="needs the shared bars (MTQUANT_BARS)")
@pytest.mark.parametrize("name", ["daily.parquet", "hourly.parquet"])
def test_of_real_bars_nothing_is_impossible(name: str) -> None:
    """WTI's -37.63 of 2020-04-20 among them."""
    found = import_paths(Path(SHARED or "") / name, SETTINGS)
    assert found.report.repairs == {}
    assert sum(map(len, found.series)) == {"daily.parquet": 44_920, "hourly.parquet": 45_396}[name]
