"""Desks on small markets, and on the real bars where MTQUANT_BARS names their folder."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
from markets import roughen, smooth

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.market.bars import MarketData

# The first example pays for imports and tables; a busy machine is no failure.
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.load_profile("desk")


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="session")
def calm(settings: Settings) -> DeskData:
    """Two paths of the synthetic market."""
    return DeskData.of(settings, smooth(settings, n_paths=2))


@pytest.fixture(scope="session")
def rough_market(settings: Settings) -> MarketData:
    return roughen(settings, smooth(settings, n_years=4.0)[0], seed=3)


@pytest.fixture(scope="session")
def rough(settings: Settings, rough_market: MarketData) -> DeskData:
    return DeskData.of(settings, [rough_market])


@pytest.fixture(scope="session")
def real_market(settings: Settings) -> MarketData:
    if "MTQUANT_BARS" not in os.environ:
        pytest.skip("MTQUANT_BARS is not set: no folder of real bars")
    from mtquant_rllib.market.importing.importers import load_market

    folder = Path(os.environ["MTQUANT_BARS"])
    return load_market(settings, folder / "daily.parquet", folder / "macro.parquet")[0]


@pytest.fixture(scope="session")
def real(settings: Settings, real_market: MarketData) -> DeskData:
    return DeskData.of(settings, [real_market])
