"""Weights & Biases: one run per trial, over bars."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray.tune import Callback

from mtquant_rllib.training.reporting.curve_columns import curve_row
from mtquant_rllib.training.result_keys import BARS_LIFETIME, TRIAL


class WandB(Callback):
    """One Weights & Biases run per trial; without a key it is kept offline in the run's folder.

    An attempt that carries a run on writes into the same W&B run: its identity follows from the run's own.
    """

    def __init__(self, run: Path, run_id: str, phase: int, project: str) -> None:
        self.run, self.run_id, self.phase, self.project = run, run_id, phase, project
        self._runs: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": {}}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        import wandb

        name = trial.config[TRIAL]
        if name not in self._runs:
            folder = self.run
            os.environ["WANDB_DIR"] = str(folder)
            self._runs[name] = wandb.init(
                project=self.project,
                id=f"{self.run_id}-phase_{self.phase}-{name}",
                resume="allow",
                group=folder.name,
                name=f"{folder.name}-phase_{self.phase}-{name}",
                dir=str(folder),
                mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
                reinit="create_new",
                settings=wandb.Settings(silent=True),
            )
        self._runs[name].log(curve_row(result), step=result[BARS_LIFETIME])

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for run in self._runs.values():
            run.finish()
        self._runs = {}
