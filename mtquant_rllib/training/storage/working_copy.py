"""The working copy of a run in an object store: what goes to the store, what comes from it, and in which order.

A checkpoint or a folder of states is sent with its index last and removed with its index first: without the index it
is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.object_store import FileStat, Store, in_parallel
from mtquant_rllib.training.records import manifest_file, ownership
from mtquant_rllib.training.storage import run_lock, stored_market

TAKEN = "taken.json"
_SETTLED_NS = 300 * 10**9
"""How old a file has to be for its stat to tell it from another; more than two clocks differ by."""
LEASE = ".mtquant-lease.json"
"""In the store alone: who trains the run."""
_INDEXES = (ownership.CHECKPOINT_INDEX, ownership.STATES_INDEX)
_HERE_ALONE = (run_lock.FILE, ".ray_session.json", LEASE)
"""Of this machine's processes; never sent."""
IDENTITY = (manifest_file.FILE, manifest_file.BACKUP, ownership.MARKER)
"""What makes a folder a run."""


@dataclass
class WorkingCopy:
    """The copy of a run in a store. folder: the run's here."""

    folder: Path
    store: Store
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(bytes, modified_ns here) of what is known to stand in the store."""

    @property
    def address(self) -> str:
        return self.store.address

    def path_of(self, place: Path) -> str:
        return place.relative_to(self.folder).as_posix()

    # -- to the store -------------------------------------------------------------------------------------------------

    def send(self, place: Path) -> None:
        """A file, or a folder in the place of what stands there, its index last. Raises OSError where the store does
        not take it."""
        if place.is_dir():
            paths = [path for path in sorted(place.rglob("*")) if path.is_file()]
            if any(self.store.stat(f"{self.path_of(place)}/{index}") for index in _INDEXES):
                self.remove(place)
        else:
            paths = [place]
        for last in (False, True):
            self._upload([path for path in paths if (path.name in _INDEXES) is last])

    def _upload(self, paths: Iterable[Path]) -> None:
        def upload(path: str) -> None:
            found = (self.folder / path).stat()
            self.store.upload(self.folder / path, path)
            self._sent[path] = (found.st_size, found.st_mtime_ns)

        in_parallel(upload, [self.path_of(path) for path in paths])

    def known(self) -> None:
        """Count every file as pushed in its present state."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                name = self.path_of(path)
                self._sent[name] = self._here(name)

    def send_changed(self) -> None:
        """Every file of the run's that was changed here since it was sent; not what trials write, who send it
        themselves."""
        changed = []
        for path in sorted(self.folder.rglob("*")):
            name = self.path_of(path)
            if path.is_symlink() or not path.is_file() or _is_kept_here(name) or _is_a_trials(name):
                continue
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if self._sent.get(name) != (found.st_size, found.st_mtime_ns):
                    changed.append(path)
        self._upload(changed)

    def remove(self, place: Path) -> None:
        """A file of the run's, or a folder, its index first."""
        path = self.path_of(place)
        for name in (path, *(f"{path}/{index}" for index in _INDEXES)):
            self.store.remove_file(name)
        self.store.remove_folder(path)
        for name in [name for name in list(self._sent) if name == path or name.startswith(f"{path}/")]:
            self._sent.pop(name, None)

    # -- from the store -----------------------------------------------------------------------------------------------

    def take(self) -> None:
        """Bring the working copy to the state of the store: what is new or changed there comes, what is gone there
        goes.

        Raises
        ------
        RunError
            When what lies there is no run, or nothing does while the copy holds work. Nothing is touched then.
        """
        if all(self.store.stat(name) is None for name in IDENTITY):
            self._expect_nothing()
        there = _whole({path: stat for path, stat in self.store.files().items() if _is_the_runs(path)})
        record = self.folder.parent / TAKEN
        before = read_record(record)
        for path in sorted(self.folder.rglob("*"), reverse=True) if self.folder.is_dir() else ():
            name = self.path_of(path)
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()  # only where it is empty
            elif name not in there and not _is_kept_here(name):
                path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_record(self.folder.parent / ownership.REMOTE, {"address": self.address})
        new = [path for path, stat in there.items() if before.get(path) != [*stat, *self._here(path)]]
        for gone in self._download(new, lambda path: self.folder / path):
            # Whoever trains the run removes checkpoints meanwhile; without a part they are none.
            unit = self._unit_of(gone)
            if unit is not None:
                shutil.rmtree(self.folder / unit, ignore_errors=True)
        there = {path: stat for path, stat in there.items() if (self.folder / path).is_file()}
        self._sent = {path: self._here(path) for path in there}
        # A file that is written twice within one tick of the store's clock may bear one stat.
        settled = time.time_ns() - _SETTLED_NS
        known = {path: stat for path, stat in there.items() if stat.modified_ns < settled}
        write_record(record, {path: [*stat, *self._here(path)] for path, stat in known.items()})

    def _expect_nothing(self) -> None:
        """At an address where no run lies nothing else may lie, and no work here that may be the last copy."""
        others = [path for path in self.store.files() if path != LEASE]
        if others:
            raise RunError(
                f"{self.address}: {others[0]} and {len(others) - 1} more files lie there and no run; name a new one"
            )
        work = [*self.folder.glob("phase_*/*/checkpoint_*"), *self.folder.glob("policies/*")]
        if work:
            raise RunError(
                f"{self.address}: nothing lies there, and its working copy {self.folder} holds a run, which may be the "
                "last copy of it: see to the address and to the store (AWS_ENDPOINT_URL), or move the copy away"
            )

    def _download(self, paths: Iterable[str], place: Callable[[str], Path]) -> list[str]:
        """Bring files here; returns those that were gone when their turn came."""
        gone = []

        def bring(path: str) -> None:
            try:
                self.store.download(path, place(path))
            except FileNotFoundError:
                gone.append(path)

        in_parallel(bring, paths)
        return gone

    def _unit_of(self, path: str) -> PurePosixPath | None:
        """The checkpoint or the folder of states that a file is part of."""
        above = PurePosixPath(path).parents
        return next((one for one in above if any((self.folder / one / index).is_file() for index in _INDEXES)), None)

    def _here(self, path: str) -> tuple[int, int]:
        try:
            found = (self.folder / path).lstat()
        except OSError:
            return -1, -1
        return found.st_size, found.st_mtime_ns

    def fetch(self, below: str) -> None:
        """Checkpoints and states below a folder that are not here, or are others here: what other nodes wrote."""
        there = self.store.files(below)
        for index in [path for path in there if path.rsplit("/", 1)[-1] in _INDEXES]:
            unit = index.rsplit("/", 1)[0]
            content = self.store.read(index)
            if content is None or content == content_of(self.folder / index):
                continue
            self._replace(unit, [path for path in there if path.startswith(f"{unit}/")])

    # -- from other nodes ---------------------------------------------------------------------------------------------

    def _replace(self, unit: str, paths: list[str]) -> None:
        place = self.folder / unit
        aside = durable.temporary_path(place)
        try:
            if self._download(paths, lambda path: aside / path[len(unit) + 1 :]):
                return  # removed by whoever wrote it, while it was on its way
            ownership.remove_own(place, self.folder, _is_a_unit)
            os.rename(aside, place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def refresh(self, paths: Iterable[str]) -> None:
        """These files, as they stand in the store now."""
        in_parallel(lambda path: self.store.download(path, self.folder / path), paths)


def _is_kept_here(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return path.split("/")[0] in _HERE_ALONE or name.startswith(durable.HALF) or f"/{durable.HALF}" in f"/{path}"


def _is_the_runs(path: str) -> bool:
    """Whether a file of the store belongs into a working copy."""
    return path.split("/")[0] not in (*_HERE_ALONE, stored_market.FOLDER)


def _is_a_trials(path: str) -> bool:
    """Checkpoints and module states of trials: phase_N/TRIAL/checkpoint_N/..., phase_N/modules/TRIAL/..."""
    parts = PurePosixPath(path).parts
    return len(parts) > 3 and (parts[2].startswith("checkpoint_") or parts[1] == "modules")


def _whole(files: dict[str, FileStat]) -> dict[str, FileStat]:
    """The complete ones: a folder whose push or removal was cut off has no index."""
    indexed = {path.rsplit("/", 1)[0] for path in files if path.rsplit("/", 1)[-1] in _INDEXES}
    return {
        path: stat
        for path, stat in files.items()
        if not _is_a_trials(path) or any(str(folder) in indexed for folder in PurePosixPath(path).parents)
    }


def _is_a_unit(folder: Path) -> bool:
    return ownership.is_checkpoint_or_empty(folder) or ownership.is_states(folder)


def content_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def read_record(path: Path) -> dict[str, list[int]]:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def write_record(path: Path, tree: object) -> None:
    durable.replace_file(path, strict_json.dumps(tree).encode())
