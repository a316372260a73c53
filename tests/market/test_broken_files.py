"""Every kind of broken file gives one error that says where it is and what would be accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.importing.importers import import_paths, import_raw, load_market, write_bars

LONG = "1" * 131_073
HEADER = "Date,Open,High,Low,Close,Volume"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.load()


def good_rows(n: int = 40) -> list[str]:
    dates = pd.bdate_range("2019-01-01", periods=n)
    return [f"{d:%Y-%m-%d},1.1000,1.2000,1.0950,1.1{k:03d},1{k}" for k, d in enumerate(dates)]


def text(rows: list[str], header: str = HEADER) -> bytes:
    return "\n".join([header, *rows, ""]).encode()


def with_row(line: int, row: str) -> bytes:
    """Forty good rows with one line of the file (1 is the header) replaced."""
    rows = good_rows()
    rows[line - 2] = row
    return text(rows)


def mixed_daily_and_hourly() -> bytes:
    days = pd.bdate_range("2019-01-01", periods=8)
    hours = pd.date_range("2019-01-14", periods=30, freq="h")
    return text([f"{s:%Y-%m-%d %H:%M},1.10,1.11,1.09,1.10,5" for s in [*days, *hours]])


def swapped() -> bytes:
    rows = good_rows()
    rows[4], rows[5] = rows[5], rows[4]
    return text(rows)


BROKEN: dict[str, tuple[bytes, str, str, str]] = {
    # kind: (content, where, column, a word of the complaint)
    "unparsable price": (with_row(7, "2019-01-08,1.1,1.2,one,1.1,5"), "line 7", "column Low", "'one' is not a number"),
    "unparsable date": (with_row(9, "soon,1.1,1.2,1.0,1.1,5"), "line 9", "column Date", "'soon' is not a timestamp"),
    "missing price": (with_row(5, "2019-01-04,1.1,1.2,1.0,,5"), "line 5", "column Close", "an empty price"),
    "infinite price": (with_row(6, "2019-01-07,1.1,inf,1.0,1.1,5"), "line 6", "column High", "not finite"),
    "negative volume": (with_row(6, "2019-01-07,1.1,1.2,1.0,1.1,-5"), "line 6", "column Volume", "negative"),
    "high below low": (with_row(3, "2019-01-02,1.1,1.0,1.2,1.1,5"), "line 3", "column high", "high 1 is below low 1.2"),
    "high below close": (with_row(3, "2019-01-02,1.1,1.15,1.0,1.2,5"), "line 3", "column high", "below close 1.2"),
    "low above open": (with_row(3, "2019-01-02,1.1,1.3,1.15,1.2,5"), "line 3", "column low", "above open 1.1"),
    "duplicate timestamp": (with_row(4, "2019-01-02,1.1,1.2,1.0,1.1,5"), "line 4", "column timestamp", "stands twice"),
    "unsorted timestamps": (swapped(), "line 7", "column timestamp", "comes after a later timestamp"),
    "negative price": (with_row(8, "2019-01-09,1.1,1.2,-1.0,1.1,5"), "line 8", "column low", "is not positive"),
    "zero price": (with_row(8, "2019-01-09,0,1.2,0,1.1,5"), "line 8", "column open", "is not positive"),
    "column missing": (
        text([row.rsplit(",", 2)[0] for row in good_rows()], "Date,Open,High,Low"),
        "line 1",
        "column close",
        "column missing: close",
    ),
    "column twice": (text(good_rows(), "Date,Open,High,Low,Close,Close"), "line 1", "column Close", "twice"),
    "empty file": (b"", "line 1", "column 1", "the file is empty"),
    "header alone": (text([]), "line 2", "column Date", "no data"),
    "cut in the last line": (text(good_rows())[:-17], "line 41", "column Close", "4 fields where 6 are named"),
    "Latin-1 text": (
        "# source: Börse\n".encode("latin-1") + text(good_rows()),
        "line 1",
        "column 12",
        "byte 0xf6 is not UTF-8",
    ),
    "UTF-16 without mark": (text(good_rows()).decode().encode("utf-16-le"), "line 1", "column 2", "zero byte"),
    "daily and hourly mixed": (mixed_daily_and_hourly(), "line 2", "column timestamp", "among intraday"),
    "scaled integers": (
        text(
            [
                f"{d:%Y-%m-%d},110000,110500,109500,1100{k:02d},5"
                for k, d in enumerate(pd.bdate_range("2019", periods=40))
            ]
        ),
        "line 2",
        "column open",
        "scale=100000",
    ),
    "day or month": (
        text([f"0{k}/02/2019,1.1,1.2,1.0,1.1,5" for k in range(1, 10)]),
        "line 2",
        "column Date",
        "cannot be told apart",
    ),
    "weekly bars": (
        text([f"{d:%Y-%m-%d},1.1,1.2,1.0,1.1,5" for d in pd.date_range("2019-01-07", periods=9, freq="7D")]),
        "line 2",
        "column timestamp",
        "7 days apart",
    ),
    "an unfinished pair of line ends": (
        text(good_rows()).replace(b"\n", b"\r")[:-17],
        "line 41",
        "column Close",
        "4 fields",
    ),
    "a field too long": (
        with_row(7, '2019-01-08,1.1,1.2,"' + LONG + '",1.1,5'),
        "line 7",
        "",
        "131,072 characters",
    ),
    "a field too long, unquoted": (
        with_row(7, "2019-01-08,1.1,1.2," + LONG + ",1.1,5"),
        "line 7",
        "",
        "131,072",
    ),
    "a header too long": (text(good_rows(), f'"{LONG}",Open,High,Low,Close,Volume'), "line 1", "", "131,072 char"),
    "a page of prose": (b"Error 404: no such symbol\n", "line 1", "column 1", "no separator"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_error_with_file_line_column_and_what_would_be_accepted(
    kind: str, tmp_path: Path, settings: Settings
) -> None:
    content, where, column, complaint = BROKEN[kind]
    path = tmp_path / "EURUSD_D1.csv"
    path.write_bytes(content)
    with pytest.raises(MarketDataError) as caught:
        import_raw(path, settings)
    message = str(caught.value)
    assert message.startswith(str(path))
    for part in (where, f"{column}: ", complaint, "; accepted: "):
        assert part in message, message
    assert len(message) < 1000
    assert "\n" not in message


@pytest.mark.parametrize("end", [b"\r", b"\r\n"])
def test_lines_may_end_as_on_any_machine(end: bytes, tmp_path: Path, settings: Settings) -> None:
    for name, ends in (("EURUSD.csv", b"\n"), ("EURUSD_other.csv", end)):
        (tmp_path / name).write_bytes(text(good_rows()).replace(b"\n", ends))
    (expected,), _ = import_raw(tmp_path / "EURUSD.csv", settings)
    (series,), _ = import_raw(tmp_path / "EURUSD_other.csv", settings)
    np.testing.assert_array_equal(series.bars, expected.bars)


def test_a_flipped_byte_in_the_name_of_a_parquet_column_is_one_error(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "EURUSD.csv"
    path.write_bytes(text(good_rows()))
    whole = write_bars(import_raw(path, settings)[0], tmp_path / "EURUSD.parquet")
    content = whole.read_bytes()
    whole.write_bytes(content.replace(b"close", b"cl\xffse"))
    with pytest.raises(MarketDataError, match=r"EURUSD\.parquet: row 1, column 1: not readable as Parquet"):
        import_raw(whole, settings)


def test_a_parquet_file_cut_in_half_is_named_as_such(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "EURUSD.csv"
    path.write_bytes(text(good_rows()))
    whole = write_bars(import_raw(path, settings)[0], tmp_path / "EURUSD.parquet")
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        MarketDataError, match=r"EURUSD.parquet: row 1, column 1: .*cut off.*accepted: a complete Parquet"
    ):
        import_raw(whole, settings)


def test_a_broken_parquet_row_is_named_by_its_row(tmp_path: Path, settings: Settings) -> None:
    frame = pd.DataFrame({"date": pd.bdate_range("2019", periods=5, tz="UTC"), "open": 1.1, "high": 1.2, "low": 1.0})
    frame["close"] = [1.1, 1.1, np.inf, 1.1, 1.1]
    frame.to_parquet(tmp_path / "GBPUSD.parquet")
    with pytest.raises(MarketDataError, match="row 3, column close: 'inf' is not finite"):
        import_raw(tmp_path / "GBPUSD.parquet", settings)


def test_a_file_that_is_not_there_and_an_empty_folder_are_errors(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(MarketDataError, match=r"nowhere.csv: no such file; accepted: "):
        import_raw(tmp_path / "nowhere.csv", settings)
    with pytest.raises(MarketDataError, match=r"no bar files in this folder; accepted: files ending in .csv"):
        import_paths(tmp_path, settings)


def test_a_file_without_a_known_instrument_says_how_to_name_one(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes(text(good_rows()))
    with pytest.raises(MarketDataError, match="no instrument is called 'prices'; accepted: one of EURUSD"):
        import_raw(path, settings)
    assert import_raw(path, settings, symbol="EURUSD")[0][0].symbol == "EURUSD"


def test_a_market_without_one_of_its_instruments_names_the_missing_one(tmp_path: Path, settings: Settings) -> None:
    for symbol in settings.universe.symbols:
        if symbol != "WTIUSD":
            (tmp_path / f"{symbol}.csv").write_bytes(text(good_rows()))
    with pytest.raises(MarketDataError, match=r"symbol missing: WTIUSD .*market.instruments=\[EURUSD, GBPUSD"):
        load_market(settings, tmp_path, None)
    market, report = load_market(settings, tmp_path, None, allow_missing=["WTIUSD"])
    assert not market.valid[:, 4].any()
    assert np.isnan(market.bars[:, 4]).all()
    assert any("WTIUSD has no bars" in warning for warning in report.warnings)


def test_files_of_daily_and_hourly_bars_make_no_market(tmp_path: Path, settings: Settings) -> None:
    hours = pd.date_range("2019-01-14", periods=30, freq="h")
    (tmp_path / "EURUSD.csv").write_bytes(text(good_rows()))
    (tmp_path / "GBPUSD.csv").write_bytes(text([f"{s:%Y-%m-%d %H:%M},1.10,1.11,1.09,1.10,5" for s in hours]))
    with pytest.raises(MarketDataError, match=r"GBPUSD.csv: GBPUSD is intraday where EURUSD .* is daily"):
        load_market(settings, tmp_path, None, allow_missing=settings.universe.symbols)


def test_a_repair_drops_and_mends_what_it_may_and_counts_it_by_kind(tmp_path: Path, settings: Settings) -> None:
    rows = good_rows(100)
    clean = len(rows)
    rows[50] = rows[50].replace("1.2000", "1.0999")  # high below open: widened
    rows[10], rows[11] = rows[11], rows[10]  # unsorted: sorted
    rows.insert(20, rows[20])  # duplicate: dropped
    rows.insert(60, "garbage")  # too few fields: dropped
    rows.insert(61, "2019-03-20,x,1,1,1,5")  # no number: dropped
    path = tmp_path / "EURUSD.csv"
    path.write_bytes(text(rows))
    with pytest.raises(MarketDataError):
        import_raw(path, settings)
    (series,), report = import_raw(path, settings, repair=True)
    assert len(series) == clean
    assert report.repairs == {
        "unparsable_rows_dropped": 2,
        "high_low_widened": 1,
        "duplicates_dropped": 1,
        "unsorted_rows_sorted": 1,
    }
    assert (np.diff(series.timestamps) > np.timedelta64(0)).all()
    assert (series.bars[:, 1] >= series.bars[:, [0, 3]].max(axis=1)).all()


def test_of_two_different_bars_at_one_timestamp_a_repair_keeps_the_later_row(
    tmp_path: Path, settings: Settings
) -> None:
    rows = good_rows()
    rows.insert(5, rows[4].replace("1.1004", "1.1049"))
    path = tmp_path / "EURUSD.csv"
    path.write_bytes(text(rows))
    (series,), report = import_raw(path, settings, repair=True)
    assert series.bars[4, 3] == 1.1049
    assert report.repairs == {"conflicting_duplicates_replaced": 1, "duplicates_dropped": 1}


def test_a_file_that_is_mostly_garbage_is_refused_even_with_repair(tmp_path: Path, settings: Settings) -> None:
    rows = [row if k % 2 else "x,y,z,a,b,c" for k, row in enumerate(good_rows())]
    path = tmp_path / "EURUSD.csv"
    path.write_bytes(text(rows))
    with pytest.raises(MarketDataError, match=r"a repair would drop 20 of 40 rows.*accepted: at most 5%"):
        import_raw(path, settings, repair=True)
