"""A run in an object store: its working copy on this machine's disk, and what goes back and forth.

    CACHE/remote/HASH/
      remote.json    the address
      taken.json     what each file was like when it was last brought here
      stretch*       the word of the stretch that works here
      NAME/          the run's folder, as on any disk

The store is the truth. Whoever opens a run brings the working copy to its state (`taken`); whoever writes a record
sends it before it counts (`sent`): a checkpoint before Tune hears of it, the manifest before a phase begins. What
grows line by line (results, logs) follows every few seconds. A checkpoint or a folder of states is sent with its index
last and removed with its index first: without the index it is none.

On a disk that all nodes mount there is nothing to do here: every function returns at once for a run that is no working
copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mtquant_rllib.env.data import cache_folder
from mtquant_rllib.env.market_source import lies_here
from mtquant_rllib.env.prepared_files import INDEX as MARKET_INDEX
from mtquant_rllib.errors import RunError
from mtquant_rllib.object_store import Stamp, Store, in_parallel
from mtquant_rllib.paths import address_of, is_address
from mtquant_rllib.training.records import durable, manifest_file, ownership, run_lock
from mtquant_rllib.training.records.path_names import name_fault, shown
from mtquant_rllib.training.records.run_names import REMOTE

logger = logging.getLogger("mtquant_rllib.training")

_TAKEN, _STRETCH, _IN_USE = "taken.json", "stretch", "in_use.lock"
_SETTLED_NS = 300 * 10**9
"""How old a file has to be for its stamp to tell it from another; more than two clocks differ by."""
LEASE = ".mtquant-lease.json"
"""In the store alone: who trains the run."""
_INDEXES = (ownership.CHECKPOINT_INDEX, ownership.STATES_INDEX)
_HERE_ALONE = (run_lock.FILE, ".ray_session.json", LEASE)
"""Of this machine's processes; never sent."""
_IDENTITY = (manifest_file.FILE, manifest_file.BACKUP, ownership.MARKER)
"""What makes a folder a run."""
MARKET = "market"
"""Folder of a run in a store that holds its prepared market."""


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


@dataclass
class Mirror:
    """A working copy and its run in the store. folder: the copy's."""

    folder: Path
    store: Store
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(bytes, modified_ns here) of what is known to stand in the store."""

    @property
    def address(self) -> str:
        return self.store.address

    def _path(self, place: Path) -> str:
        return place.relative_to(self.folder).as_posix()

    # -- to the store -------------------------------------------------------------------------------------------------

    def send(self, place: Path) -> None:
        """A file, or a folder in the place of what stands there, its index last. Raises OSError where the store does
        not take it."""
        if place.is_dir():
            paths = [path for path in sorted(place.rglob("*")) if path.is_file()]
            if any(self.store.stamp(f"{self._path(place)}/{index}") for index in _INDEXES):
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

        in_parallel(upload, [self._path(path) for path in paths])

    def known(self) -> None:
        """Take every file as it is here for sent."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                name = self._path(path)
                self._sent[name] = self._here(name)

    def send_changed(self) -> None:
        """Every file of the run's that was changed here since it was sent; not what trials write, who send it
        themselves."""
        changed = []
        for path in sorted(self.folder.rglob("*")):
            name = self._path(path)
            if path.is_symlink() or not path.is_file() or _is_kept_here(name) or _is_a_trials(name):
                continue
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if self._sent.get(name) != (found.st_size, found.st_mtime_ns):
                    changed.append(path)
        self._upload(changed)

    def remove(self, place: Path) -> None:
        """A file of the run's, or a folder, its index first."""
        path = self._path(place)
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
        if all(self.store.stamp(name) is None for name in _IDENTITY):
            self._expect_nothing()
        there = _whole({path: stamp for path, stamp in self.store.files().items() if _is_the_runs(path)})
        record = self.folder.parent / _TAKEN
        before = _read_record(record)
        for path in sorted(self.folder.rglob("*"), reverse=True) if self.folder.is_dir() else ():
            name = self._path(path)
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()  # only where it is empty
            elif name not in there and not _is_kept_here(name):
                path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder.parent / REMOTE, {"address": self.address})
        new = [path for path, stamp in there.items() if before.get(path) != [*stamp, *self._here(path)]]
        for gone in self._download(new, lambda path: self.folder / path):
            # Whoever trains the run removes checkpoints meanwhile; without a part they are none.
            unit = self._unit_of(gone)
            if unit is not None:
                shutil.rmtree(self.folder / unit, ignore_errors=True)
        there = {path: stamp for path, stamp in there.items() if (self.folder / path).is_file()}
        self._sent = {path: self._here(path) for path in there}
        # A file that is written twice within one tick of the store's clock may bear one stamp.
        settled = time.time_ns() - _SETTLED_NS
        known = {path: stamp for path, stamp in there.items() if stamp.modified_ns < settled}
        _write(record, {path: [*stamp, *self._here(path)] for path, stamp in known.items()})

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
            if content is None or content == _content(self.folder / index):
                continue
            self._replace(unit, [path for path in there if path.startswith(f"{unit}/")])

    # -- the prepared market ------------------------------------------------------------------------------------------

    def send_market(self, data: Path) -> None:
        """The prepared market, where the run does not have it yet: whoever carries the run on may lack its bars."""
        place = f"{MARKET}/{data.name}"
        if self.store.stamp(f"{place}/{MARKET_INDEX}") is not None:
            return
        paths = [path for path in sorted(data.rglob("*")) if path.is_file()]
        for last in (False, True):
            in_parallel(
                lambda path: self.store.upload(data / path, f"{place}/{path}"),
                [path.relative_to(data).as_posix() for path in paths if (path.name == MARKET_INDEX) is last],
            )

    def bring_market(self, name: str) -> None:
        """The prepared market of this name, into the cache."""
        place = f"{MARKET}/{name}/"
        paths = [path.removeprefix(place) for path in self.store.files(place.rstrip("/"))]
        if MARKET_INDEX not in paths:
            return
        final = cache_folder() / name
        aside = durable.half_of(final)
        try:
            in_parallel(lambda path: self.store.download(f"{place}{path}", aside / path), paths)
            with contextlib.suppress(OSError):
                os.rename(aside, final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    # -- from other nodes ---------------------------------------------------------------------------------------------

    def _replace(self, unit: str, paths: list[str]) -> None:
        place = self.folder / unit
        aside = durable.half_of(place)
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
    return path.split("/")[0] not in (*_HERE_ALONE, MARKET)


def _is_a_trials(path: str) -> bool:
    """Checkpoints and module states of trials: phase_N/TRIAL/checkpoint_N/..., phase_N/modules/TRIAL/..."""
    parts = PurePosixPath(path).parts
    return len(parts) > 3 and (parts[2].startswith("checkpoint_") or parts[1] == "modules")


def _whole(files: dict[str, Stamp]) -> dict[str, Stamp]:
    """Without what is left of folders that were being sent or removed when their process ended: they lack the index."""
    indexed = {path.rsplit("/", 1)[0] for path in files if path.rsplit("/", 1)[-1] in _INDEXES}
    return {
        path: stamp
        for path, stamp in files.items()
        if not _is_a_trials(path) or any(str(folder) in indexed for folder in PurePosixPath(path).parents)
    }


def _is_a_unit(folder: Path) -> bool:
    return ownership.is_checkpoint_or_empty(folder) or ownership.is_states(folder)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _read_record(path: Path) -> dict[str, list[int]]:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _write(path: Path, tree: object) -> None:
    durable.replace_file(path, json.dumps(tree).encode())


@lru_cache(maxsize=16)
def _mirror(folder: Path, address: str) -> Mirror:
    return Mirror(folder, Store.at(address))


def mirror_of(place: Path) -> Mirror | None:
    """The mirror of the working copy that a path lies in; None for a path elsewhere."""
    root = cache_folder().resolve() / "remote"
    place = place.absolute()
    if not place.is_relative_to(root):
        return None
    parts = place.relative_to(root).parts
    if len(parts) < 2:
        return None
    address = _read_record(root / parts[0] / REMOTE).get("address")
    if not isinstance(address, str) or _hash_of(address) != parts[0] or address.rsplit("/", 1)[-1] != parts[1]:
        return None
    return _mirror(root / parts[0] / parts[1], address)


def taken(name: str | os.PathLike[str]) -> Path:
    """The working copy of a run in a store, as the run stands there; the run need not exist. While a process of this
    machine trains it, the copy is what that process made of it.

    Raises
    ------
    RunError
        When the address is none of a run, or the store does not answer.
    """
    folder = working_folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / _IN_USE, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return folder
        try:
            Mirror(folder, Store.at(name)).take()
        except OSError as error:
            raise RunError(f"{address_of(name)}: {error.strerror or error}") from error
    return folder


def taken_by_its_copy(folder: Path) -> Path:
    """The same, of a run that is named by its working copy.

    Raises
    ------
    RunError
        When it is the copy of another cache than today's: what is changed there would reach nobody.
    """
    address = _read_record(folder.parent / REMOTE).get("address")
    if not isinstance(address, str) or not is_address(address):
        raise RunError(f"{folder.parent / REMOTE}: this file marks a working copy and names no address; move it away")
    if working_folder(address) != folder:
        raise RunError(f"{folder}: this is a working copy of {address}, of another MTQUANT_CACHE; name the address")
    return taken(address)


@contextlib.contextmanager
def in_use(run: Path) -> Iterator[None]:
    """Keep others on this machine from bringing the working copy to the state of the store meanwhile."""
    with open(run.parent / _IN_USE, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def sent(place: Path) -> None:
    """Send what was just written at a place, if it lies in a working copy."""
    if (mirror := mirror_of(place)) is not None:
        mirror.send(place)


def removed(place: Path) -> None:
    """Remove in the store what was just removed here, if it lay in a working copy."""
    if (mirror := mirror_of(place)) is not None and not place.name.startswith(durable.PREFIX):
        mirror.remove(place)


def fetched(place: Path) -> None:
    """Bring what trials on other nodes wrote below a folder."""
    if (mirror := mirror_of(place)) is not None:
        mirror.fetch(mirror._path(place))


def market_sent(run: Path, data: Path) -> None:
    """See to it that a run in a store has its prepared market there."""
    if (mirror := mirror_of(run)) is not None:
        mirror.send_market(data)


def market_brought(run: Path, data: str) -> None:
    """Bring the prepared market of a run in a store where this machine does not have it."""
    if (mirror := mirror_of(run)) is not None and not lies_here(data):
        mirror.bring_market(Path(data).name)


def address_of_run(run: Path) -> str | None:
    """The address of a run whose working copy this is; None for any other."""
    mirror = mirror_of(run)
    return None if mirror is None else mirror.address


def read(place: Path) -> bytes | None:
    """What the store has at a place of a working copy; None where there is nothing, or the run lies on a disk."""
    mirror = mirror_of(place)
    return None if mirror is None else mirror.store.read(mirror._path(place))


def write(place: Path, content: bytes) -> None:
    """Put a file into the store alone."""
    if (mirror := mirror_of(place)) is not None:
        mirror.store.write(mirror._path(place), content)


def probed(run: Path) -> None:
    """See whether the store of a run takes files. Raises OSError where it does not."""
    if (mirror := mirror_of(run)) is not None:
        mirror.store.probe()


def named(run: Path) -> str:
    """How a person names a run: its address in a store, or its folder."""
    mirror = mirror_of(run)
    return str(run) if mirror is None else mirror.address


@contextlib.contextmanager
def sending_changes(run: Path) -> Iterator[None]:
    """Send what is changed meanwhile, at the end."""
    mirror = mirror_of(run)
    if mirror is not None:
        mirror = Mirror(mirror.folder, mirror.store)
        mirror.known()
    try:
        yield
    finally:
        if mirror is not None:
            mirror.send_changed()


def begin_stretch(run: Path, stretch: str) -> None:
    """Let trials on this machine know that they share the driver's working copy."""
    if mirror_of(run) is not None:
        durable.replace_file(run.parent / _STRETCH, stretch.encode())


def joined(address: str, stretch: str) -> Path:
    """The working copy for the processes of a stretch on this machine: the driver's own where it is the driver's
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
        if _content(folder.parent / _STRETCH) != stretch.encode():
            if run_lock.holder(folder) is not None:
                raise RunError(f"{folder}: another stretch of this run is driven from this machine")
            # Made here, of what the store has; an earlier stretch's copy may hold what was since replaced there.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _write(folder.parent / REMOTE, {"address": address})
            Mirror(folder, Store.at(address)).refresh(_IDENTITY)
            durable.replace_file(folder.parent / _STRETCH, stretch.encode())
    # As long as this process lives.
    _USED.append(in_use(folder))
    _USED[-1].__enter__()
    return folder


_USED: list[contextlib.AbstractContextManager[None]] = []
