"""Folders and archives: everything in them is read or named as left out, and every fault in them is told at once."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.importing.importers import import_paths, import_raw, load_market

SETTINGS = Settings.load()
TEXT = b"Date,Open,High,Low,Close\n2019-02-14,1.1,1.105,1.095,1.101\n2019-02-15,1.101,1.109,1.1,1.108\n"
GOLD = b"Date,Open,High,Low,Close\n2019-02-14,1300.5,1310,1290,1300\n2019-02-15,1300.5,1310,1290,1300\n"


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return sink.getvalue()


def zstd_of(body: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(body))


PACKINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("EURUSD.csv.gz", gzip.compress),
    "zstd": ("EURUSD.csv.zst", zstd_of),
    "bz2": ("EURUSD.csv.bz2", bz2.compress),
    "xz": ("EURUSD.csv.xz", lzma.compress),
    "zip": ("EURUSD.zip", lambda body: zipped({"history.csv": body})),
    "gzip of another name": ("EURUSD.csv", gzip.compress),
    "zip of a gzip": ("all.zip", lambda body: zipped({"EURUSD.csv.gz": gzip.compress(body)})),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_bars_are_the_bars(packing: str, tmp_path: Path) -> None:
    name, pack = PACKINGS[packing]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "EURUSD.csv").write_bytes(TEXT)
    (expected,) = import_paths(tmp_path / "plain", SETTINGS).series
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / name).write_bytes(pack(TEXT))
    for path in (tmp_path / "packed", tmp_path / "packed" / name):
        found = import_paths(path, SETTINGS)
        assert found.series[0].symbol == "EURUSD"
        np.testing.assert_array_equal(found.series[0].bars, expected.bars)
        assert packing.split()[0] in found.report.files[0].dialect


def test_a_zip_of_several_files_is_all_of_them_and_says_what_it_left(tmp_path: Path) -> None:
    members = {
        "EURUSD.csv": TEXT,
        "deep/GOLD.csv": GOLD,
        "EURUSD.txt": b"Remarks on gaps\n",
        "about.pdf": b"%PDF",
        "more.zip": b"",
    }
    (tmp_path / "history.zip").write_bytes(zipped(members))
    found = import_paths(tmp_path, SETTINGS)
    assert [one.symbol for one in found.series] == ["EURUSD", "XAUUSD"]
    skipped = "\n".join(found.report.skipped)
    for part in ("EURUSD.txt: a text beside", "about.pdf: its name ends in none", "more.zip: a zip in a zip"):
        assert part in skipped
    assert all(f"not read: {text}" in found.report.lines() for text in found.report.skipped)


def test_what_lies_in_a_folder_and_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "EURUSD.csv").write_bytes(TEXT)
    (tmp_path / "GOLD.dat").write_bytes(GOLD)
    (tmp_path / "USDJPY.hst").write_bytes(b"\x00")
    (tmp_path / "old").mkdir()
    found = import_paths(tmp_path, SETTINGS)
    assert [one.symbol for one in found.series] == ["EURUSD", "XAUUSD"]
    assert [Path(text.split(":")[0]).name for text in found.report.skipped] == ["old", "USDJPY.hst"]
    _, report = load_market(SETTINGS, tmp_path, None, allow_missing=SETTINGS.universe.symbols)
    assert report.skipped == found.report.skipped


def test_a_folder_goes_on_past_a_bad_file_and_lists_all(tmp_path: Path) -> None:
    (tmp_path / "EURUSD.csv").write_bytes(TEXT)
    (tmp_path / "GBPUSD.csv").write_bytes(TEXT.replace(b"1.109", b"one"))
    (tmp_path / "GOLD.csv").write_bytes(b"")
    with pytest.raises(MarketDataError) as caught:
        import_paths(tmp_path, SETTINGS)
    first, *rest = str(caught.value).splitlines()
    assert first == "2 of 3 files are refused:"
    assert "GBPUSD.csv: line 3, column High: 'one' is not a number" in rest[0]
    assert "GOLD.csv: line 1, column 1: the file is empty" in rest[1]
    with pytest.raises(MarketDataError, match="2 of 3 files are refused"):
        load_market(SETTINGS, tmp_path, None, allow_missing=SETTINGS.universe.symbols)
    found = import_paths(tmp_path, SETTINGS, skip_refused=True)
    assert [one.symbol for one in found.series] == ["EURUSD"]
    assert [text.startswith("refused: ") for text in found.report.skipped] == [True, True]


def damaged(body: bytes) -> bytes:
    return body[: len(body) // 2]


BROKEN = {
    "a gzip cut short": ("EURUSD.csv.gz", damaged(gzip.compress(TEXT * 50)), "cannot be opened"),
    "a zstd cut short": ("EURUSD.csv.zst", damaged(zstd_of(TEXT * 50)), "cannot be opened"),
    "a zip cut short": ("EURUSD.zip", damaged(zipped({"EURUSD.csv": TEXT * 50})), "not readable as zip"),
    "a zip of nothing": ("EURUSD.zip", zipped({"readme.md": b"x"}), "nothing in this zip holds bars"),
    "an empty gzip": ("EURUSD.csv.gz", gzip.compress(b""), "the file is empty"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_one_error(kind: str, tmp_path: Path) -> None:
    name, body, said = BROKEN[kind]
    (tmp_path / name).write_bytes(body)
    with pytest.raises(MarketDataError, match=said):
        import_paths(tmp_path / name, SETTINGS)


def test_what_unpacks_to_more_than_is_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "EURUSD.csv.gz").write_bytes(gzip.compress(b"0" * 3_000_000))
    small = Settings.load(overrides=["market.largest_file_mb=1"])
    with pytest.raises(MarketDataError, match=r"more than 1 MB; accepted: a smaller file \(market.largest_file_mb\)"):
        import_raw(tmp_path / "EURUSD.csv.gz", small)


def test_options_of_one_file_in_a_folder_are_named_by_the_message_that_needs_them(tmp_path: Path) -> None:
    days = np.datetime64("2012-12-03") + np.arange(5)[:, None] + 7 * np.arange(6)
    rows = "".join(f"{day},130583,131073,130453,130935\n" for day in days.T.ravel())
    (tmp_path / "EURUSD_scaled.csv").write_text(f"Date,Open,High,Low,Close\n{rows}")
    (tmp_path / "GOLD.csv").write_bytes(GOLD)
    with pytest.raises(MarketDataError, match=r'--set .market\.files=\{"EURUSD_scaled\.csv": \{scale: 100000\}\}'):
        import_paths(tmp_path, SETTINGS)
    named = Settings.load(overrides=['market.files={"EURUSD_scaled.csv": {scale: 100000}}'])
    assert [one.bars[0, 0] for one in import_paths(tmp_path, named).series] == [1.30583, 1300.5]
