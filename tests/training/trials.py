"""Trials held by hand, without Tune: in a test's own process, or in a fresh interpreter (`reproduced.py`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from small_runs import SMALL_MARKET

from mtquant_rllib.config import Settings
from mtquant_rllib.training.curriculum.trial import PhaseTrial
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest, TrialRecord
from mtquant_rllib.training.records.manifest_file import is_run

TINY = (
    *SMALL_MARKET,
    "desk.episode.bars=20",
    "recipe.environments=4",
    "recipe.min_updates=1",
    "recipe.validations=2",
)

IN_HUNDREDS = (
    "recipe.learning_rates.instruments=1e-3",
    "recipe.phase_learning_rate_fracs=[1, 1, 1]",
    "recipe.learning_rate_final_frac=0",
    "recipe.train_batch_bars=100",
    "resources.cpus=2",
)
"""PPO in updates of a hundred bars, whose rates fall to nothing over the budget."""


@dataclass(frozen=True)
class Trials:
    """Of one run, which lies in a folder and has these settings."""

    run: Path
    settings: Settings

    @classmethod
    def of(cls, run: Path, *overrides: str) -> Trials:
        return cls(run, Settings.load(overrides=[*TINY, *overrides]))

    def begin(self, phase: int, name: str, budget: int, start: str | None = None) -> None:
        """Write the trial into the run's manifest. start: module states to begin with, below the run's folder."""
        if is_run(self.run):
            manifest = Manifest.read(self.run)
        else:
            manifest = Manifest.begin("trials", self.settings, prepare(self.settings, None, None), 1.0, [phase])
        manifest.phase(phase).trials[name] = TrialRecord(budget_bars=budget)
        manifest.phase(phase).start = start
        manifest.write(self.run)

    def algorithm(self, phase: int, name: str, cpus: float = 1.0) -> Any:
        """The algorithm of a trial that has begun."""
        resources = {"cpus": cpus, "runner_cpus": cpus / 3, "gpus": 0.0, "learner_cpus": cpus / 3}
        config = {"run": str(self.run), "phase": phase, "trial": name, "nodes": {}, "resources": resources}
        return PhaseTrial(config).algorithm


def module_hashes(algorithm: Any) -> dict[str, str]:
    return {name: module_states.sha256(state) for name, state in algorithm.module_states().items()}


def digest(*items: Any) -> str:
    """One hash of nested states, in the order of their keys."""
    into = hashlib.sha256()
    for item in items:
        _add(item, into)
    return into.hexdigest()


def _add(item: Any, into: Any) -> None:
    if isinstance(item, dict):
        for key in sorted(item, key=str):
            into.update(str(key).encode())
            _add(item[key], into)
    elif isinstance(item, (list, tuple)):
        for part in item:
            _add(part, into)
    elif item is None or isinstance(item, str):
        into.update(str(item).encode())
    else:
        into.update(np.asarray(item).tobytes())
