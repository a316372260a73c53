"""Which of W&B's files of a run were sent, and sending the others by W&B's own command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mtquant_rllib.training.reporting.weights_and_biases.transaction_log import files_of

_SYNCED = ".synced"
"""Ending of the empty file that stands beside a transaction log that was sent; W&B's own."""


def unsent(run: Path, wandb_id: str | None = None) -> list[Path]:
    """Transaction logs that are not marked as sent, of one W&B run or of all, in the order in which they were begun."""
    return [path for path in files_of(run, wandb_id) if not _mark(path).exists()]


def mark_sent(path: Path) -> None:
    _mark(path).touch()


def send(run: Path, paths: list[Path], *, quiet: bool = False) -> None:
    """Send files one after the other, as far as they are taken: steps follow one another, and `latest` is the last.

    What was sent is marked. quiet: say nothing of it.
    """
    silence = subprocess.DEVNULL if quiet else None
    for path in paths:
        words = [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", str(path)]
        subprocess.run(
            words, env={**os.environ, "WANDB_DIR": str(run)}, stdin=subprocess.DEVNULL, stdout=silence, stderr=silence
        )
        if not _mark(path).exists():
            return


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}{_SYNCED}")
