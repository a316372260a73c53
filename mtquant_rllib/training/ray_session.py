"""The Ray session that a run trains in: its own on this machine, or a cluster's."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.training.seeding import PINNED


@dataclass(frozen=True)
class Machines:
    """What the session has."""

    cpus: float
    gpus: float


@contextlib.contextmanager
def session(settings: Settings, run: Path, address: str | None, cpus: float) -> Iterator[Machines]:
    """A Ray session whose processes know the run's folder and compute reproducibly, with at least `cpus`."""
    # Tune's own table and banners would stand between our lines.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    # One resumes from Tune's own snapshot: a short period loses little when the driver is killed.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3")
    common: dict[str, Any] = {
        "runtime_env": {"env_vars": {**PINNED}},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    # After a kill, Tune's record lists checkpoints that are gone already, and each is reported with a traceback.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    if address is None:
        # "local": never the session that a killed driver left behind.
        ray.init(
            address="local",
            num_cpus=max(settings.resources.cpus or os.cpu_count() or 1, math.ceil(cpus)),
            object_store_memory=settings.resources.object_store_mb * 2**20,
            include_dashboard=False,
            **common,
        )
    else:
        ray.init(address=address, **common)
    try:
        there = ray.cluster_resources()
        usable = address is not None or torch.cuda.is_available()
        yield Machines(float(there.get("CPU", 1.0)), float(there.get("GPU", 0.0)) if usable else 0.0)
    finally:
        ray.shutdown()
