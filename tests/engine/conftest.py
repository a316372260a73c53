"""Trials on a small embedded market, for both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL_MARKET

from mtquant_rllib.config import Settings
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.curriculum.phases import plan_named
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.records.manifest import Manifest, TrialRecord

SMALL = [
    *SMALL_MARKET,
    "desk.episode.bars=20",
    "recipe.environments=4",
    "recipe.validations=1",
]

MakeConfig = Callable[..., Any]


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """(phase, trial name, overrides...) -> configuration of that trial."""

    def make(phase: int, name: str, *overrides: str) -> Any:
        settings = Settings.load(overrides=[*SMALL, *overrides])
        manifest = Manifest.begin("engine", settings, prepare(settings, None, None), 1.0, [phase])
        manifest.phase(phase).trials[name] = TrialRecord(budget_bars=1000)
        return build_config(plan_named(settings, phase, name), manifest, TrialResources(1.0, 1.0, 0.0))

    return make


def data_of(config: Any) -> Path:
    return Path(config.env_config["data"])
