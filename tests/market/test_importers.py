"""The spellings in which people hold the same bars all give the same bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.market import FileOptions
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.aliases import NameBook
from mtquant_rllib.market.bars import OPEN, VOLUME
from mtquant_rllib.market.importing.importers import import_paths, import_raw, load_market, write_bars, write_market
from mtquant_rllib.market.importing.reading import instrument_names


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.load()


BARS = np.array(
    [
        [1.1000, 1.1050, 1.0950, 1.1010, 100],
        [1.1010, 1.1090, 1.1000, 1.1080, 200],
        [1.1080, 1.1085, 1.1020, 1.1030, 150],
    ]
)
DAYS = ("2019-02-14", "2019-02-15", "2019-02-18")
HOURS = ("2019-02-15T14:00:00", "2019-02-15T15:00:00", "2019-02-15T16:00:00")

PRICES = "Open,High,Low,Close"
DAILY = {
    # dialect: (what stands above the bars, one bar: d its date, v its five numbers)
    "generic": (f"date,{PRICES},Volume\n", "{d:%Y-%m-%d},{v}\n"),
    "MetaTrader 5": (
        "<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\r\n",
        "{d:%Y.%m.%d}\t{tabbed}\t0\t9\r\n",
    ),
    "a comment, a blank line and no header": ("# from somewhere\n\n", "{d:%Y-%m-%d},{v}\n"),
    "symbol first, no header": ("", "EURUSD,{d:%Y%m%d},000000,{v}\n"),
    "German": (f"Date;{PRICES.replace(',', ';')};Volume\n", "{d:%d.%m.%Y};{german}\n"),
    "American dates": (f"Date,{PRICES},Volume\n", "{d:%m/%d/%Y},{v}\n"),
    "quoted": ('"Date","Open","High","Low","Close","Volume"\n', '"{d:%Y-%m-%d}",{v}\n'),
    "New York midnights": (f"Date,{PRICES},Volume\n", "{d:%Y-%m-%d} 00:00:00-05:00,{v}\n"),
    "opened at 17:00 New York": (f"time,{PRICES},volume\n", "{before:%Y-%m-%d}T22:00:00Z,{v}\n"),
    "yfinance, three lines": (
        f"Price,{PRICES},Volume\nTicker,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X\nDate,,,,,\n",
        "{d:%Y-%m-%d},{v}\n",
    ),
    "Yahoo classic": (f"Date,{PRICES},Adj Close,Volume\n", "{d:%Y-%m-%d},{yahoo}\n"),
}


def written(dialect: str) -> str:
    """`BARS` as a file of that dialect."""
    text, line = DAILY[dialect]
    for day, row in zip(pd.DatetimeIndex(DAYS), BARS):
        v = [f"{value:g}" for value in row]
        text += line.format(
            d=day,
            before=day - pd.Timedelta(days=1),
            v=",".join(v),
            tabbed="\t".join(v),
            german=";".join(v).replace(".", ","),
            yahoo=",".join([*v[:4], "9.99", v[4]]),
        )
    return text


@pytest.mark.parametrize("dialect", DAILY)
def test_every_daily_dialect_gives_the_same_bars(dialect: str, tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "EURUSD_D1.csv"
    path.write_bytes(written(dialect).encode())
    (series,), report = import_raw(path, settings)
    assert series.symbol == "EURUSD"
    assert series.daily
    assert series.timestamps.tolist() == np.array(DAYS, dtype="datetime64[s]").tolist()
    np.testing.assert_array_equal(series.bars, BARS)
    assert report.rows_read == report.rows_kept == 3
    assert report.repairs == {}


EPOCH = int(np.datetime64(HOURS[0]).astype("datetime64[s]").astype(int))
HOURLY = {
    "MetaTrader 4": ("2019.02.15,14:00", "2019.02.15,15:00", "2019.02.15,16:00"),
    "HistData": ("20190215 140000", "20190215 150000", "20190215 160000"),
    "ISO with Z": ("2019-02-15T14:00:00Z", "2019-02-15T15:00:00Z", "2019-02-15T16:00:00Z"),
    "offsets": ("2019-02-15 09:00:00-05:00", "2019-02-15 10:00:00-05:00", "2019-02-15 11:00:00-05:00"),
    "epoch": tuple(str(EPOCH + 3600 * k) for k in range(3)),
    "epoch ms": tuple(str(1000 * (EPOCH + 3600 * k)) for k in range(3)),
    "Dukascopy": ("15.02.2019 14:00:00.000", "15.02.2019 15:00:00.000", "15.02.2019 16:00:00.000"),
}


@pytest.mark.parametrize("dialect", HOURLY)
def test_every_intraday_spelling_of_time_gives_the_same_moments(
    dialect: str, tmp_path: Path, settings: Settings
) -> None:
    timestamps = HOURLY[dialect]
    header = "Date,Time" if "," in timestamps[0] else "time"
    rows = [f"{timestamp},{','.join(f'{v:g}' for v in row)}" for timestamp, row in zip(timestamps, BARS)]
    path = tmp_path / "EURUSD60.csv"
    path.write_text("\n".join([f"{header},open,high,low,close,tick_volume", *rows, ""]))
    (series,), _ = import_raw(path, settings)
    assert not series.daily
    assert series.timestamps.tolist() == np.array(HOURS, dtype="datetime64[s]").tolist()
    np.testing.assert_array_equal(series.bars, BARS)


@pytest.mark.parametrize(
    ("timezone", "winter", "summer"),
    [
        ("UTC", "2019-03-08T12:00:00", "2019-03-11T12:00:00"),
        ("Europe/Athens", "2019-03-08T10:00:00", "2019-03-11T10:00:00"),  # Europe changes on the 31st only
        ("New York+7", "2019-03-08T10:00:00", "2019-03-11T09:00:00"),  # New York has changed on the 10th
        ("UTC+3", "2019-03-08T09:00:00", "2019-03-11T09:00:00"),
    ],
)
def test_server_time_is_turned_into_utc(
    timezone: str, winter: str, summer: str, tmp_path: Path, settings: Settings
) -> None:
    path = tmp_path / "XAUUSD.csv"
    path.write_text(
        "time,open,high,low,close\n2019-03-08 12:00,1.5,2,1,1.5\n2019-03-08 13:00,1.5,2,1,1.5\n"
        "2019-03-11 12:00,1.5,2,1,1.5\n"
    )
    (series,), report = import_raw(path, settings, timezone=timezone)
    assert [str(s) for s in series.timestamps[[0, 2]]] == [winter, summer]
    assert timezone in report.dialect


def test_a_clock_time_that_spring_skips_is_an_error(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "XAUUSD.csv"
    path.write_text("time,open,high,low,close\n2019-03-31 02:00,1,2,1,1.5\n2019-03-31 03:00,1,2,1,1.5\n")
    with pytest.raises(MarketDataError, match=r"line 3, column timestamp: .*never was on a clock of Europe/Athens"):
        import_raw(path, settings, timezone="Europe/Athens")


def test_the_hour_that_autumn_repeats_is_two_hours(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "XAUUSD.csv"
    clock = ["02:00", "03:00", "03:00", "04:00"]
    path.write_text("time,open,high,low,close\n" + "".join(f"2019-10-27 {c},1,2,1,1.5\n" for c in clock))
    (series,), _ = import_raw(path, settings, timezone="Europe/Athens")
    assert [str(s)[11:13] for s in series.timestamps] == ["23", "00", "01", "02"]


def test_dates_of_daily_bars_are_labels_and_never_shift(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "EURUSD.csv"
    path.write_text(written("generic"))
    (series,), _ = import_raw(path, settings, timezone="Europe/Athens")
    assert str(series.timestamps[0]) == "2019-02-14T00:00:00"


def test_scaled_integers_are_divided_only_when_told(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "EURUSD.csv"
    days = pd.bdate_range("2012-12-04", periods=30)
    path.write_text(
        "Date,open,high,low,close\n"
        + "".join(f"{d:%Y-%m-%d},130583.99999999999,131073.0,130453,130935\n" for d in days)
    )
    with pytest.raises(MarketDataError, match="scale=100000"):
        import_raw(path, settings, repair=True)
    (series,), _ = import_raw(path, settings, scale=100000)
    assert series.bars[0, :4].tolist() == [1.30584, 1.31073, 1.30453, 1.30935]
    (whole,), _ = import_raw(path, settings, scale=1)
    assert whole.bars[0, OPEN] == pytest.approx(130584)


def test_options_of_a_file_can_stand_in_the_config(tmp_path: Path) -> None:
    settings = Settings.load(
        overrides=['market.files={"bars_*.csv": {symbol: GOLD, timezone: UTC+2, date_format: "%d/%m/%Y"}}']
    )
    path = tmp_path / "bars_1.csv"
    path.write_text("Date,Time,Open,High,Low,Close\n03/04/2019,12:00,1.5,2,1,1.5\n03/04/2019,13:00,1.5,2,1,1.5\n")
    (series,), _ = import_raw(path, settings)
    assert series.symbol == "XAUUSD"
    assert str(series.timestamps[0]) == "2019-04-03T10:00:00"


def test_utf16_as_some_terminals_write_it_is_read(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "EURUSD.csv"
    path.write_bytes(written("MetaTrader 5").encode("utf-16"))
    (series,), report = import_raw(path, settings)
    np.testing.assert_array_equal(series.bars, BARS)
    assert "UTF-16" in report.dialect


def test_yfinance_of_several_tickers_is_one_series_each_on_its_own_days(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "download.csv"
    path.write_text(
        "Price,Close,Close,High,High,Low,Low,Open,Open\nTicker,GC=F,^GSPC,GC=F,^GSPC,GC=F,^GSPC,GC=F,^GSPC\nDate,,,,,,,,\n"
        "2019-01-02,10,20,11,21,9,19,10,20\n2019-01-03,10,,11,,9,,10,\n2019-01-04,12,22,13,23,11,21,12,22\n"
    )
    series, report = import_raw(path, settings)
    assert [(one.symbol, len(one)) for one in series] == [("XAUUSD", 3), ("SPX500", 2)]
    assert report.symbols == ("XAUUSD", "SPX500")


def test_sunday_bars_are_kept_with_a_warning_and_merged_on_request(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "XAUUSD.csv"
    path.write_text(
        "time,open,high,low,close,tick_volume\n2007-06-22,651,656,650,653,881\n2007-06-24,654,658,652,655,266\n"
        "2007-06-25,655,656,648,651,1727\n2007-06-26,651,652,650,651,100\n"
    )
    (kept,), report = import_raw(path, settings)
    assert len(kept) == 4
    assert any("1 daily bars dated on a weekend" in warning for warning in report.warnings)
    (merged,), report = import_raw(path, settings, repair=True)
    assert report.repairs == {"weekend_bars_merged": 1}
    assert [str(s)[:10] for s in merged.timestamps] == ["2007-06-22", "2007-06-25", "2007-06-26"]
    assert merged.bars[1].tolist() == [654, 658, 648, 651, 1993]


def test_oil_may_be_negative_and_gold_may_not(tmp_path: Path, settings: Settings) -> None:
    rows = ("2020-04-17,18,19,17,18", "2020-04-20,17.7,17.8,-40.3,-37.6", "2020-04-21,-14,13.8,-16.7,10")
    body = "\n".join(["Date,Open,High,Low,Close", *rows, ""])
    for name in ("WTIUSD", "XAUUSD"):
        (tmp_path / f"{name}.csv").write_text(body)
    (oil,), report = import_raw(tmp_path / "WTIUSD.csv", settings)
    assert oil.bars[1, 3] == -37.6
    assert any("2 bars with a non-positive price" in warning for warning in report.warnings)
    with pytest.raises(MarketDataError, match=r"allow_non_positive"):
        import_raw(tmp_path / "XAUUSD.csv", settings)


@pytest.mark.parametrize(
    ("label", "symbol"),
    [
        ("GOLD", "XAUUSD"),
        ("XAUUSD.m", "XAUUSD"),
        ("xauusd", "XAUUSD"),
        ("US500", "SPX500"),
        ("US500.cash", "SPX500"),
        ("^GSPC", "SPX500"),
        ("USTEC", "NAS100"),
        ("DJ30", "US30"),
        ("#US30", "US30"),
        ("USOIL", "WTIUSD"),
        ("CL=F", "WTIUSD"),
        ("EUR_USD", "EURUSD"),
        ("EURUSD=X", "EURUSD"),
        ("EURUSD.ecn", "EURUSD"),
        ("EURUSDpro", "EURUSD"),
        ("GBP/USD", "GBPUSD"),
        ("UKOIL", None),
        ("GOLD-SILVER", None),
        ("EURGBP", None),
        ("CLZ", None),
    ],
)
def test_a_broker_name_means_an_instrument_or_nothing(label: str, symbol: str | None, settings: Settings) -> None:
    assert instrument_names(settings).find(label) == symbol


@pytest.mark.parametrize(
    ("stem", "symbols"),
    [
        ("mt4_history_center_EURUSD_H1", ["EURUSD"]),
        ("EUR_USD_daily", ["EURUSD"]),
        ("EURUSD60", ["EURUSD"]),
        ("EURUSDm_M15", ["EURUSD"]),
        ("dukascopy_headerless_USA500IDXUSD_D1", ["SPX500"]),
        ("^DJI", ["US30"]),
        ("yahoo_CL=F", ["WTIUSD"]),
        ("EURUSD_and_GBPUSD", ["EURUSD", "GBPUSD"]),
        ("prices", []),
    ],
)
def test_a_file_name_means_an_instrument_or_is_refused(stem: str, symbols: list[str], settings: Settings) -> None:
    assert instrument_names(settings).find_in_file_name(stem) == symbols


def test_no_two_instruments_share_an_alias(settings: Settings) -> None:
    for symbol, row in settings.symbols.items():
        book = NameBook.of({symbol: row.aliases})
        for other in settings.symbols:
            for alias in (other, *settings.symbols[other].aliases):
                assert other == symbol or book.by_plain.get("".join(filter(str.isalnum, alias.upper()))) is None


def long_file(tmp_path: Path, settings: Settings, name: str = "all.csv") -> Path:
    """Eight instruments in one file, each missing another day; names as a broker writes them."""
    aliases = {"XAUUSD": "GOLD", "SPX500": "US500", "WTIUSD": "USOIL"}
    days = pd.bdate_range("2019-01-01", periods=10)
    rows = [
        f"{day:%Y-%m-%d},{aliases.get(symbol, symbol)}.m,{k + 1.05},{k + 2},{k + 1},{k + 1.5},{k}"
        for d, day in enumerate(days)
        for k, symbol in enumerate(settings.universe.symbols)
        if d != k
    ]
    rows.append("2019-01-01,BTCUSD,1,2,1,1,1")
    path = tmp_path / name
    path.write_text("\n".join(["time,symbol,open,high,low,close,volume", *rows, ""]))
    return path


def test_a_long_file_becomes_a_market_on_the_union_of_timestamps(tmp_path: Path, settings: Settings) -> None:
    market, report = load_market(settings, long_file(tmp_path, settings), None)
    assert market.symbols == settings.universe.symbols
    assert market.bars.shape == (10, 8, 5)
    assert market.daily
    expected = np.ones((10, 8), dtype=bool)
    expected[range(8), range(8)] = False
    np.testing.assert_array_equal(market.valid, expected)
    assert np.isnan(market.bars[~market.valid]).all()
    assert np.isfinite(market.bars[market.valid]).all()
    assert market.bars[9, 3].tolist() == [4.05, 5, 4, 4.5, 3]
    assert market.macro_columns == settings.market.macro.columns
    assert np.isnan(market.macro).all()
    assert "ignored: BTCUSD" in report.files[0].notes[0]


def test_config_lines_mark_stale_opens_and_missing_volume(tmp_path: Path) -> None:
    settings = Settings.load(overrides=["symbols.SPX500.stale_opens_until=2019-01-04"])
    market, _ = load_market(settings, long_file(tmp_path, settings), None)
    spx = market.symbols.index("SPX500")
    own = market.valid[:4, spx]
    np.testing.assert_array_equal(market.stale_open[:, spx], np.concatenate([own, np.zeros(6, dtype=bool)]))
    assert not market.stale_open[:, 0].any()
    assert market.volume_proxy[[4, 5, 6]].all()
    # EURUSD's volume is zero on every bar of this file: it has none.
    assert market.volume_proxy[0]
    assert not market.volume_proxy[1]


def test_a_folder_of_files_equals_the_long_file(tmp_path: Path, settings: Settings) -> None:
    whole, _ = load_market(settings, long_file(tmp_path, settings), None)
    folder = tmp_path / "parts"
    folder.mkdir()
    imported = import_paths(tmp_path / "all.csv", settings)
    for one in imported.series:
        write_bars([one], folder / f"{one.symbol}.parquet")
    parts, _ = load_market(settings, folder, None)
    np.testing.assert_array_equal(parts.bars, whole.bars)
    np.testing.assert_array_equal(parts.timestamps, whole.timestamps)


def test_what_is_written_reads_back_the_same(tmp_path: Path, settings: Settings) -> None:
    market, _ = load_market(settings, long_file(tmp_path, settings), None)
    again, _ = load_market(settings, write_market(market, tmp_path / "out" / "bars.parquet"), None)
    np.testing.assert_array_equal(again.bars, market.bars)
    np.testing.assert_array_equal(again.valid, market.valid)
    assert again.daily


def test_files_of_one_instrument_are_joined_and_must_not_overlap(tmp_path: Path, settings: Settings) -> None:
    lines = written("generic").splitlines()
    (tmp_path / "EURUSD_2.csv").write_text("\n".join([lines[0], *lines[2:], ""]))
    (tmp_path / "EURUSD_1.csv").write_text("\n".join([*lines[:2], ""]))
    imported = import_paths(tmp_path, settings)
    np.testing.assert_array_equal(imported.series[0].bars, BARS)
    (tmp_path / "EURUSD_1.csv").write_text("\n".join([*lines[:3], ""]))
    with pytest.raises(
        MarketDataError, match=r"EURUSD_2.csv: .*bar 1, 2019-02-15.* stands in another file too .*EURUSD_1"
    ):
        import_paths(tmp_path, settings)
    assert import_paths(tmp_path, settings, repair=True).report.repairs == {"overlap_dropped": 1}


def test_volume_may_be_absent(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "NAS100.csv"
    path.write_text("Date,Close,Low,High,Open\n2019-01-02,2,1,3,1.5\n2019-01-03,2,1,3,1.5\n")
    (series,), _ = import_raw(path, settings)
    assert series.bars[0, :4].tolist() == [1.5, 3, 1, 2]
    assert np.isnan(series.bars[:, VOLUME]).all()


def test_a_symbol_can_be_given_for_several_files_options(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "dump.csv"
    path.write_text(written("generic"))
    imported = import_paths([path], settings, options=FileOptions(symbol="EUR/USD"))
    assert imported.series[0].symbol == "EURUSD"
    assert imported.report.to_dict()["files"][0]["rows_kept"] == 3
    assert any("EURUSD, 3 rows" in line for line in imported.report.lines())
