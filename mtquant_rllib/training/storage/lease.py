"""A lease on a run in an object store, where no file lock reaches: one driver at a time trains the run.

The driver writes a lease file there and renews it every few seconds. Another driver that finds one waits to see whether
it is renewed. Only changes count: clocks of two machines differ.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mtquant_rllib import strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.storage.working_copy import LEASE, WorkingCopy

logger = logging.getLogger("mtquant_rllib.training")

RENEW_EVERY_S = 10.0
"""Also the least time between two sendings of what grows line by line."""
LASTS_S = 60.0
"""How long a note that nobody writes anew is believed: longer than a store is usually away."""
SETTLES_S = 1.0
"""Two drivers that come at the same time both write; the second to have written stays."""
LOOKS, BETWEEN_LOOKS_S = 3, 0.3
"""How often a note is looked for before it is not there: some stores show nothing while they replace one."""


@contextlib.contextmanager
def held(copy: WorkingCopy, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lease, and push changed files every few seconds and at the end.

    Raises
    ------
    RunError
        When another driver holds it, or another took it meanwhile because this one was not heard of.
    OSError
        When the store does not answer at the beginning.
    """
    word = secrets.token_hex(8)
    _expect_free(copy, tell)
    _write(copy, word)
    time.sleep(SETTLES_S)
    _expect_own(copy, word)
    stop, lost = threading.Event(), list[str]()
    renewing = threading.Thread(target=_renew, args=(copy, word, stop, lost), daemon=True, name="lease")
    sending = threading.Thread(target=_send, args=(copy, stop), daemon=True, name="sending")
    renewing.start()
    sending.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        sending.join()
        if not lost:
            try:
                copy.send_changed()
                copy.store.remove_file(LEASE)
            except OSError as error:
                logger.warning("%s: what was written last could not be sent: %s", copy.address, error.strerror)
    if lost:
        raise RunError(lost[0])


def _expect_free(copy: WorkingCopy, tell: Callable[[str], None]) -> None:
    before = _looked_for(copy)
    if before is None or _has_ended(before):
        return
    who = f"process {before.get('pid')} on {before.get('host')}"
    tell(f"{copy.address}: {who} trained this run last; waiting up to {LASTS_S:.0f} seconds to see whether it does")
    end = time.monotonic() + LASTS_S
    while time.monotonic() < end:
        time.sleep(RENEW_EVERY_S / 4)
        now = _looked_for(copy)
        if now is None:
            return
        if now != before:
            raise RunError(f"{copy.address}: {who} trains this run at this moment; wait until it is done, or stop it")


def _has_ended(note: dict[str, Any]) -> bool:
    """Whether its process ran on this machine and is dead."""
    if note.get("host") != socket.gethostname() or note.get("boot") != _boot() or not isinstance(note.get("pid"), int):
        return False
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _expect_own(copy: WorkingCopy, word: str) -> None:
    found = _looked_for(copy)
    if found is None or found.get("word") != word:
        who = f"process {found.get('pid')} on {found.get('host')}" if found else "somebody"
        raise RunError(f"{copy.address}: {who} began to train this run at the same moment; one of both may")


def _send(copy: WorkingCopy, stop: threading.Event) -> None:
    """Push changed files, and pause nine times as long as that took: files that grow are sent whole."""
    warned, rest = False, RENEW_EVERY_S
    while not stop.wait(rest):
        began = time.monotonic()
        try:
            copy.send_changed()
            warned = False
        except OSError as error:
            if not warned:
                logger.warning("waiting for storage: %s: %s", copy.address, error.strerror or error)
            warned = True
        rest = max(RENEW_EVERY_S, 9 * (time.monotonic() - began))


def _renew(copy: WorkingCopy, word: str, stop: threading.Event, lost: list[str]) -> None:
    """Renew the lease, in a thread of its own so that no long push delays it."""
    while not stop.wait(RENEW_EVERY_S):
        try:
            found = _read(copy)
            if found == {}:
                continue  # somebody is writing it at this moment
            if found is not None and found.get("word") != word:
                who = f"process {found.get('pid')} on {found.get('host')}"
                lost.append(f"{copy.address}: {who} has taken this run over, because this process was not heard of")
                logger.warning("%s; it stops", lost[0])
                os.kill(os.getpid(), 15)
                return
            _write(copy, word)
        except OSError:
            # Whoever sends files says so.
            continue


def _looked_for(copy: WorkingCopy) -> dict[str, Any] | None:
    """The lease; None where it is missing in several reads."""
    for look in range(LOOKS):
        if look:
            time.sleep(BETWEEN_LOOKS_S)
        found = _read(copy)
        if found is not None:
            return found
    return None


def _read(copy: WorkingCopy) -> dict[str, Any] | None:
    """The lease; None where there is none. One that cannot be parsed is being written, by an unknown driver."""
    content = copy.store.read(LEASE)
    if not content:
        return None
    try:
        tree = json.loads(content)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _write(copy: WorkingCopy, word: str) -> None:
    note = {"word": word, "pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "at": time.time()}
    copy.store.write(LEASE, strict_json.dumps(note).encode())


def _boot() -> str | None:
    """Which boot of a machine this is, where the system says: process ids begin anew with it."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None
