"""Retries of writes while storage is full or unreachable."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mtquant_rllib import durable
from mtquant_rllib.errors import RunError, TrainingFailed

logger = logging.getLogger("mtquant_rllib.training")

T = TypeVar("T")
_EVERY_S = 2.0
"""Pause between two tries."""
TELL_EVERY_S = 30.0
"""Between two lines that say what is waited for."""
_NEVER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
"""Errors that time does not heal."""


class StorageError(TrainingFailed):
    """Storage failed for longer than the run waits."""


def with_retries(
    write: Callable[[], T], what: str, patience_s: float, witness: Path | None = None, action: str = "written"
) -> T:
    """Call `write`, and call it again while the storage fails, for up to `patience_s` seconds.

    action: what is done with `what`, for the sentence that says what could not be.

    witness: a file that is there whenever the storage is; while it is, a file that is missing is missing for good.

    Raises
    ------
    StorageError
        With the operating system's reason, when the time is over or waiting cannot help.
    """
    began = time.monotonic()
    last_report = began - TELL_EVERY_S
    while True:
        # Storage that comes back while an attempt fails is there when it has failed: the next attempt tells.
        was_there = witness is not None and witness.exists()
        try:
            return write()
        except (OSError, RunError) as refused:
            error = refused if isinstance(refused, OSError) else refused.__cause__
            if not isinstance(error, OSError):
                raise
            if isinstance(error, FileNotFoundError) and was_there and witness is not None and witness.exists():
                raise
            waited = time.monotonic() - began
            if waited >= patience_s or error.errno in _NEVER:
                raise StorageError(
                    f"{what} could not be {action} for {waited:.0f} seconds: {reason(error)}; once there is room, "
                    "or the storage is back, carry the run on with `mtquant resume`"
                ) from error
            if time.monotonic() - last_report >= TELL_EVERY_S:
                last_report = time.monotonic()
                logger.warning("waiting for storage: %s cannot be %s: %s", what, action, reason(error))
            time.sleep(min(_EVERY_S, max(patience_s - waited, 0.05)))


def probe(folder: Path) -> None:
    """Write a block into a folder and remove it. Raises OSError where the storage does not take it."""
    path = durable.temporary_path(folder / "probe")
    try:
        durable.write_new(path, lambda file: file.write(b"x" * 4096))
    finally:
        path.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """The operating system's words, and the file where it is known."""
    return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
