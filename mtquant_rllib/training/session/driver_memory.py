"""The driver's memory while an experiment runs."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback

from mtquant_rllib.engine.process_memory import trim_memory


class DriverMemory(Callback):
    """Returns the driver's free memory to the machine now and then: what each result brought is freed in pieces."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        trim_memory()
