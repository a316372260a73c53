"""Warns of damaged files that a run survives: once on the console, every time in the log."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("mtquant_rllib.training")

_said: set[str] = set()


def warn(text: str) -> None:
    """Log a warning, and print it to standard error once a process."""
    if logger.hasHandlers():
        # Without one, logging itself would show the warning a second time.
        logger.warning(text)
    if text not in _said:
        _said.add(text)
        print(f"warning: {text}", file=sys.stderr, flush=True)
