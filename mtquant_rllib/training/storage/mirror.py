"""A run in an object store: its working copy on this machine's disk, and what is pushed and pulled.

    CACHE/remote/HASH/
      remote.json    the address
      taken.json     what each file was like when it was last brought here
      attempt*       the word of the attempt that works here
      NAME/          the run's folder, as on any disk

The store is the truth. Whoever opens a run brings the working copy to its state (`pulled`); whoever writes a record
sends it before it counts (`push`): a checkpoint before Tune hears of it, the manifest before a phase begins. What
grows line by line (results, logs) follows every few seconds.

On a disk that all nodes mount there is nothing to do here: every function returns at once for a run that is no working
copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from mtquant_rllib import durable
from mtquant_rllib.env.prepared.data import cache_folder
from mtquant_rllib.env.prepared.source import lies_here
from mtquant_rllib.errors import RunError
from mtquant_rllib.object_store import Store, expect_endpoint
from mtquant_rllib.paths import address_of, is_address
from mtquant_rllib.training.records.ownership import REMOTE
from mtquant_rllib.training.records.path_names import name_fault, shown
from mtquant_rllib.training.storage import run_lock, stored_market
from mtquant_rllib.training.storage.working_copy import (
    IDENTITY,
    WorkingCopy,
    content_of,
    read_record,
    write_record,
)

_ATTEMPT, _IN_USE = "attempt", "in_use.lock"


def working_folder(name: str | os.PathLike[str]) -> Path:
    """Where the working copy of a run at an address lies on this machine.

    Raises
    ------
    RunError
        When the address names no folder in a bucket, or one whose name is none for a run.
    """
    address = address_of(name)
    parts = address.partition("://")[2].split("/")
    if len(parts) < 2:
        raise RunError(f"{address}: a run is a folder in a bucket; name it, as in {address}/runs/first")
    for part in parts[1:]:
        if part in ("", ".", "..") or (fault := name_fault(part)) is not None:
            raise RunError(f"{address}: {shown(part)} {'is no name' if part in ('', '.', '..') else fault}")
    return cache_folder().resolve() / "remote" / _hash_of(address) / parts[-1]


def _hash_of(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:16]


@lru_cache(maxsize=16)
def _copy(folder: Path, address: str) -> WorkingCopy:
    return WorkingCopy(folder, Store.at(address))


def copy_of(place: Path) -> WorkingCopy | None:
    """The working copy that a path lies in; None for a path elsewhere."""
    root = cache_folder().resolve() / "remote"
    place = place.absolute()
    if not place.is_relative_to(root):
        return None
    parts = place.relative_to(root).parts
    if len(parts) < 2:
        return None
    address = read_record(root / parts[0] / REMOTE).get("address")
    if not isinstance(address, str) or _hash_of(address) != parts[0] or address.rsplit("/", 1)[-1] != parts[1]:
        return None
    return _copy(root / parts[0] / parts[1], address)


def pulled(name: str | os.PathLike[str]) -> Path:
    """The working copy of a run in a store, as the run stands there; the run need not exist. While a process of this
    machine trains it, the copy is what that process made of it.

    Raises
    ------
    RunError
        When the address is none of a run, or the store does not answer.
    """
    folder = working_folder(name)
    expect_endpoint(address_of(name))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / _IN_USE, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return folder
        try:
            WorkingCopy(folder, Store.at(name)).take()
        except OSError as error:
            raise RunError(f"{address_of(name)}: {error.strerror or error}") from error
    return folder


def pulled_by_its_copy(folder: Path) -> Path:
    """As `pulled`, for a run that is named by its working copy.

    Raises
    ------
    RunError
        When it is the copy of another cache than today's: what is changed there would reach nobody.
    """
    address = read_record(folder.parent / REMOTE).get("address")
    if not isinstance(address, str) or not is_address(address):
        raise RunError(f"{folder.parent / REMOTE}: this file marks a working copy and names no address; move it away")
    if working_folder(address) != folder:
        raise RunError(f"{folder}: this is a working copy of {address}, of another MTQUANT_CACHE; name the address")
    return pulled(address)


@contextlib.contextmanager
def in_use(run: Path) -> Iterator[None]:
    """Keep other processes of this machine from pulling into the working copy meanwhile."""
    with open(run.parent / _IN_USE, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def push(place: Path) -> None:
    """Push a file or folder that was just written, if it lies in a working copy."""
    if (copy := copy_of(place)) is not None:
        copy.send(place)


def remove_remote(place: Path) -> None:
    """Remove in the store what was just removed here, if it lay in a working copy."""
    if (copy := copy_of(place)) is not None and not place.name.startswith(durable.PREFIX):
        copy.remove(place)


def pull(place: Path) -> None:
    """Pull what trials on other nodes wrote below a folder."""
    if (copy := copy_of(place)) is not None:
        copy.fetch(copy.path_of(place))


def push_market(run: Path, data: Path) -> None:
    """Push the prepared market of a run, where the store does not have it."""
    if (copy := copy_of(run)) is not None:
        stored_market.send(copy.store, data)


def pull_market(run: Path, data: str) -> None:
    """Pull the prepared market of a run, where this machine does not have it."""
    if (copy := copy_of(run)) is not None and not lies_here(data):
        stored_market.bring(copy.store, Path(data).name)


def address_of_run(run: Path) -> str | None:
    """The address of a run whose working copy this is; None for any other."""
    copy = copy_of(run)
    return None if copy is None else copy.address


def read_remote(place: Path) -> bytes | None:
    """What the store has at a place of a working copy; None where there is nothing, or the run lies on a disk."""
    copy = copy_of(place)
    return None if copy is None else copy.store.read(copy.path_of(place))


def write_remote(place: Path, content: bytes) -> None:
    """Put a file into the store alone."""
    if (copy := copy_of(place)) is not None:
        copy.store.write(copy.path_of(place), content)


def probe_store(run: Path) -> None:
    """Write a test file into a run's store. Raises OSError where it cannot be written."""
    if (copy := copy_of(run)) is not None:
        copy.store.probe()


def named(run: Path) -> str:
    """How a person names a run: its address in a store, or its folder."""
    copy = copy_of(run)
    return str(run) if copy is None else copy.address


@contextlib.contextmanager
def pushing_changes(run: Path) -> Iterator[None]:
    """Push, at the end of the block, what changed in it."""
    copy = copy_of(run)
    if copy is not None:
        copy = WorkingCopy(copy.folder, copy.store)
        copy.known()
    try:
        yield
    finally:
        if copy is not None:
            copy.send_changed()


def begin_attempt(run: Path, attempt: str) -> None:
    """Let trials on this machine know that they share the driver's working copy."""
    if copy_of(run) is not None:
        durable.replace_file(run.parent / _ATTEMPT, attempt.encode())


def join_working_copy(address: str, attempt: str) -> Path:
    """The working copy for the processes of an attempt on this machine: the driver's own where it is the driver's
    machine, else a fresh one with the run's manifest, which the first of them makes.

    Raises
    ------
    OSError
        When the store does not answer.
    """
    folder = working_folder(address)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "joining.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if content_of(folder.parent / _ATTEMPT) != attempt.encode():
            if run_lock.holder(folder) is not None:
                raise RunError(f"{folder}: another attempt of this run is driven from this machine")
            # Made here, of what the store has; an earlier attempt's copy may hold what was since replaced there.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write_record(folder.parent / REMOTE, {"address": address})
            WorkingCopy(folder, Store.at(address)).refresh(IDENTITY)
            durable.replace_file(folder.parent / _ATTEMPT, attempt.encode())
    # As long as this process lives.
    _USED.append(in_use(folder))
    _USED[-1].__enter__()
    return folder


_USED: list[contextlib.AbstractContextManager[None]] = []
