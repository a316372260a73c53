"""Markets made of random walks, with holidays, and the real bars where MTQUANT_BARS names their folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.market.bars import MarketData

MACRO_COLUMNS = ("vix", "dxy", "rate_3m", "rate_2y", "rate_10y")


def random_walk(settings: Settings, n_rows: int, seed: int, masked: bool, hourly: bool = False) -> MarketData:
    """Bars of independent random walks; if masked, each market has its own holidays and one starts late."""
    rng = np.random.default_rng(seed)
    n = settings.universe.n_instruments
    close = np.array([1.1, 1.5, 110, 1500, 60, 3000, 8000, 25000]) * np.exp(
        np.cumsum(0.01 * rng.standard_normal((n_rows, n)), axis=0)
    )
    previous = np.vstack([close[:1], close[:-1]])
    opens = previous * np.exp(0.002 * rng.standard_normal((n_rows, n)))
    reach = np.exp(0.004 * np.abs(rng.standard_normal((2, n_rows, n))))
    high, low = np.maximum(opens, close) * reach[0], np.minimum(opens, close) / reach[1]
    volume = np.exp(8 + 0.5 * rng.standard_normal((n_rows, n)))
    bars = np.stack([opens, high, low, close, volume], axis=-1)
    valid = np.ones((n_rows, n), dtype=bool)
    if masked:
        valid = rng.random((n_rows, n)) > 0.03
        valid[:40, 3] = False
        bars[rng.random((n_rows, n)) < 0.01, 4] = np.nan
    bars[~valid] = np.nan
    steps = rng.standard_normal((n_rows, 5)) * [0.05, 0.004, 0.02, 0.04, 0.05]
    levels = np.cumsum(steps, axis=0)
    macro = np.column_stack([19 * np.exp(levels[:, 0]), 95 * np.exp(levels[:, 1]), 2 + levels[:, 2:]])
    if masked:
        macro[:30, 2] = np.nan
    start = np.datetime64("2001-01-01", "s")
    if hourly:
        timestamps = start + np.arange(n_rows) * np.timedelta64(3600, "s")
    else:
        timestamps = np.busday_offset("2001-01-01", np.arange(n_rows), roll="forward").astype("datetime64[s]")
    proxy = np.array([row.volume_proxy for row in settings.instruments])
    return MarketData(
        symbols=settings.universe.symbols,
        timestamps=timestamps,
        bars=bars,
        valid=valid,
        macro=macro,
        macro_columns=MACRO_COLUMNS,
        stale_open=np.zeros((n_rows, n), dtype=bool),
        volume_proxy=proxy,
        daily=not hourly,
    )


def scramble_after(market: MarketData, t: int, seed: int) -> MarketData:
    """The same market up to and including row t; other prices, ranges, volumes, holidays and macro afterwards."""
    rng = np.random.default_rng(seed)
    bars, valid, macro = market.bars.copy(), market.valid.copy(), market.macro.copy()
    after = slice(t + 1, None)
    n_after, n = valid[after].shape
    close = 100 * np.exp(np.cumsum(0.05 * rng.standard_normal((n_after, n)), axis=0))
    bars[after] = close[..., None] * np.array([0.99, 1.02, 0.97, 1.0, 1e6])
    bars[after, :, 4] *= rng.random((n_after, n))
    valid[after] = rng.random((n_after, n)) > 0.1
    bars[~valid] = np.nan
    macro[after] = np.where(np.isnan(macro[after]), np.nan, rng.uniform(1, 50, macro[after].shape))
    return replace(market, bars=bars, valid=valid, macro=macro)


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="session")
def walk(settings: Settings) -> Callable[..., MarketData]:
    """walk(n_rows, seed, masked, hourly=False) -> MarketData"""

    def make(n_rows: int, seed: int = 0, masked: bool = False, hourly: bool = False) -> MarketData:
        return random_walk(settings, n_rows, seed, masked, hourly)

    return make


@pytest.fixture(scope="session")
def scramble() -> Callable[[MarketData, int, int], MarketData]:
    return scramble_after


@pytest.fixture(scope="session")
def real_bars(settings: Settings) -> MarketData:
    """The eight daily series with macro."""
    if "MTQUANT_BARS" not in os.environ:
        pytest.skip("MTQUANT_BARS is not set: no folder of real bars")
    from mtquant_rllib.market.importing.importers import load_market

    folder = Path(os.environ["MTQUANT_BARS"])
    return load_market(settings, folder / "daily.parquet", folder / "macro.parquet")[0]
