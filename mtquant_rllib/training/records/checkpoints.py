"""A trial's checkpoints: RLlib checkpoint folders that are whole, or not there, or named as damaged.

    runs/NAME/phase_1/forex/checkpoint_000012/
      checkpoint.json   what this is and how far (bars, iteration, the result of that iteration), and the size and
                        SHA-256 of every other file; written last
      ...               RLlib's own files, as `Algorithm.save_to_path` writes them

A checkpoint is written beside its place, synced to the disk and renamed, so that a process killed at any moment leaves
the checkpoint before. What is read again is compared with its checksums first: a truncated or flipped file is reported
by name, and the checkpoint before is used.

The run goes on from these folders alone. Tune's own records of an experiment are never read back: they know neither
checksums nor whether a folder was moved, and a half-written one would make the run unresumable.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtquant_rllib import durable
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import damage_warnings, ownership
from mtquant_rllib.training.storage import mirror

INDEX = ownership.CHECKPOINT_INDEX
SIGNATURE = "signature.json"
"""Written beside the index (`training.records.signatures`)."""
FORMAT = 2
_NAME = "checkpoint_"
_ASIDE = "not_whole."
_DESCRIPTIONS = ("metadata.json", "rllib_checkpoint.json")
"""RLlib's, in each folder of a checkpoint."""
_LITTER = re.compile(r"\.DS_Store$|\._|\.nfs|Thumbs\.db$")
"""Files that desktops and network file systems leave; RLlib reads none of such a name."""
_THREADS = 16
"""Files synced at a time: a journalling file system commits them together."""


class DamagedCheckpoint(RunError):
    """A checkpoint that is not what was written: files are missing, short or changed, or its index cannot be read."""


class FileRecord(BaseModel):
    """Size in bytes and SHA-256 of one file."""

    model_config = ConfigDict(extra="forbid")

    bytes: int
    sha256: str


class Checkpoint(BaseModel):
    """The index of one checkpoint.

    Attributes
    ----------
    run
        Identity of the run that wrote it; a checkpoint of another run is never resumed from.
    phase, trial, iteration, bars
        Whose it is, and how far it was.
    attempt
        Random word of the attempt of the run that wrote it: what a trial that starts again may go on from.
    finished
        The trial was done: its budget was used, or validation no longer improved.
    result
        What the curriculum needs of the last iteration's result (`desk_algorithm.summary`).
    row
        The iteration's row of the run's curve, as its file has it: what a curve is mended with.
    seconds
        Training time so far, over all attempts.
    versions
        Of Python and the packages that wrote it.
    files
        Every other file of the folder, by its path inside.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = Field(default=FORMAT)
    run: str
    phase: int
    trial: str
    iteration: int
    bars: int
    attempt: str = ""
    finished: bool
    result: dict[str, Any]
    row: dict[str, str] = Field(default_factory=dict)
    seconds: float
    versions: dict[str, str]
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{_NAME}{self.iteration:06d}"


def write(
    run: Path,
    folder: Path,
    checkpoint: Checkpoint,
    save: Callable[[str], Any],
    sign: Callable[[Path], None] = lambda aside: None,
) -> Path:
    """Write a checkpoint into the trial's folder and return its path.

    Parameters
    ----------
    run, folder
        The run's folder, and the trial's inside.
    checkpoint
        Its index; sizes and checksums are filled in here.
    save
        Writes RLlib's files into the folder that it is given.
    sign
        Signs the folder that it is given, before it is renamed into place.

    Raises
    ------
    OSError
        When the storage is full or away. Nothing that was there before is touched.
    RunError
        When RLlib did not write all of its files.
    """
    ownership.expect_there(run)
    final = ownership.within(run, folder / checkpoint.name)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = durable.temporary_path(final)
    try:
        aside.mkdir()
        save(str(aside))
        if (missing := unfinished(aside)) is not None:
            raise RunError(f"{final}: RLlib has left {missing} out of this checkpoint")
        paths = [path for path in sorted(aside.rglob("*")) if path.is_file()]
        with ThreadPoolExecutor(_THREADS) as pool:
            records = list(pool.map(_synced, paths))
        files = {str(path.relative_to(aside)): record for path, record in zip(paths, records)}
        index = checkpoint.model_copy(update={"files": files})
        durable.write_new(aside / INDEX, lambda file: file.write(index.model_dump_json(indent=1).encode()))
        sign(aside)
        for below in {path.parent for path in paths} | {aside}:
            durable.sync_folder(below)
        _make_way(run, final, (index.run, index.phase, index.trial))
        os.rename(aside, final)
        durable.sync_folder(final.parent)
        mirror.push(final)
    except BaseException:
        if aside.exists():
            ownership.remove_own(aside, run, lambda path: path == aside)
        raise
    return final


def _make_way(run: Path, final: Path, own: tuple[str, int, str]) -> None:
    """Clear the place of a checkpoint. An attempt that was lost may have come this far, and is made again. What has no
    index any more, is another run's or was never this project's is kept under another name."""
    there = final.is_symlink() or final.exists()
    if there and (not ownership.is_checkpoint_or_empty(final) or _whose(final) not in (None, own)):
        kept = durable.unused(final.with_name(f"{_ASIDE}{final.name}"))
        os.rename(final, kept)
        damage_warnings.warn(f"{final}: this was no whole checkpoint of this project; it is kept as {kept.name}")
    ownership.remove_own(final, run, ownership.is_checkpoint_or_empty)


def _synced(path: Path) -> FileRecord:
    """Sync a file to the disk; its record."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def read_index(path: Path) -> Checkpoint:
    """The index of a checkpoint; its files are not looked at.

    Raises
    ------
    DamagedCheckpoint
        When there is none, or it cannot be read, or another version of this project wrote it.
    """
    try:
        tree = json.loads((path / INDEX).read_text())
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise DamagedCheckpoint(
                f"{path}: this checkpoint has format {tree.get('format')!r}, and this version reads {FORMAT}; "
                "use the version that wrote it"
            )
        return Checkpoint.model_validate(tree)
    except (OSError, ValueError, ValidationError) as error:
        raise DamagedCheckpoint(f"{path}: {INDEX} cannot be read ({_short(error)})") from None


def verify(path: Path) -> Checkpoint:
    """The index of a checkpoint whose files are all there and as they were written.

    Raises
    ------
    DamagedCheckpoint
        Which names the first file that is not.
    """
    checkpoint = read_index(path)
    known = {*checkpoint.files, INDEX, SIGNATURE}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if name not in known and not (file.is_dir() and not file.is_symlink()) and not _LITTER.match(file.name):
            raise DamagedCheckpoint(f"{file}: was not written with this checkpoint")
    with ThreadPoolExecutor(_THREADS) as pool:
        for fault in pool.map(lambda item: _fault(path, *item), sorted(checkpoint.files.items())):
            if fault is not None:
                raise DamagedCheckpoint(f"{path / fault[0]}: {fault[1]}")
    if (missing := unfinished(path)) is not None:
        raise DamagedCheckpoint(f"{path / missing}: was never written")
    return checkpoint


def unfinished(path: Path) -> str | None:
    """A file that RLlib says a checkpoint has, in one of its folders, and that is missing or empty; None where all are
    there.

    Each folder's description is written first, then how to build what is in it, then its state. A learner that dies in
    between leaves the rest out, and RLlib goes on.
    """
    for described in sorted(path.rglob("*.json")):
        if described.name not in _DESCRIPTIONS:
            continue
        metadata = json.loads(described.read_text())
        folder = described.parent
        states = [one for one in folder.glob(f"{metadata['state_file']}.*") if one.stat().st_size]
        how = folder / metadata["class_and_ctor_args_file"]
        if not (how.is_file() and how.stat().st_size):
            return str(how.relative_to(path))
        if not states:
            return str((folder / metadata["state_file"]).relative_to(path))
    return None


def _fault(path: Path, name: str, record: FileRecord) -> tuple[str, str] | None:
    file = path / name
    if Path(name).is_absolute() or ".." in Path(name).parts or file.is_symlink():
        return name, "this name leads out of the checkpoint"
    try:
        size = file.stat().st_size
        if size != record.bytes:
            return name, f"has {size:,} bytes where {record.bytes:,} were written"
        with open(file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != record.sha256:
                return name, "its content is not what was written (SHA-256 differs)"
    except OSError as error:
        return name, f"cannot be read ({error.strerror})"
    return None


def listed(folder: Path) -> list[Path]:
    """Checkpoint folders of a trial, newest first, whole or not."""
    found = [path for path in folder.glob(f"{_NAME}*") if path.is_dir() and path.name.removeprefix(_NAME).isdigit()]
    return sorted(found, reverse=True)


def whole(folder: Path, tell: Callable[[str], None]) -> Iterator[tuple[Path, Checkpoint]]:
    """A trial's checkpoints that are whole, newest first; damaged ones are told of and passed over."""
    for path in listed(folder):
        try:
            yield path, verify(path)
        except DamagedCheckpoint as damage:
            tell(f"damaged checkpoint: {damage}; the one before is used")


def prune(run: Path, folder: Path, whole: Sequence[Path], keep: int) -> list[Path]:
    """Remove a trial's checkpoints but the newest `keep`, and what processes that are gone left half-written; returns
    what was removed.

    Parameters
    ----------
    whole
        Those that are known to be whole, because this process wrote them or went on from them; newest first. Only once
        there are `keep` of them does anything go: of the same run and trial, what is older than all of these. What is
        newer than they are, another run's or without a readable index is left alone.
    """
    old: list[Path] = []
    if len(whole) >= keep:
        kept = whole[:keep]
        oldest = min(number_of(path) for path in kept)
        own = _whose(kept[0])
        old = [path for path in listed(folder) if number_of(path) < oldest and own is not None and _whose(path) == own]
    left = [path for path in folder.glob(f"{durable.HALF}*") if durable.left_behind(path)]
    for path in (*old, *left):
        ownership.remove_own(path, run)
    for path in old:
        mirror.remove_remote(path)
    return old


def number_of(path: Path) -> int:
    """The iteration that a checkpoint's folder is named by."""
    return int(path.name.removeprefix(_NAME))


def _whose(path: Path) -> tuple[str, int, str] | None:
    """Run, phase and trial of a checkpoint; None where its index cannot be read."""
    try:
        index = read_index(path)
    except DamagedCheckpoint:
        return None
    return index.run, index.phase, index.trial


def _short(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
