"""A file lock on the run's folder, so that one process at a time trains it. The operating system releases it when its
holder ends, however it ends."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import ownership

FILE = ".lock"


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold the run's lock.

    Raises
    ------
    RunError
        When another process holds it, which is named; when the file system takes no locks, or the file cannot be
        written or is a symbolic link.
    """
    path = ownership.within(run, run / FILE)
    with contextlib.ExitStack() as stack:
        with durable.named_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            file = stack.enter_context(open(descriptor, "r+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{run}: {_holder(file.read())} trains this run at this moment; wait until it is done, or stop it"
                ) from None
            now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            _replace(file, strict_json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                _replace(file, "")


def _replace(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def holder(run: Path) -> str | None:
    """Who trains the run at this moment; None when nobody does. Never waits, and writes nothing."""
    try:
        with open(run / FILE) as file:
            text = file.read()
            if not text:
                # Given back in good order. Locking it to make sure would refuse whoever begins just now.
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder(text)
    except OSError:
        return None
    return None


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"process {found['pid']} on {found['host']} (since {found['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
