"""A run's folder as a training leaves it, made without one: manifest, curves that grow, policies that are handed over.

As a program it is a driver that can be killed: `tracked_runs.py RUN PHASE TRIAL FIRST LAST [SECONDS]` writes iterations
FIRST to LAST of a trial's curve, that many seconds apart, with Weights & Biases beside it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.training.curriculum.phases import plan_phase
from mtquant_rllib.training.records import module_states, ownership
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord, TrialRecord
from mtquant_rllib.training.reporting.curve_files import ITERATION, append_row, curve_of, rewrite, truncated_csv
from mtquant_rllib.training.reporting.weights_and_biases.launcher import followed

BARS = 640
"""Of an iteration."""
TRACKED = ("tracking.trackers=[wandb]", "tracking.wandb.poll_seconds=0.2", "tracking.wandb.connect_seconds=2")


def begun(folder: Path, *overrides: str, phases: Iterable[int] = (1, 2, 3)) -> Path:
    """A new run, whose first phase has begun."""
    settings = Settings.load(overrides=[*TRACKED, *overrides])
    market = MarketRecord(kind="synthetic", data="/cache/embedded-0123")
    ownership.claim(folder)
    manifest = Manifest.begin(folder.name, settings, market, 0.5, list(phases))
    begin_phase(manifest, 1)
    manifest.write(folder)
    return folder


def begin_phase(manifest: Manifest, phase: int) -> None:
    plans = plan_phase(manifest.load_settings(), phase)
    manifest.phase(phase).trials = {plan.name: TrialRecord(budget_bars=100_000) for plan in plans}
    manifest.phase(phase).status = "running"


def end_phase(run: Path, phase: int, sharpe: float = 0.5) -> None:
    """Hand states on, as a phase does whose trials are finished, and begin the next."""
    manifest = Manifest.read(run)
    record = manifest.phase(phase)
    modules = {module for plan in plan_phase(manifest.load_settings(), phase) for module in plan.modules}
    record.result = f"policies/phase_{phase}"
    content = {module: {"policy.w": np.full(3, float(phase))} for module in sorted(modules)}
    module_states.write(run / record.result, content, run=run, phase=phase)
    for trial in record.trials.values():
        trial.best_sharpe, trial.best_bars, trial.bars = sharpe, BARS, trial.budget_bars
    record.status = "done"
    if str(phase + 1) in manifest.phases:
        begin_phase(manifest, phase + 1)
    manifest.write(run)


def row(iteration: int) -> dict[str, Any]:
    """Of a curve, as `curve_columns.curve_row` makes it."""
    return {
        "iteration": iteration,
        "bars": BARS * iteration,
        "bars_per_s": 1.5,
        "validation_sharpe": 0.1 * iteration,
        "best_sharpe": float("nan"),
        "EURUSD/policy_loss": -0.25,
        "EURUSD/attention_diversity": 0.5,
        "EURUSD/sampled_unsure": 3,
        "validation/volatility_ann": 0.1,
        "validation/turnover_ann": 9.0,
        "validation/forex_specialist/attention_entropy": 0.9,
        "validation/regime_share_bull": 0.25,
        "system/cpu_percent": 80.0,
    }


def write_rows(run: Path, phase: int, trial: str, numbers: Iterable[int], apart_s: float = 0.0) -> None:
    """Iterations of a trial, as they come in; one at or before the last turns the curve back, as a restore does."""
    path = curve_of(run, phase, trial)
    path.parent.mkdir(exist_ok=True)
    for number in numbers:
        rewrite(path, lambda text, lost=number: truncated_csv(text, ITERATION, lost))
        append_row(path, row(number))
        time.sleep(apart_s)


def main(run: str, phase: str, trial: str, first: str, last: str, apart_s: str = "0") -> None:
    folder = Path(run)
    with followed(folder, Manifest.read(folder).load_settings(), lambda text: print(text, flush=True)):
        write_rows(folder, int(phase), trial, range(int(first), int(last) + 1), float(apart_s))
        print("written", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
