"""The shipped desk: its settings, and the widths its feature layout has."""

import pytest
import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.policies.registry import DeskWidths


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="session")
def widths() -> DeskWidths:
    return DeskWidths(meta=74, block=50, specialist_state=10, instrument_state=11)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
