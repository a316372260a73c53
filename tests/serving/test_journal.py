"""The journal: written first, whole or not at all, and whatever is changed in it is found and named."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trading import BEGUN, MONDAY

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.execution import journal_file
from mtquant_rllib.serving.execution.journal import Journal
from mtquant_rllib.serving.execution.journal_file import JournalError, canonical, checked, opened_to_read
from mtquant_rllib.serving.execution.trading_state import fold

ENTRIES = [BEGUN, *(("account", {"balance_ccy": 1000.0 + number}) for number in range(6))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of seven events."""
    path = tmp_path / "desk.journal"
    with Journal.open(path) as journal:
        for entry in ENTRIES:
            journal.append([entry], MONDAY)
    return path


def faults(path: Path) -> list[str]:
    with opened_to_read(path) as connection:
        return checked(connection)[1]


def reading_says(path: Path) -> str:
    try:
        return "; ".join(faults(path))
    except JournalError as error:
        return str(error)


def test_what_was_written_is_read_and_written_on(path: Path) -> None:
    with Journal.open(path) as journal:
        assert [(event.kind, event.body) for event in journal.events] == ENTRIES
        assert journal.append([("account", {"balance_ccy": 1.5})], MONDAY)[0].number == 8
    assert faults(path) == []


def test_a_transaction_is_whole_or_absent(path: Path) -> None:
    with Journal.open(path) as journal, pytest.raises(JournalError, match="without loss"):
        journal.append([("account", {"balance_ccy": 1.0}), ("account", {"balance_ccy": float("nan")})], MONDAY)
    with Journal.open(path) as journal:
        assert journal.number == 7


def test_writes_are_synced_and_logged_ahead(path: Path) -> None:
    with Journal.open(path) as journal:
        connection = journal._connection
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "2 is FULL"


def test_a_killed_process_leaves_what_it_had_written(tmp_path: Path) -> None:
    """Without closing, in a process that is ended by SIGKILL amid a transaction."""
    path = tmp_path / "killed.journal"
    program = f"""
import datetime as dt, os, signal
from pathlib import Path
from mtquant_rllib.serving.execution.journal import Journal
journal = Journal.open(Path({str(path)!r}))
now = dt.datetime(2024, 1, 8, tzinfo=dt.UTC)
journal.append([{BEGUN!r}], now)
journal.append([("account", {{"balance_ccy": 1.0}})], now)
event = journal.draft([("account", {{"balance_ccy": 2.0}})], now)[0]
journal._connection.execute("BEGIN IMMEDIATE")
journal._connection.execute("INSERT INTO events VALUES (3, ?, 'account', '{{}}', '', '')", (event.time_utc,))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], env=os.environ).returncode == -9
    assert faults(path) == []
    with Journal.open(path) as journal:
        assert journal.number == 2


def test_a_torn_end_of_the_log_is_absent(path: Path, tmp_path: Path) -> None:
    """A power cut amid a write: the write-ahead log ends within a transaction, wherever it is cut."""
    torn, numbers = tmp_path / "torn", set()
    with Journal.open(path) as journal:
        for number in range(8, 12):
            journal.append([("account", {"balance_ccy": float(number)})], MONDAY)
        log = path.with_name(f"{path.name}-wal").read_bytes()
        for cut in (*range(0, len(log), 1024), len(log)):
            torn.mkdir()
            shutil.copy(path, torn / "x")
            (torn / "x-wal").write_bytes(log[:cut])
            with Journal.open(torn / "x") as other:
                numbers.add(other.number)
            assert faults(torn / "x") == []
            shutil.rmtree(torn)
    assert numbers == {7, 8, 9, 10, 11}


def test_a_second_process_is_refused_and_a_reader_is_not(path: Path) -> None:
    with Journal.open(path) as journal:
        with pytest.raises(JournalError, match=rf"process {os.getpid()} on .* has this journal open"):
            Journal.open(path)
        journal.append([("account", {"balance_ccy": 5.0})], MONDAY)
        with opened_to_read(path) as connection:
            assert len(checked(connection)[0]) == 8
    with Journal.open(path) as journal:
        assert journal.number == 8


def test_reading_leaves_no_file_behind(path: Path) -> None:
    before = sorted(file.name for file in path.parent.iterdir())
    content = path.read_bytes()
    assert faults(path) == []
    assert sorted(file.name for file in path.parent.iterdir()) == before
    assert path.read_bytes() == content


def test_the_table_takes_no_change(path: Path) -> None:
    with Journal.open(path) as journal:
        for statement in ("UPDATE events SET kind = 'x'", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="only appended to"):
                journal._connection.execute(statement)


def _sql(*statements: str) -> Callable[[Path], None]:
    """Changes by somebody who takes the triggers away, and puts them back."""

    def change(path: Path) -> None:
        connection = sqlite3.connect(path)
        for trigger in ("no_change", "no_removal"):
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)
        for trigger in journal_file.SCHEMA[1:]:
            connection.execute(trigger)
        connection.commit()
        connection.close()

    return change


def _forged(path: Path) -> None:
    """A changed event with a hash that fits it."""
    body = canonical({"balance_ccy": 7.0})
    with opened_to_read(path) as connection:
        old = checked(connection)[0][3]
    own = journal_file.event_hash(old.previous_hash, 4, old.time_utc, old.kind, body)
    _sql(f"UPDATE events SET body = '{body}', hash = '{own}' WHERE number = 4")(path)


SWAP = "UPDATE events SET number = CASE number WHEN 103 THEN 4 WHEN 104 THEN 3 END WHERE number > 100"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_sql("UPDATE events SET body = replace(body, '1002', '1003') WHERE number = 4"), "event 4 was changed"),
        (_sql("UPDATE events SET time_utc = '2030' WHERE number = 2"), "event 2 was changed"),
        (_sql("UPDATE events SET kind = 'begun' WHERE number = 7"), "event 7 was changed"),
        (_sql("UPDATE events SET hash = previous_hash WHERE number = 5"), "event 5 was changed"),
        (_forged, "event 5 does not follow event 4"),
        (_sql("DELETE FROM events WHERE number = 3"), "event 3 taken out"),
        (_sql("DELETE FROM events WHERE number IN (3, 4)"), "events 3 to 4 taken out"),
        (_sql("DELETE FROM events WHERE number = 1"), "event 1 taken out"),
        (_sql("DELETE FROM events WHERE number = 7"), "events after 6 taken out: the journal had 7"),
        (_sql("DELETE FROM events"), "events after 0 taken out: the journal had 7"),
        (_sql("UPDATE events SET number = number + 100 WHERE number IN (3, 4)", SWAP), "event 3 was changed or moved"),
        (_sql("INSERT INTO events SELECT 8, time_utc, kind, body, hash, hash FROM events WHERE number = 7"), "event 8"),
        (
            _sql(
                "DELETE FROM events WHERE number = 4",
                "UPDATE events SET number = number - 1 WHERE number > 4",
            ),
            "event 4 was changed or moved",
        ),
        (_sql("CREATE TABLE more (x)"), "the tables of the database are not those of a journal"),
    ],
)
def test_a_changed_journal_is_found_and_the_event_named(path: Path, change: Callable[[Path], None], said: str) -> None:
    change(path)
    assert any(said in fault for fault in faults(path)), faults(path)
    with pytest.raises(JournalError, match=r"desk\.journal: "):
        Journal.open(path)


def _other(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def _version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"not a journal" * 100), "cannot be (read|written) as a journal"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "malformed|damaged|taken out|cannot be"),
        (_other, "an SQLite database, and no journal of mtquant"),
        (_version, "a journal of version 9; expected version 1"),
        (lambda path: path.unlink() or path.mkdir(), "no such journal|expected a file"),
    ],
)
def test_what_is_no_journal_is_one_clear_error(path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(path)
    with pytest.raises(JournalError, match=said):
        Journal.open(path)
    assert re.search(said, reading_says(path))


def test_a_path_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such folder"):
        Journal.open(tmp_path / "nowhere" / "desk.journal")
    with pytest.raises(MtquantError, match="has to lie on a disk"):
        Journal.open(Path("s3://bucket/desk.journal"))


@pytest.mark.slow
def test_flipped_bytes_are_found_or_change_nothing(path: Path) -> None:
    """Three hundred copies with one to four bytes flipped: an error of our own, or the same events as before."""
    whole, rng, found = path.read_bytes(), random.Random(0), 0
    with opened_to_read(path) as connection:
        events = checked(connection)[0]
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            with opened_to_read(path) as connection:
                read, wrong = checked(connection)
            if not wrong:
                assert read == events
                fold(read)
                continue
        except JournalError:
            pass
        found += 1
        with pytest.raises(JournalError):
            Journal.open(path)
    assert found > 30


def test_after_a_failed_write_nothing_is_taken(path: Path) -> None:
    """SQLite cannot say what of it reached the disk."""
    with Journal.open(path) as journal:
        journal._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(JournalError, match="free or mount the storage"):
            journal.append([("account", {"balance_ccy": 1.0})], MONDAY)
        journal._connection.execute("PRAGMA query_only = OFF")
        with pytest.raises(JournalError, match="open the journal again"):
            journal.append([("account", {"balance_ccy": 1.0})], MONDAY)
