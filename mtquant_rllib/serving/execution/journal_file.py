"""The file of a journal: an SQLite database with one table of events, of which each holds the hash of the one before.

An event's own hash is the SHA-256 of the previous hash, its number, time, kind and body. So an event that is changed,
taken out, put in or moved is found by whoever reads the file (`faults_of`). The last events cut off are found too, as
SQLite keeps the largest number that a table ever had. A chain has no secret: whoever rewrites all of it from some event
on is found only by a hash that was noted elsewhere (`mtquant journal verify --noted HASH`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtquant_rllib import strict_json
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.paths import on_disk

APPLICATION_ID = 0x6D74716A
"""In the header of the file, by which it is known: `mtqj`."""
FORMAT_VERSION = 1
FIRST_HASH = "0" * 64

SCHEMA = (
    "CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, time_utc TEXT NOT NULL, kind TEXT NOT NULL, "
    "body TEXT NOT NULL, previous_hash TEXT NOT NULL, hash TEXT NOT NULL) STRICT",
    "CREATE TRIGGER no_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'a journal is only appended to'); END",
    "CREATE TRIGGER no_removal BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'a journal is only appended to'); END",
)
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError, OverflowError, MemoryError)
"""What damaged bytes make of a query."""


class JournalError(MtquantError):
    """A journal that cannot be opened or written."""


class DamagedJournal(JournalError):
    """A journal of which something is not as it was written."""

    exit_code = 1


@dataclass(frozen=True)
class Event:
    """One event.

    number: from 1. time_utc: ISO 8601. body: plain JSON values; text: its canonical text. hash: hexadecimal SHA-256.
    """

    number: int
    time_utc: str
    kind: str
    body: Mapping[str, Any]
    text: str
    previous_hash: str
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: value for name, value in self.__dict__.items() if name != "text"}


def canonical(body: Mapping[str, Any]) -> str:
    """The one text of a body: keys in order, no spaces, ASCII.

    Raises
    ------
    JournalError
        When the text would not give the same values back: numbers that are not finite, tuples, keys that are no text.
    """
    text = strict_json.dumps(body, sort_keys=True, separators=(",", ":"))
    if json.loads(text) != body:
        raise JournalError(f"not to be written as JSON without loss: {text[:200]}; expected plain finite values")
    return text


def event_hash(previous_hash: str, number: int, time_utc: str, kind: str, body: str) -> str:
    """SHA-256 of one event's parts, each with its length before it, so that none can be mistaken for another's end.
    body: canonical text."""
    parts = (previous_hash, str(number), time_utc, kind, body)
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


@contextlib.contextmanager
def named_errors(path: Path | str, doing: str) -> Iterator[None]:
    """Turn what SQLite complains of into one error that names the file. doing: `read` or `written`."""
    try:
        yield
    except _UNREADABLE as error:
        text = f"{path}: cannot be {doing} as a journal ({error})"
        if isinstance(error, sqlite3.OperationalError) and doing == "written":
            raise JournalError(f"{text}; free or mount the storage and try again") from error
        raise DamagedJournal(text) from error


def existing(path: Path) -> Path:
    """The path. Raises JournalError where no file is."""
    path = on_disk(path, "a journal")
    if not path.is_file():
        raise JournalError(f"{path}: no such journal")
    return path


def expect_journal(connection: sqlite3.Connection, path: Path | str) -> None:
    """Raises JournalError where the database is no journal, or one of another version."""
    with named_errors(path, "read"):
        (identity,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if identity != APPLICATION_ID:
        raise JournalError(f"{path}: an SQLite database, and no journal of mtquant")
    if version != FORMAT_VERSION:
        raise JournalError(f"{path}: a journal of version {version}; expected version {FORMAT_VERSION}")


@contextlib.contextmanager
def opened_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing, also while another process trades.

    Raises
    ------
    JournalError
        When there is no such file, or it is no journal.
    """
    path = existing(path)
    # Without a write-ahead log nothing can change meanwhile, and SQLite needs no files of its own beside the journal.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    with named_errors(path, "read"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
    with contextlib.closing(connection):
        expect_journal(connection, path)
        yield connection


def rows(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Rows in the order of their numbers, as they lie there."""
    yield from connection.execute(
        "SELECT number, time_utc, kind, body, previous_hash, hash FROM events ORDER BY number"
    )


def event_of(row: tuple[Any, ...]) -> Event:
    """Raises ValueError for a row that is no event."""
    number, time_utc, kind, text, previous_hash, own_hash = row
    if type(number) is not int or not all(isinstance(cell, str) for cell in row[1:]):
        raise ValueError("its columns have other types")
    if event_hash(previous_hash, number, time_utc, kind, text) != own_hash:
        raise ValueError("its hash is not that of its contents")
    body = json.loads(text)
    if not isinstance(body, dict):
        raise ValueError("its body is no table of keys and values")
    return Event(number, time_utc, kind, body, text, previous_hash, own_hash)


def checked(connection: sqlite3.Connection) -> tuple[list[Event], list[str]]:
    """(events, faults): the events that are whole, and each fault of the file in words. No fault, and they are all that
    was ever written (see the head of this file for what a chain cannot see)."""
    events: list[Event] = []
    faults: list[str] = []
    try:
        faults += _faults_of_schema(connection)
        last, previous = 0, FIRST_HASH
        for row in rows(connection):
            number = row[0]
            try:
                event = event_of(row)
            except (ValueError, RecursionError) as error:
                said = f"event {number} was changed or moved" if number else "a row was changed"
                faults.append(f"{said}: {error}")
                last, previous = number, str(row[5])
                continue
            if number != last + 1:
                gap = f"event {last + 1}" if number == last + 2 else f"events {last + 1} to {number - 1}"
                faults.append(f"{gap} taken out")
            elif event.previous_hash != previous:
                before = f"event {last}" if last else "the beginning"
                faults.append(f"event {number} does not follow {before}: an event was changed, put in or taken out")
            events.append(event)
            last, previous = number, event.hash
        highest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        if highest is None or highest[0] != last:
            faults.append(f"events after {last} taken out: the journal had {highest[0] if highest else 'more'}")
        for (said,) in connection.execute("PRAGMA integrity_check"):
            if said != "ok":
                faults.append(f"the database is damaged: {said}")
    except _UNREADABLE as error:
        faults.append(f"the database is damaged: {error}")
    except (TypeError, ValueError) as error:
        faults.append(f"the table of events is damaged: {error}")
    return events, faults


def _faults_of_schema(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'").fetchall()
    extra = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    same = {row[0] for row in found} == set(SCHEMA) and extra == len(SCHEMA) + 1
    return [] if same else ["the tables of the database are not those of a journal"]
