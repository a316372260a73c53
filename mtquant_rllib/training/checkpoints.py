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
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtquant_rllib.errors import RunError

INDEX = "checkpoint.json"
SIGNATURE = "signature.json"
"""Written beside the index by the process that runs the experiment (`training.trust`)."""
FORMAT = 1
_NAME = "checkpoint_"
_ASIDE = ".writing-"
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
    finished
        The trial was done: its budget was used, or validation no longer improved.
    result
        What the curriculum needs of the last iteration's result (`desk_algorithm.summary`).
    seconds
        Training time so far, over all stretches.
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
    finished: bool
    result: dict[str, Any]
    seconds: float
    versions: dict[str, str]
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{_NAME}{self.iteration:06d}"


def write(folder: Path, checkpoint: Checkpoint, save: Callable[[str], Any]) -> Path:
    """Write a checkpoint into the trial's folder and return its path.

    Parameters
    ----------
    folder
        The trial's.
    checkpoint
        Its index; sizes and checksums are filled in here.
    save
        Writes RLlib's files into the folder that it is given.

    Raises
    ------
    OSError
        When the storage is full or away. Nothing that was there before is touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside, final = folder / f"{_ASIDE}{checkpoint.name}-{os.getpid()}", folder / checkpoint.name
    _remove(aside)
    try:
        aside.mkdir()
        save(str(aside))
        paths = [path for path in sorted(aside.rglob("*")) if path.is_file()]
        with ThreadPoolExecutor(_THREADS) as pool:
            records = list(pool.map(_synced, paths))
        files = {str(path.relative_to(aside)): record for path, record in zip(paths, records)}
        index = checkpoint.model_copy(update={"files": files})
        with open(aside / INDEX, "w") as file:
            file.write(index.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        for below in {path.parent for path in paths} | {aside}:
            sync_folder(below)
        if final.exists():
            # A stretch of the run that was lost had come this far; what it wrote is made again.
            _remove(final)
        os.rename(aside, final)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def _synced(path: Path) -> FileRecord:
    """Sync a file to the disk; its record."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    with ThreadPoolExecutor(_THREADS) as pool:
        for fault in pool.map(lambda item: _fault(path, *item), sorted(checkpoint.files.items())):
            if fault is not None:
                raise DamagedCheckpoint(f"{path / fault[0]}: {fault[1]}")
    return checkpoint


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


def prune(folder: Path, keep: int, also: Sequence[Path] = ()) -> list[Path]:
    """Remove all but the newest `keep` checkpoints of a trial, `also` excepted; returns what was removed.

    Folders without this project's index, and what other processes left half-written, are handled thus: the first are
    never touched, the second are removed when their process is gone.
    """
    ours = [path for path in listed(folder) if (path / INDEX).is_file()]
    old = [path for path in ours[keep:] if path not in also]
    for path in old:
        _remove(path)
    for path in folder.glob(f"{_ASIDE}*"):
        owner = path.name.rpartition("-")[2]
        if owner.isdigit() and int(owner) != os.getpid() and not alive(int(owner)):
            _remove(path)
    return old


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a checkpoint of this project; its index goes first, so that half of one is never taken for a whole."""
    if path.is_symlink() or not path.is_dir():
        return
    (path / INDEX).unlink(missing_ok=True)
    shutil.rmtree(path)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
