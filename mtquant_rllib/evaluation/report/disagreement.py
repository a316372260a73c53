"""How far the members of an ensemble disagree, bar by bar: the uncertainty of its decisions.

The deviation of the members' actions, which lie in [-1, 1], as a mean over a group's agents and their actions: 0 where
all members do the same, up to 1 where half of them do the opposite of the others.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.policies.ensemble import EnsembleActor


class DisagreementLog:
    """Called after each bar that an ensemble has played in one environment."""

    def __init__(self, actor: EnsembleActor, data: DeskData) -> None:
        self._actor, self._data = actor, data
        self._rows: list[int] = []
        self._values: list[dict[str, float]] = []

    def __call__(self, desk: Any) -> None:
        if desk.state.done[0]:
            return
        self._rows.append(int(desk.state.row[0]))
        self._values.append({group: float(spread[0].mean()) for group, spread in self._actor.disagreement.items()})

    @property
    def mean(self) -> dict[str, float]:
        """By group, over all bars; NaN for a group that never decided."""
        groups = dict.fromkeys(group for values in self._values for group in values)
        return {group: float(np.mean([one[group] for one in self._values if group in one])) for group in groups}

    def write(self, path: Path) -> Path:
        """A row a bar: its timestamp, and the members' disagreement about the decision that it filled, by group. A
        group that did not decide at a bar stands by its last decision."""
        groups, timestamps = list(self.mean), self._data.execution.timestamps
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["timestamp", *groups])
            for row, values in zip(self._rows, self._values):
                cells = [f"{values[group]:.6g}" if group in values else "" for group in groups]
                writer.writerow([str(timestamps[row]), *cells])
        return path
