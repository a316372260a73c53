"""Histories to audit, and settings that look at few bars of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audited import FEW

from mtquant_rllib.config import Settings
from mtquant_rllib.market.bars import VOLUME, MarketData
from mtquant_rllib.market.importing.macro import MacroSeries, as_of
from mtquant_rllib.market.synthetic import synthesise


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load(overrides=FEW)


@pytest.fixture(scope="session")
def daily(settings: Settings) -> MarketData:
    return synthesise(settings, n_paths=1, n_years=3.2, seed=4, variant="default").markets[0]


@pytest.fixture(scope="session")
def hourly(settings: Settings) -> MarketData:
    """Bars of four hours around the clock, whose volumes are the hours' own."""
    market = synthesise(settings, n_paths=1, n_years=8.0, seed=5, variant="default").markets[0]
    timestamps = np.datetime64("2019-01-01", "s") + np.arange(len(market)) * np.timedelta64(4 * 3600, "s")
    bars = market.bars.copy()
    bars[..., VOLUME] = np.exp(8 + 0.4 * np.random.default_rng(0).standard_normal(bars.shape[:2]))
    return replace(market, timestamps=timestamps, daily=False, bars=bars)


@pytest.fixture(scope="session")
def published(daily: MarketData) -> MacroSeries:
    """Macro series of `daily` as they were published: what a bar knows is dated a business day before."""
    dates = daily.timestamps[:-1].astype("datetime64[D]")
    return MacroSeries(dates, daily.macro[1:], daily.macro_columns)


@pytest.fixture(scope="session")
def joined(settings: Settings, daily: MarketData, published: MacroSeries) -> MarketData:
    """`daily` with those series joined from their dates."""
    return replace(daily, macro=as_of(published, daily.timestamps, daily.daily, settings.market.macro))
