"""Runs that a person started, and what is left of them beside their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """A run that a person started.

    said: on the console. sessions: where Ray kept its session's files.
    """

    run: Path
    said: str
    sessions: Path
