"""Where bars come from: files, folders and archives, opened to the bytes of one table each.

A folder is read one level deep, a zip whole; gzip, zstd, bz2 and xz are told by their first bytes, whatever a file is
called. What is not read is named, with the reason.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from mtquant_rllib.config.sections.market import MarketConfig
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.file_errors import fault

_ZIP = b"PK\x03\x04"
_PACKED: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"\x28\xb5\x2f\xfd": ("zstd", lambda raw: pa.CompressedInputStream(raw, "zstd")),
    b"BZh": ("bz2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
}
"""First bytes -> name of the packing, and how it is undone."""
_PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".zip")
_PIECE = 1 << 24
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, ValueError)
"""What unpacking raises for an archive that is damaged, encrypted or packed in a way that nobody knows."""


@dataclass(frozen=True)
class Source:
    """One table of bars or series, not opened yet.

    Attributes
    ----------
    file
        On disk.
    member
        Name inside a zip; empty for a file that is none.
    problem
        Why it cannot be opened, where that is known already.
    """

    file: Path
    member: str = ""
    problem: str = ""

    @property
    def path(self) -> Path:
        """What messages call it: archive.zip/member.csv for a member."""
        return self.file / self.member if self.member else self.file

    @property
    def stems(self) -> tuple[str, ...]:
        """Names to look for an instrument in, without suffixes: a member's own, then its archive's."""
        own = _stem(PurePosixPath(self.member).name) if self.member else _stem(self.file.name)
        return (own, _stem(self.file.name)) if self.member else (own,)

    def read(self, largest_mb: int) -> tuple[bytes, str]:
        """(the bytes, unpacked; how they were packed, empty for not at all). Raises MarketDataError."""
        if not self.file.is_file():
            raise fault(self.file, "no such file", "a CSV or Parquet file of bars, or a folder of them")
        if self.problem:
            raise fault(self.file, self.problem, "a whole zip with a CSV or Parquet file in it")
        try:
            with _opened(self.file, self.member) as stream:
                head = stream.read(max(map(len, _PACKED)))
                stream.seek(0)
                named = next((row for magic, row in _PACKED.items() if head.startswith(magic)), None)
                body = _limited(stream, self.path, largest_mb)
                if named is not None:
                    with named[1](io.BytesIO(body)) as unpacked:
                        body = _limited(unpacked, self.path, largest_mb)
        except _UNREADABLE as error:
            raise fault(
                self.path,
                f"cannot be opened ({_reason(error)})",
                "a whole file, packed as gzip, zip or zstd or not at all",
            ) from None
        packing = ", ".join(name for name in ("zip" if self.member else "", named[0] if named else "") if name)
        if not body:
            raise fault(self.path, "the file is empty", "a header and at least one bar", line=1, column="1")
        return body, packing


@dataclass(frozen=True)
class Sources:
    """What was found to read, in order, and what was left out and why."""

    found: tuple[Source, ...]
    skipped: tuple[str, ...]


def expand(paths: Path | str | Sequence[Path | str], market: MarketConfig) -> Sources:
    """Files named, and the bar files inside folders and archives named (not below), in order of name.

    Raises MarketDataError where that is nothing."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: list[Source] = []
    skipped: list[str] = []
    for entry in map(Path, given):
        if not entry.is_dir():
            found += _members(entry, market, skipped)
            continue
        below = sorted(entry.iterdir())
        skipped += [f"{path}: a folder in a folder" for path in below if path.is_dir()]
        inside = _readable([path for path in below if not path.is_dir()], market, skipped)
        if not inside:
            raise fault(
                entry,
                "no bar files in this folder" + (f" ({'; '.join(skipped[:3])})" if skipped else ""),
                f"files ending in {', '.join((*market.text_suffixes, *market.parquet_suffixes))}, packed or not",
            )
        found += [source for path in inside for source in _members(path, market, skipped)]
    if not found:
        raise MarketDataError("no bar file was named; accepted: a file, several files or a folder")
    return Sources(tuple(found), tuple(skipped))


def _readable(paths: Iterable[Path], market: MarketConfig, skipped: list[str]) -> list[Path]:
    """Those of a folder that hold bars by their names; the others are noted in `skipped`."""
    suffixes = (*market.text_suffixes, *market.parquet_suffixes)
    kept = []
    for path in paths:
        if _bare(path.name).lower().endswith(suffixes) or path.name.lower().endswith(".zip"):
            kept.append(path)
        else:
            skipped.append(f"{path}: its name ends in none of {', '.join(suffixes)}")
    return _without_companions(kept, skipped)


def _without_companions(paths: list[Path], skipped: list[str]) -> list[Path]:
    """HistData lays a text of remarks beside each table, under the table's name."""
    tables = {_stem(path.name) for path in paths if Path(_bare(path.name)).suffix.lower() != ".txt"}
    remarks = [p for p in paths if Path(_bare(p.name)).suffix.lower() == ".txt" and _stem(p.name) in tables]
    skipped += [f"{path}: a text beside a table of its name" for path in remarks]
    return [path for path in paths if path not in remarks]


def _members(path: Path, market: MarketConfig, skipped: list[str]) -> list[Source]:
    """A file as it is, or what is inside if it is a zip."""
    if not _is_zip(path):
        return [Source(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except _UNREADABLE as error:
        return [Source(path, problem=f"not readable as zip ({_reason(error)})")]
    said: list[str] = []
    inside = _readable([Path(name) for name in sorted(set(names))], market, said)
    skipped += [f"{path}/{text}" for text in said]
    nested = [name for name in inside if name.suffix.lower() == ".zip"]
    skipped += [f"{path}/{name}: a zip in a zip" for name in nested]
    members = [Source(path, name.as_posix()) for name in inside if name not in nested]
    if not members:
        held = ", ".join(names[:3]) or "it is empty"
        return [Source(path, problem=f"nothing in this zip holds bars ({held})")]
    return members


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == _ZIP
    except OSError:
        return False


def _opened(file: Path, member: str) -> IO[bytes]:
    if not member:
        return file.open("rb")
    with zipfile.ZipFile(file) as archive:
        return archive.open(member)


def _limited(stream: IO[bytes], path: Path, largest_mb: int) -> bytes:
    pieces: list[bytes] = []
    left = largest_mb * 1_000_000
    while piece := stream.read(_PIECE):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise fault(path, f"more than {largest_mb} MB", "a smaller file (market.largest_file_mb)")
    return b"".join(pieces)


def _bare(name: str) -> str:
    """A file's name without the suffix of its packing."""
    suffix = Path(name).suffix.lower()
    return name[: -len(suffix)] if suffix in _PACKED_SUFFIXES and suffix != ".zip" else name


def _stem(name: str) -> str:
    return Path(_bare(name)).stem


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
