"""Files and folders that survive a kill and a power cut: written aside, synced to the disk, renamed into place.

What is written aside has a name that says whose it is and which process writes it, `.mtquant-half.NAME.PID-TOKEN`, so
that what a killed process leaves behind can be told from everything else and removed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from mtquant_rllib.errors import RunError

PREFIX = ".mtquant-"
HALF = f"{PREFIX}half."
"""Written aside and not whole yet, or renamed aside to be removed."""


def temporary_path(path: Path) -> Path:
    """Name of a temporary file or folder beside `path`, which is renamed to `path` once it is complete."""
    return path.with_name(f"{HALF}{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


def unused(path: Path) -> Path:
    """`path`, or the first of `path`.1, `path`.2, ... that does not exist."""
    candidates = itertools.chain([path], (path.with_name(f"{path.name}-{number}") for number in itertools.count(2)))
    return next(candidate for candidate in candidates if not os.path.lexists(candidate))


def left_behind(path: Path, target: str | None = None) -> bool:
    """Whether this is a temporary file of a process that is dead. target: the final name that it was meant for."""
    name, _, writer = path.name.removeprefix(HALF).rpartition(".")
    pid, _, token = writer.partition("-")
    if not path.name.startswith(HALF) or not pid.isdigit() or not token:
        return False
    return target in (None, name) and not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems sync no folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_new(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """A file that is not there yet, synced. Raises FileExistsError where one is, a symbolic link included."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with open(descriptor, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path}: cannot be written ({reason}); free or mount the storage and try again") from error


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a reader, and one who comes after a power cut, sees the old or the new content. A
    symbolic link at its place is replaced, never followed.

    Raises
    ------
    RunError
        When the storage is full, read-only or away; the old content stands then.
    """
    half = temporary_path(path)
    with named_errors(path):
        try:
            write_new(half, lambda file: file.write(content))
            os.replace(half, path)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
