"""Routes Ray's warnings into the run's log, and to the console while the session begins.

Ray's own handler would put every warning between the progress lines; switched off, it would hide that the shared memory
is too small. So it keeps errors, and warnings go the way of this project's own lines.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger("mtquant_rllib.training")

EXPECTED = ("Token authentication is enabled",)
"""Beginnings of warnings that say how a session is meant to be."""


class RayWarnings(logging.Handler):
    """Passes Ray's warnings and errors on to the run's log.

    beginning: whether warnings are shown too, as while a session begins.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.beginning = False

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if text.startswith(EXPECTED):
            return
        logger.log(record.levelno, "Ray: %s", text)
        if self.beginning and record.levelno < logging.ERROR:
            print(f"Ray: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def ray_warnings() -> Iterator[RayWarnings]:
    """Ray's loggers as described above, for as long as the session lasts."""
    root, ours = logging.getLogger("ray"), RayWarnings()
    theirs = [(handler, handler.level) for handler in root.handlers]
    level = root.level
    for handler, _ in theirs:
        handler.setLevel(logging.ERROR)
    root.addHandler(ours)
    root.setLevel(logging.WARNING)
    # After a kill, Tune's record lists checkpoints that are gone already, and each is reported with a traceback.
    tune = logging.getLogger("ray.tune.execution.tune_controller")
    tune_level = tune.level
    tune.setLevel(logging.CRITICAL)
    try:
        yield ours
    finally:
        root.removeHandler(ours)
        root.setLevel(level)
        tune.setLevel(tune_level)
        for handler, before in theirs:
            handler.setLevel(before)
