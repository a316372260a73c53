"""Macro values are never known on the day they are about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.importing.importers import import_paths, load_market, write_macro
from mtquant_rllib.market.importing.macro import MacroSeries, as_of

SETTINGS = Settings.load()
CONFIG = SETTINGS.market.macro


def series(dates: list[str], values: list[float]) -> MacroSeries:
    return MacroSeries(np.array(dates, dtype="datetime64[D]"), np.array(values)[:, None], ("vix",))


def timestamps(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[s]")


def test_a_daily_row_sees_the_previous_business_day_at_most() -> None:
    published = series(["2024-01-04", "2024-01-05", "2024-01-08"], [14, 15, 18])  # Thursday, Friday, Monday
    rows = timestamps("2024-01-04", "2024-01-05", "2024-01-07", "2024-01-08", "2024-01-09")
    known = as_of(published, rows, True, CONFIG)[:, 0]
    # Friday's value is first seen on Monday; a Sunday bar still sees Thursday's.
    np.testing.assert_array_equal(known, [np.nan, 14, 14, 15, 18])


def test_an_intraday_row_sees_it_from_1700_new_york_of_the_next_business_day() -> None:
    published = series(["2024-03-07", "2024-03-08"], [14, 15])  # Thursday and Friday; clocks change on Sunday the 10th
    rows = timestamps("2024-03-08T21:00:00", "2024-03-08T22:00:00", "2024-03-11T20:00:00", "2024-03-11T21:00:00")
    known = as_of(published, rows, False, CONFIG)[:, 0]
    np.testing.assert_array_equal(known, [np.nan, 14, 14, 15])


def test_a_day_without_a_value_carries_the_last_one_and_nothing_comes_before_the_first() -> None:
    published = series(["2024-01-02", "2024-01-03", "2024-01-04"], [14, np.nan, 16])
    known = as_of(published, timestamps("2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05"), True, CONFIG)[:, 0]
    np.testing.assert_array_equal(known, [np.nan, 14, 14, 16])


@given(st.integers(0, 59), st.booleans())
def test_changing_a_value_changes_no_row_up_to_its_own_date(changed: int, daily: bool) -> None:
    dates = np.array(pd.bdate_range("2024-01-01", periods=60), dtype="datetime64[D]")
    values = np.arange(60.0)
    after = values.copy()
    after[changed:] += 100
    step = np.timedelta64(24 if daily else 1, "h")
    rows = np.arange(np.datetime64("2024-01-01", "s"), np.datetime64("2024-03-30", "s"), step)
    before_row = as_of(MacroSeries(dates, values[:, None], ("vix",)), rows, daily, CONFIG)[:, 0]
    after_row = as_of(MacroSeries(dates, after[:, None], ("vix",)), rows, daily, CONFIG)[:, 0]
    past = rows.astype("datetime64[D]") <= dates[changed]
    np.testing.assert_array_equal(before_row[past], after_row[past])
    assert (before_row[~past] != after_row[~past]).any()


def test_fred_cboe_and_wide_files_are_read_and_joined(tmp_path: Path) -> None:
    (tmp_path / "DGS3MO.csv").write_text(
        "observation_date,DGS3MO\n2019-01-01,\n2019-01-02,2.42\n2019-01-03,.\n2019-01-04,2.40\n"
    )
    (tmp_path / "cboe_vix_daily.csv").write_text(
        "DATE,OPEN,HIGH,LOW,CLOSE\n01/02/2019,20,22,19,21\n01/14/2019,26,27,25,26\n"
    )
    (tmp_path / "rest.csv").write_text(
        "date,DX-Y.NYB,DGS2,10Y,breadth\n2019-01-02,96,2.5,2.7,0.5\n2019-01-03,95,2.4,2.6,0.6\n"
    )
    macro = import_paths(tmp_path, SETTINGS).macro
    assert macro is not None
    assert macro.columns == ("vix", "dxy", "rate_3m", "rate_2y", "rate_10y", "breadth")
    assert [str(d) for d in macro.dates] == ["2019-01-01", "2019-01-02", "2019-01-03", "2019-01-04", "2019-01-14"]
    np.testing.assert_array_equal(macro.values[1], [21, 96, 2.42, 2.5, 2.7, 0.5])
    assert np.isnan(macro.values[0]).all()
    again = import_paths(write_macro(macro, tmp_path / "out" / "macro.parquet"), SETTINGS).macro
    assert again is not None
    np.testing.assert_array_equal(again.values, macro.values)
    assert again.columns == macro.columns


BROKEN = {
    "no number": (
        "date,vix\n2019-01-01,20\n2019-01-02,high\n",
        "line 3, column vix: 'high' is not a positive finite number",
    ),
    "negative": (
        "date,vix\n2019-01-01,20\n2019-01-02,-3\n",
        "line 3, column vix: '-3' is not a positive finite number",
    ),
    "twice": ("date,vix\n2019-01-01,20\n2019-01-01,21\n", "line 3, column date: 2019-01-01 stands twice"),
    "unsorted": ("date,vix\n2019-01-02,20\n2019-01-01,21\n", "line 3, column date: 2019-01-01 comes after"),
    "no readable date": ("date,vix\nsoon,20\nlater,21\n", "line 2, column date: 'soon' is not a timestamp"),
    "two of one name": ("date,vix,vix\n2019-01-01,20,20\n", "column vix: the header names 'vix' twice"),
    "a comma that may be either": ("date;dxy\n2019-01-01;101,234\n", "column dxy: '101,234' is 101234 or 101.234"),
    "no date": ("vix,dxy\n20,90\n21,91\n", "line 1, column timestamp: column missing"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_macro_file_is_one_error(kind: str, tmp_path: Path) -> None:
    content, complaint = BROKEN[kind]
    (tmp_path / "macro.csv").write_text(content)
    with pytest.raises(MarketDataError) as caught:
        import_paths(tmp_path / "macro.csv", SETTINGS)
    assert complaint in str(caught.value)
    assert "; accepted: " in str(caught.value)


def test_a_macro_file_without_one_readable_date_is_refused_by_a_repair_too(tmp_path: Path) -> None:
    (tmp_path / "macro.csv").write_text("date,vix\nsoon,20\nlater,21\n")
    with pytest.raises(MarketDataError, match="not one date is readable"):
        import_paths(tmp_path / "macro.csv", SETTINGS, repair=True)


def test_a_macro_file_without_a_configured_series_names_it_and_its_aliases(tmp_path: Path) -> None:
    days = pd.bdate_range("2019-01-01", periods=4)
    (tmp_path / "EURUSD.csv").write_text(
        "date,open,high,low,close\n" + "".join(f"{d:%Y-%m-%d},1.1,1.2,1.0,1.1\n" for d in days)
    )
    (tmp_path / "macro.csv").write_text("date,vix,dxy\n2018-12-31,25,96\n2019-01-01,23,95\n")
    everything = SETTINGS.universe.symbols
    with pytest.raises(
        MarketDataError, match=r"column missing: rate_3m, rate_2y, rate_10y .*rate_3m as rate_3m, DGS3MO"
    ):
        load_market(SETTINGS, tmp_path / "EURUSD.csv", tmp_path / "macro.csv", allow_missing=everything)
    permissive = Settings.load(overrides=["market.macro.allow_missing=[rate_3m, rate_2y, rate_10y]"])
    market, report = load_market(permissive, tmp_path / "EURUSD.csv", tmp_path / "macro.csv", allow_missing=everything)
    assert market.macro_columns == CONFIG.columns
    assert market.macro[:, 0].tolist() == [25, 23, 23, 23]
    assert np.isnan(market.macro[:, 2:]).all()
    assert any("rate_2y has no values" in warning for warning in report.warnings)
