"""Every layout in `market.dialects` has a sample file, and all samples hold the same bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MarketDataError
from mtquant_rllib.market.importing.importers import import_paths, import_raw, load_market

SETTINGS = Settings.load()
SAMPLES = Path(__file__).parent / "samples"
BARS = np.array([[1.1, 1.105, 1.095, 1.101, 100], [1.101, 1.109, 1.1, 1.108, 200], [1.108, 1.1085, 1.102, 1.103, 150]])
DAYS = np.array(["2019-02-14", "2019-02-15", "2019-02-18"], dtype="datetime64[s]")
HOURS = np.array([f"2019-02-15T{hour}:00:00" for hour in (14, 15, 16)], dtype="datetime64[s]")
FILES = {
    "one header line": ("EURUSD_one_header_line.csv", DAYS),
    "no header": ("EURUSD_no_header.csv", DAYS),
    "prices above tickers": ("prices_above_tickers.csv", DAYS),
    "tickers above prices": ("tickers_above_prices.csv", DAYS),
    "joined with the price first": ("joined_price_first.csv", DAYS),
    "joined with the ticker first": ("joined_ticker_first.csv", DAYS),
    "tuples with the price first": ("tuples_price_first.csv", DAYS),
    "tuples with the ticker first": ("tuples_ticker_first.csv", DAYS),
    # New York's winter time is five hours behind UTC.
    "HistData": ("DAT_ASCII_EURUSD_M1_2019.csv", HOURS),
    "HistData MetaStock": ("DAT_MS_EURUSD_M1_2019.csv", HOURS),
}


@pytest.mark.parametrize("dialect", SETTINGS.market.dialects)
def test_a_sample_of_every_dialect_gives_the_same_bars(dialect: str) -> None:
    name, timestamps = FILES[dialect]
    (series,), report = import_raw(SAMPLES / name, SETTINGS)
    assert dialect in report.dialect
    assert series.symbol == "EURUSD"
    np.testing.assert_array_equal(series.timestamps, timestamps)
    np.testing.assert_array_equal(series.bars, BARS)


def wide(order: str, tickers: tuple[str, ...]) -> pd.DataFrame:
    """Prices of several tickers as yfinance returns them; AAPL's are 100 times EURUSD's, ^VIX's ten times."""
    columns = {}
    for ticker in tickers:
        factor = {"AAPL": 100, "^VIX": 10}.get(ticker, 1)
        for k, price in enumerate(("Open", "High", "Low", "Close", "Volume")):
            columns[(price, ticker)] = BARS[:, k] * factor
    frame = pd.DataFrame(columns, index=pd.DatetimeIndex(DAYS, name="Date"))
    frame.columns.names = ["Price", "Ticker"]
    return frame if order == "price" else frame.swaplevel(axis=1).sort_index(axis=1)


@pytest.mark.parametrize("order", ["price", "ticker"])
@pytest.mark.parametrize("how", ["csv", "parquet", "csv after reset_index", "parquet after reset_index", "long"])
def test_what_pandas_writes_of_several_tickers_is_read_whichever_way(order: str, how: str, tmp_path: Path) -> None:
    frame = wide(order, ("AAPL", "EURUSD=X", "^VIX"))
    path = tmp_path / f"download.{'parquet' if 'parquet' in how else 'csv'}"
    if how == "long":
        frame.stack(level="Ticker").to_csv(path)
    elif "csv" in how:
        frame = frame.reset_index() if "reset" in how else frame
        frame.to_csv(path)
    else:
        frame = frame.reset_index() if "reset" in how else frame
        frame.to_parquet(path)
    found = import_paths(path, SETTINGS)
    (series,) = found.series
    np.testing.assert_array_equal(series.timestamps, DAYS)
    np.testing.assert_array_equal(series.bars, BARS)
    assert found.macro is not None
    assert found.macro.columns == ("vix",)
    np.testing.assert_allclose(found.macro.values[:, 0], BARS[:, 3] * 10)
    assert any("ignored: AAPL" in note for file in found.report.files for note in file.notes)


def test_macro_tickers_alone_are_a_macro_file(tmp_path: Path) -> None:
    tickers = ("DX-Y.NYB", "^IRX", "^TNX", "^VIX")
    wide("price", tickers).to_csv(tmp_path / "rates.csv")
    found = import_paths(tmp_path / "rates.csv", SETTINGS)
    assert found.series == ()
    assert found.macro is not None
    assert found.macro.columns == ("vix", "dxy", "rate_3m", "rate_10y")


def test_a_macro_file_may_hold_instruments_beside_its_series(tmp_path: Path) -> None:
    settings = Settings.load(overrides=["market.macro.allow_missing=[dxy, rate_3m, rate_2y, rate_10y]"])
    wide("price", ("EURUSD=X", "^VIX")).to_csv(tmp_path / "both.csv")
    path = tmp_path / "both.csv"
    market, report = load_market(settings, path, path, allow_missing=settings.universe.symbols)
    assert market.valid[:, 0].all()
    # Friday knows Thursday's value.
    np.testing.assert_allclose(market.macro[:, 0], [np.nan, BARS[0, 3] * 10, BARS[1, 3] * 10])
    assert any("holds macro series (vix)" in warning for warning in report.warnings)


def test_tickers_outrank_the_name_of_a_file(tmp_path: Path) -> None:
    wide("price", ("EURUSD=X",)).to_csv(tmp_path / "everything_but_vix.csv")
    assert [one.symbol for one in import_paths(tmp_path, SETTINGS).series] == ["EURUSD"]


def test_tickers_none_of_which_is_known_are_refused_with_what_would_be(tmp_path: Path) -> None:
    wide("price", ("AAPL", "MSFT")).to_csv(tmp_path / "shares.csv")
    with pytest.raises(MarketDataError, match="among the tickers AAPL, MSFT; accepted: EURUSD"):
        import_paths(tmp_path / "shares.csv", SETTINGS)


def test_a_dialect_of_ones_own_comes_before_the_shipped_ones(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "extends: default.yaml\n"
        "market:\n"
        "  dialects:\n"
        "    house:\n"
        "      header: [skip, skip]\n"
        "      first_line: '^Exported by'\n"
        "      columns: [date, time, close, low, high, open]\n"
        "      options: {timezone: Europe/Athens, decimal: ',', symbol: GOLD}\n"
    )
    path = tmp_path / "export.dat"
    path.write_text(
        "Exported by; the terminal; of the house; 1; 2; 3\nnever;mind;this;line;at;all\n"
        "2019.02.15;16:00;1.234,5;1.233,0;1.236,0;1.235,5\n2019.02.15;17:00;1.234,5;1.233,0;1.236,0;1.235,5\n"
    )
    (series,), report = import_raw(path, Settings.load(config))
    assert "house" in report.dialect
    assert series.symbol == "XAUUSD"
    assert str(series.timestamps[0]) == "2019-02-15T14:00:00"
    assert series.bars[0, :4].tolist() == [1235.5, 1236.0, 1233.0, 1234.5]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{header: [price]}", "header names price"),
        ("{header: [skip, name]}", "needs first_line or files"),
        ("{header: [name], joined: '(?P<price>x)'}", "joined needs"),
        ("{header: [name], joined: '('}", "no regular expression"),
        ("{header: [name], options: {decimal: '.', thousands: '.'}}", "are both"),
    ],
)
def test_a_dialect_that_cannot_be_is_refused(row: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.load(overrides=[f"market.dialects={{mine: {row}}}"])


def test_a_column_that_nobody_reads_may_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "EURUSD.csv"
    lines = (SAMPLES / "EURUSD_one_header_line.csv").read_text().splitlines()
    for header in (",Spread,Spread", ",,", ",Date.1,Spread"):
        path.write_text("\n".join([lines[0] + header, *(line + ",1,1" for line in lines[1:]), ""]))
        (series,), _ = import_raw(path, SETTINGS)
        np.testing.assert_array_equal(series.bars, BARS)
    path.write_text("\n".join([lines[0] + ",Close", *(line + ",1" for line in lines[1:]), ""]))
    with pytest.raises(MarketDataError, match="line 1, column Close: the header names 'Close' twice"):
        import_raw(path, SETTINGS)


LIVE = {
    "a running day": ["2024-03-0{d} 00:00:00", "2024-03-06 15:23:11"],
    "the close of a date that stands there already": ["2024-03-0{d} 00:00:00-05:00", "2024-03-05 16:00:02-05:00"],
    "a running hour": ["2024-03-05 1{d}:30:00-05:00", "2024-03-05 15:47:00-05:00"],
}


@pytest.mark.parametrize("kind", LIVE)
def test_a_live_last_row_is_named_by_its_own_line_and_dropped_on_request(kind: str, tmp_path: Path) -> None:
    pattern, last = LIVE[kind]
    days = (1, 4, 5) if "running hour" not in kind else (1, 2, 3)
    before = ["2024-02-28 00:00:00" + pattern[21:], "2024-02-29 00:00:00" + pattern[21:]]
    if "hour" in kind:
        before = ["2024-03-04 14:30:00-05:00", "2024-03-04 15:30:00-05:00"]
    timestamps = [*before, *(pattern.format(d=d) for d in days), last]
    path = tmp_path / "EURUSD.csv"
    path.write_text(
        "Datetime,Open,High,Low,Close\n" + "".join(f"{timestamp},1.1,1.2,1.05,1.15\n" for timestamp in timestamps)
    )
    with pytest.raises(MarketDataError, match=r"line 7, column timestamp: the last bar of EURUSD .* was running"):
        import_raw(path, SETTINGS)
    (series,), report = import_raw(path, SETTINGS, repair=True)
    assert len(series) == 5
    assert report.repairs == {"live_bars_dropped": 1}
