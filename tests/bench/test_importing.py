"""The bench of reading: that its export is one that the reader takes whole, whatever its length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.bench.importing import bench_import, write_minute_export
from mtquant_rllib.config import Settings
from mtquant_rllib.market.importing.importers import import_raw

SETTINGS = Settings.load()


@pytest.mark.parametrize("rows", [7_201, 20_000])
def test_the_export_has_minutes_of_trading_days_alone(tmp_path: Path, rows: int) -> None:
    (series,), _ = import_raw(write_minute_export(tmp_path / "EURUSD_M1.csv", rows), SETTINGS)
    assert (series.symbol, len(series)) == ("EURUSD", rows)
    assert np.is_busday(series.timestamps.astype("datetime64[D]")).all()


def test_rows_a_second_are_rows_over_seconds() -> None:
    figures = bench_import(SETTINGS, rows=5_000, repeats=1)
    assert figures["rows"] == 5_000
    assert figures["rows_per_s"] == pytest.approx(5_000 / figures["read_s"])
    assert figures["simulate_s"] > 0
