"""The shipped desk: its settings, and the widths its feature layout has."""

from types import SimpleNamespace

import pytest
import torch

from mtquant_rllib.config import Settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="session")
def widths() -> SimpleNamespace:
    """The document's."""
    return SimpleNamespace(meta=74, block=50, specialist_state=10, instrument_state=11)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
