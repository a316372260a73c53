"""What W&B's own files say was logged: `RUN/wandb/*/run-ID.wandb`, which W&B writes in every mode and reads to sync.

The format is LevelDB's log (github.com/google/leveldb, doc/log_format.md) behind a header of seven bytes; the checksum
is zlib's CRC-32. Each record is a protocol buffer, `wandb.proto.wandb_internal_pb2.Record`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAGIC, _HEADER_BYTES = b":W&B", 7
_BLOCK, _CHUNK_HEADER = 32768, struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4

FOLDER = "wandb"
"""In a run's folder: where W&B writes."""


@dataclass
class Logged:
    """What one W&B run has logged, over all its files.

    iterations
        Of the rows of its history, in the order of writing.
    artifacts
        `name:alias` of what it logged; what it only used is under `used`.
    digests
        Of evaluations whose tables it has.
    finished
        Whether its last file says that it came to its end.
    """

    iterations: list[int] = field(default_factory=list)
    artifacts: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    finished: bool = False
    sent: int = 0
    """Newest iteration that the service has, where the file that told it is gone."""

    @property
    def last(self) -> int:
        """Newest iteration that was logged."""
        return max([*self.iterations, self.sent])

    def add(self, path: Path) -> None:
        """Add what one file says."""
        from wandb.proto import wandb_internal_pb2

        proto: Any = wandb_internal_pb2
        self.finished = False
        for content in records(path):
            record = proto.Record()
            record.ParseFromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row = row_of(record.history)
                if "iteration" in row:
                    self.iterations.append(int(row["iteration"]))
                if "digest" in row:
                    self.digests.add(str(row["digest"]))
            elif kind == "artifact":
                artifact = record.artifact
                named = self.used if artifact.use_after_commit else self.artifacts
                named.update(f"{artifact.name}:{alias}" for alias in artifact.aliases)
            elif kind == "exit":
                self.finished = record.exit.exit_code == 0


def files_of(run: Path, wandb_id: str | None = None) -> list[Path]:
    """The transaction logs of a W&B run, or of all, in the order in which they were begun."""
    found = (run / FOLDER).glob(f"*run-*/run-{'*' if wandb_id is None else wandb_id}.wandb")
    # offline-run-20260101_120000-ID and run-20260101_120000-ID: by the time in the name.
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))


def logged(run: Path, wandb_id: str) -> Logged:
    """What a W&B run has logged by its files; what cannot be read was not logged."""
    found = Logged()
    for path in files_of(run, wandb_id):
        found.add(path)
    return found


def row_of(history: Any) -> dict[str, Any]:
    """One row of a history, as it was logged."""
    row: dict[str, Any] = {}
    for item in history.item:
        *within, last = list(item.nested_key) or [item.key]
        place = row
        for name in within:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return row


def records(path: Path) -> Iterator[bytes]:
    """Whole records of a file, up to its end or the first that is damaged: whoever wrote it was killed there."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    if content[: len(_MAGIC)] != _MAGIC:
        return
    place, parts = _HEADER_BYTES, b""
    while place + _CHUNK_HEADER.size <= len(content):
        if _BLOCK - place % _BLOCK < _CHUNK_HEADER.size:
            place += _BLOCK - place % _BLOCK
            continue
        checksum, length, kind = _CHUNK_HEADER.unpack_from(content, place)
        place += _CHUNK_HEADER.size
        chunk = content[place : place + length]
        if len(chunk) < length or zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return
        place += length
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            yield parts
