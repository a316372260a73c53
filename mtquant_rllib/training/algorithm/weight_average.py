"""Exponential moving average of the weights, which competes with the weights themselves for "best on validation".

A policy gradient of daily bars is noise for the most part: the weights of one update carry the noise of the last
batches, which their average does not (Polyak & Juditsky 1992; for networks Izmailov et al. 2018). Learning itself goes
on from the weights as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtquant_rllib.training.records.module_states import ModuleState


class WeightAverage:
    """Exponential average of module states over about `updates` updates.

    A young average weighs the n-th update by n (Shamir & Zhang 2013), so that the start does not linger. `updates`:
    None averages nothing.
    """

    def __init__(self, updates: int | None) -> None:
        self._updates = updates
        self._count = 0
        self._states: dict[str, dict[str, np.ndarray]] = {}

    def take_in(self, states: Mapping[str, ModuleState]) -> None:
        """Move the average toward the states after an update."""
        if self._updates is None:
            return
        if not self._states:
            self._states = _copied(states)
        self._count += 1
        kept = min(1.0 - 1.0 / self._updates, (self._count - 1) / (self._count + 1))
        for module, state in states.items():
            for name, average in self._states[module].items():
                average += np.float32(1.0 - kept) * (state[name] - average)

    def of(self, states: Mapping[str, ModuleState]) -> dict[str, ModuleState] | None:
        """The states with averages in place of what was averaged; None before there is one."""
        return {**states, **self._states} if self._states else None

    def get_state(self) -> dict[str, Any]:
        return {"count": self._count, "states": self._states}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._count = state["count"]
        self._states = _copied(state["states"])


def _copied(states: Mapping[str, ModuleState]) -> dict[str, dict[str, np.ndarray]]:
    return {module: {name: np.array(array) for name, array in arrays.items()} for module, arrays in states.items()}
