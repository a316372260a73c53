"""W&B beside a sweep: the followers of its runs, one after the other in one process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mtquant_rllib.training.records.manifest_file import is_run
from mtquant_rllib.training.reporting.weights_and_biases.follower import Follower, sole
from mtquant_rllib.training.reporting.weights_and_biases.session import OFFLINE, Mode


def runs_of(sweep: Path) -> list[Path]:
    """The runs that lie in a sweep, by name."""
    return sorted(path for path in sweep.iterdir() if path.is_dir() and is_run(path))


@dataclass
class SweepFollower:
    """As of `Follower`. Where the service cannot be used for one run it is not asked for the others."""

    sweep: Path
    mode: Mode
    say: Callable[[str], None]
    patience_s: float = math.inf
    _followers: dict[Path, Follower] = field(default_factory=dict)

    def look(self) -> None:
        for run in runs_of(self.sweep):
            with sole(run) as alone:
                if not alone:
                    # An evaluation of the run is being logged; the next look has the rest.
                    continue
                follower = self._of(run)
                follower.look()
            if follower.mode == OFFLINE != self.mode:
                # The service that the others had has ended with it. What they were told, their files say.
                self.mode, self._followers = OFFLINE, {run: follower}

    def finish(self) -> None:
        for run, follower in self._followers.items():
            with sole(run) as alone:
                if alone:
                    follower.finish()

    def _of(self, run: Path) -> Follower:
        if run not in self._followers:
            self._followers[run] = Follower(run, self.mode, self.say)
        follower = self._followers[run]
        follower.patience_s = self.patience_s
        return follower
