"""Damage that is survived is said: once on the console, and every time in the log."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("mtquant_rllib.training")

_said: set[str] = set()


def warn(text: str) -> None:
    """Log the warning, and show it to the person who waits, once a process."""
    logged = logger.hasHandlers()
    if logged or text not in _said:
        # Without a handler, logging itself shows warnings on stderr.
        logger.warning(text)
    if logged and text not in _said:
        print(f"warning: {text}", file=sys.stderr, flush=True)
    _said.add(text)
