"""An import ends with what it understood, and writes a report beside the bars."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtquant_rllib.cli import main

ROWS = "".join(f"2019-02-{day} 1{k}:00,1.1,1.105,1.095,1.10{k},{k}\n" for day in (14, 15) for k in range(5))


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    path = tmp_path / "EURUSD.csv"
    path.write_text(f"time,open,high,low,close,volume\n{ROWS}")
    return path


def test_an_import_ends_with_its_first_and_last_rows_clock_frequency_and_units(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "import", str(bars), "--timezone", "UTC+2", "--out", str(tmp_path / "out.parquet")]) == 0
    said = capsys.readouterr().out
    assert (
        "EURUSD: 1 hour bars, timestamps read as UTC+2, prices in USD for 1 EUR, volume as the source counts it" in said
    )
    for row in ("2019-02-14 08:00", "2019-02-14 09:00", "... 6 more", "2019-02-15 12:00"):
        assert row in said
    report = json.loads((tmp_path / "out_report.json").read_text())
    assert report["files"][0]["clock"] == "UTC+2"
    assert report["files"][0]["rows_kept"] == 10
    assert any("1 hour bars" in line for line in report["preview"])


def test_a_dry_run_shows_everything_and_writes_nothing(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "import", str(bars), "--dry-run", "--out", str(tmp_path / "out.parquet")]) == 0
    assert "prices in USD for 1 EUR" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EURUSD.csv"]


def test_a_refused_folder_writes_nothing(bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "GBPUSD.csv").write_text("time,open,high,low,close\n2019-02-14 10:00,x,1,1,1\n")
    out = tmp_path / "made" / "out.parquet"
    assert main(["data", "import", str(tmp_path), "--out", str(out)]) == 2
    assert "GBPUSD.csv: line 2" in capsys.readouterr().err
    assert not out.parent.exists()
    assert main(["data", "import", str(tmp_path), "--skip-refused", "--out", str(out)]) == 0
    assert "not read: refused: " in capsys.readouterr().out
    assert out.exists()


def test_a_reference_tells_the_lag(bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", str(bars), "--reference", str(bars)]) == 0
    assert "hours in common with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--decimal", ";"], "decimal = ';'"),
        (["--multiplier", "M=3"], "is no power of ten"),
        (["--multiplier", "M"], "multipliers.M"),
        (["--timezone", "Mars"], "is no time zone"),
        (["--timezone", "UTC+20"], "no clock is further"),
    ],
)
def test_an_option_that_cannot_be_is_one_error(
    arguments: list[str], said: str, bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "import", str(bars), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") <= 2
