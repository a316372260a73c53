"""Who else is told of a training: the trackers that settings name.

`tensorboard` and Weights & Biases are this project's own. `mlflow` is Ray's callback, and any other is a class that
behaves as Tune's callbacks do, named `module:NAME` (Ray's `ray.air.integrations.comet:CometLoggerCallback`, say). These
get Tune's calls in a thread of their own, behind a queue that never makes training wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.training import TrackerConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import extension
from mtquant_rllib.training.reporting.guarded_tracker import GuardedTracker
from mtquant_rllib.training.reporting.result_files import TensorBoard

TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
ENTRY_POINTS = "mtquant_rllib.trackers"
_SAID = "tracking.trackers"


def tracked_by(settings: Settings, name: str) -> bool:
    return any(choice.tracker == name for choice in settings.tracking.trackers)


def expect_trackers(settings: Settings) -> None:
    """Raises ConfigError when a tracker cannot be found or made, before anything starts."""
    for choice in settings.tracking.trackers:
        if choice.tracker in (TENSORBOARD, WANDB):
            if choice.options:
                raise ConfigError(f"{_SAID}: {choice.tracker} takes no options here; see tracking.wandb")
        else:
            _made(choice)


def tracker_callbacks(settings: Settings, run: Path, phase: int) -> list[Callback]:
    """Tune's callbacks for a phase. Weights & Biases has none: it follows the run's folder
    (`weights_and_biases.launcher`)."""
    tracking, found = settings.tracking, list[Callback]()
    for choice in tracking.trackers:
        if choice.tracker == TENSORBOARD:
            found.append(TensorBoard(settings.checkpoints.storage_patience_seconds))
        elif choice.tracker != WANDB:
            found.append(GuardedTracker(choice.tracker, _made(choice), run.name, phase, settings))
    return found


def _made(choice: TrackerConfig) -> Any:
    """A tracker of Ray's or of a person's own.

    Raises
    ------
    ConfigError
        When it cannot be found or made, or behaves like no callback.
    """
    found = _mlflow() if choice.tracker == MLFLOW else extension(_SAID, choice.tracker, ENTRY_POINTS)
    try:
        made = found(**choice.options)
    except Exception as error:
        raise ConfigError(f"{_SAID}: {choice.tracker} cannot be made with options {choice.options}: {error}") from error
    if not isinstance(made, Callback):
        raise ConfigError(f"{_SAID}: {choice.tracker} is no tracker: expected a class derived from ray.tune.Callback")
    return made


def _mlflow() -> Any:
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{_SAID}: mlflow is not installed on this machine; pip install mlflow, or leave it out"
        ) from error
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback
