"""The journal of a trading process: every event is written, and synced to the disk, before anything acts on it.

SQLite in WAL mode with synchronous FULL: an event that was written survives a kill and a power cut, and a
transaction that was cut short is simply absent. One process at a time opens a journal to write; any number read it
meanwhile (`journal_file`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from mtquant_rllib import durable, strict_json
from mtquant_rllib.paths import on_disk
from mtquant_rllib.serving.execution import journal_file
from mtquant_rllib.serving.execution.clock import utc_text
from mtquant_rllib.serving.execution.journal_file import Event, JournalError, canonical, named_errors

Entry = tuple[str, Mapping[str, Any]]
"""Kind and body of an event that is to be written."""


class Journal:
    """A journal that is open to be written.

    Attributes
    ----------
    events
        Those that were there when it was opened, checked.
    number, hash
        Of the last event; number 0 where there is none.
    """

    def __init__(self, connection: sqlite3.Connection, name: str, resources: contextlib.ExitStack) -> None:
        """Takes over a connection whose database has a journal's tables; closes `resources` with it.

        Raises
        ------
        DamagedJournal
            When something in it is not as it was written, which is named.
        """
        self._connection, self._name, self._resources = connection, name, resources
        self._broken = False
        journal_file.expect_journal(connection, name)
        self.events, faults = journal_file.checked(connection)
        if faults:
            raise journal_file.DamagedJournal(f"{name}: {'; '.join(faults[:3])} ({len(faults)} in all)")
        last = self.events[-1] if self.events else None
        self.number, self.hash = (last.number, last.hash) if last else (0, journal_file.FIRST_HASH)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a journal, or begin one without events where no file is.

        Raises
        ------
        JournalError
            When another process has it open, which is named; when the file is no journal, one of another version or
            damaged; when it cannot be written.
        """
        path = on_disk(path, "a journal")
        if path.exists() and not path.is_file():
            raise JournalError(f"{path}: expected a file, or a path where none is")
        if not path.parent.is_dir():
            raise JournalError(f"{path}: no such folder as {path.parent}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(_held(path))
            with named_errors(path, "written"):
                connection = stack.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None)))
                prepare(connection)
            durable.sync_folder(path.parent)
            return cls(connection, str(path), stack.pop_all())

    def draft(self, entries: Sequence[Entry], now: dt.datetime) -> list[Event]:
        """The events that these entries will be, as they will be read, without writing them.

        Raises
        ------
        JournalError
            When a body has values that JSON does not give back.
        """
        time_utc, number, previous, events = utc_text(now), self.number, self.hash, []
        for kind, body in entries:
            text, number = canonical(body), number + 1
            own = journal_file.event_hash(previous, number, time_utc, kind, text)
            events.append(Event(number, time_utc, kind, json.loads(text), text, previous, own))
            previous = own
        return events

    def write(self, events: Sequence[Event]) -> None:
        """Write drafted events in one transaction: all of them, or none. They are on the disk when this returns.

        Raises
        ------
        JournalError
            When they cannot be written, or others were written since they were drafted. After a failed write it is not
            known what reached the disk: the journal takes no more, and has to be opened anew.
        """
        if self._broken:
            raise JournalError(f"{self._name}: a write has failed; open the journal again before going on")
        if not events:
            return
        if events[0].previous_hash != self.hash:
            raise JournalError(f"{self._name}: other events were written since these were drafted")
        rows = [(e.number, e.time_utc, e.kind, e.text, e.previous_hash, e.hash) for e in events]
        self._broken = True
        with named_errors(self._name, "written"):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        self._broken = False
        self.number, self.hash = events[-1].number, events[-1].hash

    def append(self, entries: Sequence[Entry], now: dt.datetime) -> list[Event]:
        """Draft and write."""
        events = self.draft(entries, now)
        self.write(events)
        return events

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare(connection: sqlite3.Connection) -> None:
    """Set how the database is written; where it is empty, make the tables, all at once."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {journal_file.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {journal_file.FORMAT_VERSION}")
    for statement in journal_file.SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO sqlite_sequence VALUES ('events', 0)")
    connection.execute("COMMIT")


@contextlib.contextmanager
def _held(path: Path) -> Any:
    """A file lock beside the journal, which the operating system releases when its holder ends, however it ends. (A
    lock on the journal itself would be SQLite's own to give.)"""
    lock = path.with_name(f"{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            file = stack.enter_context(open(descriptor, "r+", errors="replace"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"{path}: {_holder(file.read())} has this journal open; stop it first") from None
        except OSError as error:
            raise JournalError(f"{lock}: cannot be locked ({error.strerror or error})") from error
        file.truncate(0)
        file.write(strict_json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"process {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
