"""Setup of benches of training: a Ray session, and a run whose budget does not end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.training.curriculum.phases import JOINT
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord, TrialRecord
from mtquant_rllib.training.session.process_variables import PROCESS_VARIABLES
from mtquant_rllib.training.session.ray_start import start_local

BUDGET = 10**9
"""Bars. Never reached, so that learning rates stand still."""


@contextmanager
def ray_session(settings: Settings, cpus: int, object_store_mb: int | None = None) -> Iterator[None]:
    """Ray with so many CPUs to hand out, an object store of that size or the settings'."""
    memory = object_store_mb or settings.resources.object_store_mb
    start_local(cpus, memory, log_to_driver=False, runtime_env={"env_vars": {**PROCESS_VARIABLES}})
    try:
        yield
    finally:
        ray.shutdown()


def endless_run(settings: Settings, market: MarketRecord, phase: int = 3) -> Manifest:
    """A run of that phase's joint trial."""
    manifest = Manifest.begin("bench", settings, market, 1.0, [phase])
    manifest.phase(phase).trials[JOINT] = TrialRecord(budget_bars=BUDGET)
    return manifest
