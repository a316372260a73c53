"""The process beside a training: `python -m ...weights_and_biases.follower_process RUN`, of a run or a sweep.

It looks into the folder every `tracking.wandb.poll_seconds`, until its input ends, which it does when whoever started
it ends, in whatever way. What it says is a line for a person.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import select
import signal
import sys
from pathlib import Path

from mtquant_rllib.config.sections.training import TrackingConfig
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.weights_and_biases.follower import Follower, kept_offline, sole
from mtquant_rllib.training.reporting.weights_and_biases.session import (
    DISABLED,
    OFFLINE,
    Mode,
    Unreachable,
    first_line,
    usual_mode,
)
from mtquant_rllib.training.reporting.weights_and_biases.sweep_follower import SweepFollower
from mtquant_rllib.training.search.record import SweepRecord, is_sweep

_NICE = 10
"""Training comes first on a busy machine."""


def follow(run: Path, mode: Mode) -> None:
    """Keep W&B a copy of a run, or of a sweep's runs, until the input ends, and `tracking.wait_seconds` longer at most.
    Where another process does, it goes on once that one has ended."""
    if mode == DISABLED:
        return
    tracking, kind = _tracking(run), SweepFollower if is_sweep(run) else Follower
    while True:
        with sole(run) as alone:
            if not alone:
                if _input_ended(tracking.wandb.poll_seconds):
                    return
                continue
            follower, going_on = kind(run, mode, _say), True
            while going_on:
                going_on = not _input_ended(tracking.wandb.poll_seconds)
                if not going_on:
                    follower.patience_s = tracking.wait_seconds / 2
                    # Whoever would end it for being late may be gone.
                    signal.alarm(math.ceil(tracking.wait_seconds) + 1)
                follower.look()
            follower.finish()
            return


def _tracking(run: Path) -> TrackingConfig:
    settings = SweepRecord.read(run).load_settings() if is_sweep(run) else Manifest.read(run).load_settings()
    return settings.tracking


def _mode() -> Mode:
    """What W&B's own settings say; offline, and said, where its key is none."""
    try:
        return usual_mode()
    except Unreachable as error:
        _say(kept_offline(str(error)))
        return OFFLINE


def _say(text: str) -> None:
    print(text, flush=True)


def _input_ended(wait_s: float) -> bool:
    ready, _, _ = select.select([0], [], [], wait_s)
    return bool(ready) and not os.read(0, 4096)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--offline", action="store_true", help="whatever W&B's settings say")
    args = parser.parse_args()
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    try:
        follow(args.run, OFFLINE if args.offline else _mode())
    except Exception as error:
        # An observer never stops the job, whatever it meets.
        _say(f"{type(error).__name__}: {first_line(error)}; it is left alone from here")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
