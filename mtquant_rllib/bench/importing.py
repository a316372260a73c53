"""What it costs to come by a market: to read a raw export of minute bars, to load prepared files, to simulate years.

read_s            seconds until a raw export of so many rows is a checked series
rows_per_s        rows over those seconds
read_peak_mb      by how much the process's peak of resident memory rose meanwhile
simulate_s        seconds for twenty years of daily bars of all instruments of the settings, one path
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.importing.importers import import_raw
from mtquant_rllib.market.synthetic import synthesise

YEARS = 20
FIRST_MINUTE = np.datetime64("2020-01-06T00:00")
MINUTES_A_WEEK, MINUTES_A_DAY, TRADED_DAYS = 7 * 1440, 1440, 5


def bench_import(settings: Settings, *, rows: int, repeats: int) -> dict[str, float]:
    """Figures, seconds as medians of so many repeats; see the module's docstring."""
    with tempfile.TemporaryDirectory() as folder:
        export = write_minute_export(Path(folder) / f"{settings.universe.symbols[0]}_M1.csv", rows)
        before_mb = _peak_mb()
        read_s = []
        for _ in range(repeats):
            began = time.perf_counter()
            (series,), _ = import_raw(export, settings)
            read_s.append(time.perf_counter() - began)
            assert len(series) == rows
        peak_mb = _peak_mb() - before_mb
    simulate_s = []
    for _ in range(repeats):
        began = time.perf_counter()
        synthesise(settings, n_paths=1, n_years=YEARS, seed=1)
        simulate_s.append(time.perf_counter() - began)
    seconds = statistics.median(read_s)
    return {
        "rows": rows,
        "read_s": seconds,
        "rows_per_s": rows / seconds,
        "read_peak_mb": peak_mb,
        "simulate_s": statistics.median(simulate_s),
    }


def write_minute_export(path: Path, rows: int) -> Path:
    """An export of MetaTrader's kind: tabs, dates with dots, Monday to Friday, prices of a few digits that repeat."""
    count = np.arange(rows)
    week, minute = np.divmod(count, TRADED_DAYS * MINUTES_A_DAY)
    timestamps = FIRST_MINUTE + (week * MINUTES_A_WEEK + minute).astype("timedelta64[m]")
    texts = (str(timestamp).replace("-", ".").replace("T", "\t") + ":00" for timestamp in timestamps)
    prices = [f"{1.1 + k / 1e5:.5f}\t1.20001\t1.05001\t{1.1 + k / 1e5:.5f}\t7" for k in range(97)]
    with path.open("w") as file:
        file.write("<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\n")
        file.writelines(f"{text}\t{prices[k % len(prices)]}\n" for k, text in enumerate(texts))
    return path


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
