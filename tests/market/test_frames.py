"""Bars and macro series in pandas frames are the market that their files would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import EIGHT, FIVE_DAYS, bars_file

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.frames import market_of_frames
from mtquant_rllib.market.importing.importers import load_market


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bars of all instruments, and daily macro series of the same years."""
    folder = tmp_path_factory.mktemp("frames")
    dates = pd.bdate_range("2011-12-01", "2014-01-31", name="timestamp")
    rng = np.random.default_rng(0)
    names = ("vix", "dxy", "rate_3m", "rate_2y", "rate_10y")
    macro = pd.DataFrame({name: 20 + rng.normal(size=len(dates)) for name in names}, index=dates)
    macro.reset_index().to_parquet(folder / "macro.parquet")
    return bars_file(folder, dict.fromkeys(EIGHT, FIVE_DAYS), years=2), folder / "macro.parquet"


def test_a_frame_of_all_and_a_frame_for_each_are_what_the_file_is(settings: Settings, files: tuple[Path, Path]) -> None:
    bars, macro = files
    expected, _ = load_market(settings, bars, macro)
    together, series = pd.read_parquet(bars), pd.read_parquet(macro)
    apart = {
        symbol: own.set_index(own["timestamp"].dt.tz_localize("UTC")) for symbol, own in together.groupby("symbol")
    }
    for market in (
        market_of_frames(settings, together, series),
        market_of_frames(settings, apart, series.set_index("timestamp")),
    ):
        assert (market.symbols, market.daily) == (expected.symbols, expected.daily)
        assert market.macro_columns == expected.macro_columns
        for name in ("timestamps", "bars", "valid", "macro", "stale_open", "volume_proxy"):
            np.testing.assert_array_equal(getattr(market, name), getattr(expected, name), err_msg=name)


def test_without_macro_series_the_columns_are_unknown(settings: Settings, files: tuple[Path, Path]) -> None:
    market = market_of_frames(settings, pd.read_parquet(files[0]))
    assert market.macro_columns == tuple(settings.market.macro.columns)
    assert np.isnan(market.macro).all()


def test_what_is_no_bar_is_refused_by_its_instrument_and_time(settings: Settings, files: tuple[Path, Path]) -> None:
    frame = pd.read_parquet(files[0])
    gold = frame.index[frame["symbol"] == "XAUUSD"]
    for column, value, named in (
        ("close", np.nan, "XAUUSD: 2012-01-05T00:00:00: open .* close nan"),
        ("high", 1.0, "expected finite prices with low <= open, close <= high"),
        ("volume", -1.0, "a volume that is not negative"),
    ):
        wrong = frame.copy()
        wrong.loc[gold[3], column] = value
        with pytest.raises(MarketDataError, match=named):
            market_of_frames(settings, wrong)
    with pytest.raises(MarketDataError, match="XAUUSD: its timestamps are not strictly increasing"):
        market_of_frames(settings, pd.concat([frame, frame.loc[gold[:1]]]))
    with pytest.raises(MarketDataError, match="no frame of XAUUSD"):
        market_of_frames(settings, frame[frame["symbol"] != "XAUUSD"])
    with pytest.raises(MarketDataError, match="no column symbol; expected timestamp, symbol, open"):
        market_of_frames(settings, frame.drop(columns="symbol"))


def test_a_series_that_is_not_daily_needs_to_say_when_it_is_published(
    settings: Settings, files: tuple[Path, Path]
) -> None:
    monthly = pd.DataFrame({"vix": np.arange(24.0)}, index=pd.date_range("2012-01-01", periods=24, freq="MS"))
    with pytest.raises(MarketDataError, match="vix has a value every month, and nothing says when it was published"):
        market_of_frames(settings, pd.read_parquet(files[0]), monthly)
