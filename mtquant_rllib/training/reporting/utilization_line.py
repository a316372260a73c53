"""What a phase says at its end of the machine that it held: how busy it was, and where a GPU was idle, what it waited
for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.result import TIME_THIS_ITER_S

from mtquant_rllib.training.placement.planner import Placement
from mtquant_rllib.training.result_keys import SYSTEM

PARTS = {"sampling_s": "sampling", "learning_s": "learning", "validation_s": "validation"}
"""Parts of an iteration, and what a person calls them."""
CURES = {
    "sampling": "more runners fill it: resources.runners",
    "learning": "larger batches (recipe.batch_size, sac.batch_size) or more trials on one GPU "
    "(resources.processes_per_gpu) fill it",
    "validation": "fewer validations leave more for it: recipe.validations",
}


class UtilizationLine(Callback):
    """Sums up the results of this attempt of a phase, weighted by the time that each took."""

    def __init__(
        self, phase: int, placement: Placement, gpu_percent_wanted: float, tell: Callable[[str], None]
    ) -> None:
        self._phase, self._wanted, self._tell = phase, gpu_percent_wanted, tell
        self._cpus = sum(placement.held_by(trial)[0] for trial in placement.trials)
        self._sums: dict[str, float] = defaultdict(float)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        seconds = result[TIME_THIS_ITER_S]
        self._sums["seconds"] += seconds
        for part in PARTS:
            self._sums[part] += _number(result[part])
        system = result[SYSTEM]
        self._sums["cpu_percent"] += system["cpu_percent"] * seconds
        if "gpu_percent" in system:
            self._sums["gpu_seconds"] += seconds
            self._sums["gpu_percent"] += system["gpu_percent"] * seconds

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._sums["seconds"]:
            self._tell(f"phase {self._phase} {self.line()}")

    def line(self) -> str:
        """`kept 1.9 of 2 CPUs busy (96%): sampling 38% of the time, learning 51%, validation 8%`."""
        seconds = self._sums["seconds"]
        percent = self._sums["cpu_percent"] / seconds
        shares = {name: self._sums[part] / seconds for part, name in PARTS.items()}
        parts = ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items())
        line = (
            f"kept {percent / 100 * self._cpus:.1f} of {self._cpus:g} CPUs busy ({percent:.0f}%): of the time {parts}"
        )
        if not self._sums["gpu_seconds"]:
            return line
        gpu = self._sums["gpu_percent"] / self._sums["gpu_seconds"]
        line += f"; GPUs {gpu:.0f}%"
        if gpu >= self._wanted:
            return line
        longest = max(shares, key=lambda name: shares[name])
        return f"{line}, less than {self._wanted:.0f}%: most of the time goes into {longest}; {CURES[longest]}"


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value
