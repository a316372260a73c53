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
    """Called after each bar that an ensemble has played."""

    def __init__(self, actor: EnsembleActor, data: DeskData) -> None:
        self._actor, self._data = actor, data
        self._bars: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []

    def __call__(self, desk: Any) -> None:
        envs = np.flatnonzero(~desk.state.done)
        spread = {
            group: values[envs].reshape(len(envs), -1).mean(axis=1)
            for group, values in self._actor.disagreement.items()
        }
        self._bars.append((envs, desk.state.row[envs].copy(), spread))

    @property
    def mean(self) -> dict[str, float]:
        """By group, over all bars of all environments."""
        groups = dict.fromkeys(group for _, _, spread in self._bars for group in spread)
        return {
            group: float(np.concatenate([spread[group] for _, _, spread in self._bars if group in spread]).mean())
            for group in groups
        }

    def write(self, path: Path) -> Path:
        """A row a bar: environment, timestamp, and the members' disagreement about the decision that it filled, by
        group. A group that did not decide at a bar stands by its last decision."""
        groups, timestamps = list(self.mean), self._data.execution.timestamps
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["environment", "timestamp", *groups])
            for envs, rows, spread in self._bars:
                for number, (env, row) in enumerate(zip(envs, rows)):
                    cells = [f"{spread[group][number]:.6g}" if group in spread else "" for group in groups]
                    writer.writerow([env, str(timestamps[row]), *cells])
        return path
