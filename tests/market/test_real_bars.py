"""Real files, with the anomalies they have. Needs the folder named by MTQUANT_BARS."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.checking.clock_pattern import agreement_line
from mtquant_rllib.market.checking.quality import describe
from mtquant_rllib.market.importing.importers import import_paths, import_raw, load_market
from mtquant_rllib.market.splits import time_splits

SETTINGS = Settings.load()


@pytest.fixture(scope="module")
def folder() -> Path:
    named = os.environ.get("MTQUANT_BARS")
    if not named:
        pytest.skip("MTQUANT_BARS names no folder of real bars")
    return Path(named)


def raw(folder: Path, name: str) -> Path:
    return folder / "raw" / name


CLEAN = {
    "dukascopy_headerless_USA500IDXUSD_D1.csv": ("SPX500", True, 2613, "may be unfinished: volume 56"),
    "mt4_history_center_EURUSD_H1.csv": ("EURUSD", False, 3728, ""),
    "mt5_python_US30_H1_frozen_feed_and_gap.csv": ("US30", False, 9998, "suspected frozen feed"),
    "mt5_python_XAUUSD_D1_with_sunday_bars.csv": ("XAUUSD", True, 4995, "109 daily bars dated on a weekend"),
    "mt5_python_epoch_USDJPY_H1_part.csv": ("USDJPY", False, 10120, ""),
    "mt5_terminal_tab_EURUSD_D1.csv": ("EURUSD", True, 2280, "the last bar (2023-10-12) may be unfinished"),
    "mt5_terminal_tab_EURUSD_H1_part.csv": ("EURUSD", False, 12001, "which is the future"),
    "yahoo_classic_DJI.csv": ("US30", True, 5759, "3 gaps"),
    "yfinance_hourly_tz_DJI.csv": ("US30", False, 5081, "zero volume on 685 bars"),
    "yfinance_multiheader_DJI.csv": ("US30", True, 1363, ""),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_file_imports_as_it_is_and_its_oddity_is_reported(name: str, folder: Path) -> None:
    symbol, daily, rows, anomaly = CLEAN[name]
    (series,), report = import_raw(raw(folder, name), SETTINGS)
    assert (series.symbol, series.daily, len(series)) == (symbol, daily, rows)
    assert report.repairs == {}
    other = [warning for warning in report.warnings if "weeks open and close" not in warning]
    assert anomaly in "; ".join(other)
    assert bool(other) == bool(anomaly)


SERVER_TIME = {
    "mt5_python_US30_H1_frozen_feed_and_gap.csv": "Europe/Athens",
    "mt5_python_epoch_USDJPY_H1_part.csv": "Europe/Athens",
    "mt5_terminal_tab_EURUSD_H1_part.csv": "Europe/Athens",
}
"""Files of MetaTrader servers, and their clocks, as they were established by lags against UTC."""


@pytest.mark.parametrize("name", CLEAN)
def test_a_servers_clock_is_told_of_where_it_was_taken_for_utc(name: str, folder: Path) -> None:
    _, report = import_raw(raw(folder, name), SETTINGS)
    told = [warning for warning in report.warnings if "weeks open and close" in warning]
    assert bool(told) == (name in SERVER_TIME)
    if told:
        assert SERVER_TIME[name] in told[0]
        _, report = import_raw(raw(folder, name), SETTINGS, timezone=SERVER_TIME[name])
        assert not [warning for warning in report.warnings if "weeks open and close" in warning]


@pytest.mark.slow
def test_the_lag_of_a_servers_file_behind_the_utc_market_is_that_of_its_clock(folder: Path) -> None:
    (series,), _ = import_raw(raw(folder, "mt5_python_epoch_USDJPY_H1_part.csv"), SETTINGS)
    reference = next(s for s in import_paths(folder / "hourly.parquet", SETTINGS).series if s.symbol == "USDJPY")
    line = agreement_line(series, reference, SETTINGS.market.clock_pattern)
    assert "-2 h in winter, -3 h in summer" in line


@pytest.mark.parametrize(
    ("name", "line", "widened", "rows"),
    [
        ("iso_utc_comment_line_USDJPY_15m.csv", 132, 260, 12465),
        ("yfinance_flat_CL_front_month_negative_price.csv", 159, 7, 6498),
    ],
)
def test_inconsistent_bars_are_an_error_and_are_widened_on_request(
    name: str, line: int, widened: int, rows: int, folder: Path
) -> None:
    with pytest.raises(MarketDataError, match=f"line {line}, column low: .*and {widened - 1} more such lines"):
        import_raw(raw(folder, name), SETTINGS)
    (series,), report = import_raw(raw(folder, name), SETTINGS, repair=True)
    assert report.repairs == {"high_low_widened": widened}
    assert len(series) == rows


def test_scaled_integers_lose_their_float_noise(folder: Path) -> None:
    path = raw(folder, "mt5_scaled_integer_EURUSD_D1.csv")
    with pytest.raises(MarketDataError, match="scale=100000"):
        import_raw(path, SETTINGS)
    (series,), _ = import_raw(path, SETTINGS, scale=100000)
    assert series.bars[0, :4].tolist() == [1.30584, 1.31073, 1.30453, 1.30935]
    assert len(series) == 2400


def test_offsets_that_change_with_daylight_saving_open_at_930_new_york(folder: Path) -> None:
    (series,), _ = import_raw(raw(folder, "yfinance_hourly_tz_DJI.csv"), SETTINGS)
    local = pd.DatetimeIndex(series.timestamps).tz_localize("UTC").tz_convert("America/New_York")
    assert set(local.minute) == {30}
    assert local.hour.min() == 9


@pytest.mark.slow
def test_server_time_files_agree_with_the_utc_market_once_their_zone_is_named(folder: Path) -> None:
    (series,), _ = import_raw(raw(folder, "mt5_python_epoch_USDJPY_H1_part.csv"), SETTINGS, timezone="Europe/Athens")
    market, _ = load_market(SETTINGS, folder / "hourly.parquet", folder / "macro.parquet")
    column = market.symbols.index("USDJPY")
    own = market.valid[:, column]
    common, mine, theirs = np.intersect1d(series.timestamps, market.timestamps[own], return_indices=True)
    assert len(common) > 6000
    np.testing.assert_allclose(series.bars[mine, 3], market.bars[own, column, 3][theirs])


def test_macro_samples_import(folder: Path) -> None:
    imported = import_paths([raw(folder, "cboe_vix_daily.csv"), raw(folder, "fred_DGS3MO.csv")], SETTINGS)
    assert imported.macro is not None
    assert imported.macro.columns == ("vix", "rate_3m")
    assert np.isfinite(imported.macro.values).sum(axis=0).tolist() == [9235, 5515 - 228]


def test_weekend_gold_bars_merge_into_what_the_daily_set_has(folder: Path) -> None:
    (series,), report = import_raw(raw(folder, "mt5_python_XAUUSD_D1_with_sunday_bars.csv"), SETTINGS, repair=True)
    assert report.repairs == {"weekend_bars_merged": 109}
    market, _ = load_market(SETTINGS, folder / "daily.parquet", folder / "macro.parquet")
    column = market.symbols.index("XAUUSD")
    own = market.valid[:, column]
    _, mine, theirs = np.intersect1d(series.timestamps, market.timestamps[own], return_indices=True)
    assert len(mine) == own.sum()
    np.testing.assert_allclose(series.bars[mine], market.bars[own, column][theirs])


def test_the_daily_set_loads_whole(folder: Path) -> None:
    market, report = load_market(SETTINGS, folder / "daily.parquet", folder / "macro.parquet")
    assert market.daily
    assert market.symbols == SETTINGS.universe.symbols
    assert market.valid.sum() == 44_920
    assert market.valid.all(axis=1).sum() == 3_907
    assert market.bars_per_year == pytest.approx(260, abs=1)
    assert market.volume_proxy.tolist() == [False, False, False, False, True, True, True, False]
    assert report.repairs == {}
    # Friday 2020-03-13: the row knows Thursday's VIX (75.47), not its own (57.83).
    row = int(np.searchsorted(market.timestamps, np.datetime64("2020-03-13")))
    assert market.macro[row, 0] == pytest.approx(75.47)
    stale = market.stale_open[:, market.symbols.index("SPX500")]
    assert str(market.timestamps[stale][-1])[:10] == "2017-12-29"
    splits = time_splits(market, SETTINGS.market.splits)
    assert [str(market.timestamps[s.start])[:4] for s in splits.values()] == ["2000", "2015", "2017"]
    assert splits["test"].stop == len(market)


@pytest.mark.slow
def test_describe_finds_the_stale_opens_that_the_config_names(folder: Path) -> None:
    market, _ = load_market(SETTINGS, folder / "daily.parquet", folder / "macro.parquet")
    suspect = {one.symbol: one.suspected_stale_years for one in describe(market, SETTINGS).instruments}
    assert list(suspect["SPX500"]) == list(range(2000, 2017))
    assert list(suspect["US30"]) == list(range(2001, 2017))
    for honest in ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "WTIUSD", "NAS100"):
        assert not suspect[honest]


@pytest.mark.slow
def test_the_hourly_sets_load_and_a_missing_instrument_is_named(folder: Path) -> None:
    recent, _ = load_market(SETTINGS, folder / "hourly.parquet", folder / "macro.parquet")
    assert not recent.daily
    assert recent.valid.all(axis=1).sum() == 4_841
    path = folder / "hourly_2015_2023.parquet"
    with pytest.raises(MarketDataError, match=r"symbol missing: WTIUSD .*UKOIL"):
        load_market(SETTINGS, path, folder / "macro.parquet")
    market, _ = load_market(SETTINGS, path, folder / "macro.parquet", allow_missing=["WTIUSD"])
    assert market.valid.sum() == 386_609 - 46_275
