"""A file's numbers are read one way, which all its cells decide, or it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.market import FileOptions
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.importing.importers import import_paths, import_raw
from mtquant_rllib.market.importing.numbers import NumberFormat, parse_numbers

SETTINGS = Settings.load()


def written(path: Path, *rows: str, header: str = "Date;Open;High;Low;Close;Volume") -> Path:
    """A file of one bar a day from 2023-01-02 on."""
    lines = [header, *(f"2023-01-0{k};{row}" for k, row in enumerate(rows, start=2)), ""]
    path.write_text("\n".join(lines))
    return path


READ = {
    # kind: (instrument, rows, first bar)
    "point and comma for thousands": (
        "EURUSD",
        ["1.10003;1.1061;1.09867;1.1019;1,268", "1.102;1.111;1.101;1.106;3,082"],
        [1.10003, 1.1061, 1.09867, 1.1019, 1268],
    ),
    "comma and point for thousands": (
        "US30",
        ["33.048,5;33.269,0;32.518,0;32.654,0;3.422", "32.655;32.858;32.490;32.829;5461"],
        [33048.5, 33269, 32518, 32654, 3422],
    ),
    "comma decimal": ("EURUSD", ["1,10003;1,1061;1,09867;1,1019;1268"], [1.10003, 1.1061, 1.09867, 1.1019, 1268]),
    "millions with points": (
        "US30",
        ["33048;33269;32518;32654;1.234.567", "33048;33269;32518;32654;12.345"],
        [33048, 33269, 32518, 32654, 1234567],
    ),
    "Swiss": ("US30", ["33'048.5;33'269;32'518;32'654;1'268"], [33048.5, 33269, 32518, 32654, 1268]),
    "French": (
        "US30",
        ["33\u202f048,5;33\u00a0269,0;32 518,0;32 654,0;1 268"],
        [33048.5, 33269, 32518, 32654, 1268],
    ),
    "Indian": ("US30", ["33,048.5;33,269;32,518;32,654;12,34,567"], [33048.5, 33269, 32518, 32654, 1234567]),
    "K, M and B": (
        "EURUSD",
        ["1.1;1.2;1.0;1.1;1.27M", "1.1;1.2;1.0;1.1;523.4K", "1.1;1.2;1.0;1.1;2b", "1.1;1.2;1.0;1.1;-"],
        [1.1, 1.2, 1.0, 1.1, 1_270_000],
    ),
    "yen as they are quoted": (
        "USDJPY",
        ["133.456;133.789;132.123;133.001;5"],
        [133.456, 133.789, 132.123, 133.001, 5],
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_one_way_of_writing_is_read(kind: str, tmp_path: Path) -> None:
    symbol, rows, first = READ[kind]
    (series,), _ = import_raw(written(tmp_path / f"{symbol}.csv", *rows), SETTINGS)
    assert series.bars[0].tolist() == first


REFUSED = {
    "only thousands, or only fractions": (
        "US30",
        ["33,048;33,269;32,518;32,654;3422"],
        "line 2, column Open: '33,048' is 33048 or 33.048",
    ),
    "the same with points": (
        "US30",
        ["33.048;33.269;32.518;32.654;3422"],
        "line 2, column Open: '33.048' is 33048 or 33.048",
    ),
    "a volume alone": ("US30", ["33048;33269;32518;32654;3,422"], "line 2, column Volume: '3,422' is 3422 or 3.422"),
    "a mark late in the file": (
        "US30",
        ["33048;33269;32518;32654;3422"] * 6 + ["33048;33269;32518;32654;3,422"],
        "line 8, column Volume",
    ),
    "both marks decimal": (
        "EURUSD",
        ["1.10003;1.1061;1.09867;1.1019;5", "1,10003;1,1061;1,09867;1,1019;5"],
        "has a decimal mark",
    ),
    "a comma that parts nothing": ("EURUSD", ["1.10003;1.1061;1.09867;1.1019;12,68"], "has a decimal mark"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_two_readings_fit_or_contradict_is_refused(kind: str, tmp_path: Path) -> None:
    symbol, rows, said = REFUSED[kind]
    with pytest.raises(MarketDataError) as caught:
        import_raw(written(tmp_path / f"{symbol}.csv", *rows), SETTINGS)
    assert said in str(caught.value)
    assert "; accepted: " in str(caught.value)


def test_the_mark_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "US30.csv", "33,048;33,269;32,518;32,654;3422", "33,048;33,269;32,518;32,654;3422")
    with pytest.raises(MarketDataError, match=r'--decimal \. .*market\.files=\{"US30.csv": \{decimal: "\."\}\}'):
        import_raw(path, SETTINGS)
    for options, price in (
        (FileOptions(decimal="."), 33048),
        (FileOptions(thousands=","), 33048),
        (FileOptions(decimal=","), 33.048),
    ):
        assert import_paths(path, SETTINGS, options=options).series[0].bars[0, 0] == price
    named = Settings.load(overrides=['market.files={"US30.csv": {decimal: "."}}'])
    assert import_raw(path, named)[0][0].bars[0, 0] == 33048


def test_a_column_that_nobody_reads_may_tell_the_mark(tmp_path: Path) -> None:
    header = "Date;Open;High;Low;Close;Volume;Change %"
    rows = ["33,048;33,269;32,518;32,654;3422;-0.53%"]
    path = written(tmp_path / "US30.csv", *rows, header=header)
    assert import_raw(path, SETTINGS)[0][0].bars[0, 0] == 33048


def test_investing_dot_com_quotes_its_thousands(tmp_path: Path) -> None:
    path = tmp_path / "US30.csv"
    path.write_text(
        '"Date","Price","Open","High","Low","Vol.","Change %"\n'
        '"01/13/2023","34,302.61","33,993.52","34,342.30","33,887.05","342.56M","0.33%"\n'
        '"01/17/2023","33,910.85","34,166.67","34,166.67","33,844.53","399.49M","-1.14%"\n'
    )
    (series,), _ = import_raw(path, SETTINGS)
    assert series.bars[0].tolist() == [33993.52, 34342.30, 33887.05, 34302.61, 342_560_000]


def test_letters_behind_a_volume_stand_for_what_the_options_say(tmp_path: Path) -> None:
    path = written(tmp_path / "EURUSD.csv", "1.1;1.2;1.0;1.1;3M")
    roman = FileOptions(multipliers={"M": 1000})
    assert import_paths(path, SETTINGS, options=roman).series[0].bars[0, 4] == 3000
    with pytest.raises(MarketDataError, match="'3X' is not a number"):
        import_raw(written(tmp_path / "EURUSD.csv", "1.1;1.2;1.0;1.1;3X"), SETTINGS)


def test_letters_behind_a_price_are_no_number(tmp_path: Path) -> None:
    with pytest.raises(MarketDataError, match=r"'33\.05K' is not a number"):
        import_raw(written(tmp_path / "US30.csv", "33.05K;33.3;32.5;32.7;3"), SETTINGS)


@given(
    st.lists(st.decimals(-(10**9), 10**9, places=2), min_size=1, max_size=30),
    st.sampled_from([(".", ","), (",", "."), (".", "'"), (",", " "), (".", "_")]),
)
def test_numbers_of_any_locale_are_read_as_they_were_written(numbers: list, marks: tuple[str, str]) -> None:
    decimal, thousands = marks
    swap = str.maketrans({",": thousands, ".": decimal})
    cells = pa.array([f"{number:,.2f}".translate(swap) for number in numbers])
    values, bad = parse_numbers(cells, NumberFormat(decimal, (thousands,)))
    assert not bad.any()
    np.testing.assert_array_equal(values, [float(number) for number in numbers])
