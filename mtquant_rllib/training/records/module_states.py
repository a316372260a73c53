"""Module states as files: plain arrays without pickles, hashed by content.

A folder holds one `MODULE.npz` per module and an `index.json` with each module's hash and what the writer wants to
remember (bars, score). It appears whole or not at all, and is replaced so that a process killed at any moment leaves
the old states or the new ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import damage_warnings, ownership
from mtquant_rllib.training.records.path_names import name_fault, shown
from mtquant_rllib.training.storage import mirror

INDEX = ownership.STATES_INDEX
FORMAT = ownership.FORMAT
_HASH = re.compile("[0-9a-f]{64}")
_LOOKS, _BETWEEN_LOOKS_S = 5, 0.01
T = TypeVar("T")
ModuleState = Mapping[str, np.ndarray]


def as_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        key: np.asarray(value.detach().cpu() if hasattr(value, "detach") else value) for key, value in state.items()
    }


def sha256(state: ModuleState) -> str:
    """Hash of the arrays' names, types, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        array = np.ascontiguousarray(state[key])
        digest.update(f"{key}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write(folder: Path, states: Mapping[str, ModuleState], *, run: Path | None = None, **notes: Any) -> dict[str, str]:
    """Write modules into `folder`, replacing the module states that were there; returns module -> hash.

    run: the folder that `folder` must lie in, which must be there; by default the run around it.

    Raises
    ------
    RunError
        When a module's name is none for a file, `folder` does not lie in the run or holds something else, or the
        storage is full or away. What was there is there still.
    """
    for module in states:
        if (fault := name_fault(module)) is not None:
            raise RunError(f"{folder}: no state is written for the module {shown(module)}, whose name {fault}")
    if run is None:
        run = ownership.run_of(folder)
    else:
        with durable.named_errors(folder):
            ownership.expect_there(run)
    place = ownership.within(run, folder)
    hashes = {module: sha256(state) for module, state in states.items()}
    index = {**notes, "format": FORMAT, "modules": hashes}
    with durable.named_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        _tidy(place, run)
        half = durable.temporary_path(place)
        try:
            half.mkdir()
            for module, state in states.items():
                arrays = {key: np.asarray(array) for key, array in state.items()}
                durable.write_new(half / f"{module}.npz", partial(_savez, arrays))
            durable.write_new(half / INDEX, lambda file: file.write(strict_json.dumps(index, indent=1).encode()))
            durable.sync_folder(half)
            _swap(half, place, run)
        except BaseException:
            if half.exists():
                ownership.remove_own(half, run, lambda folder: folder == half)
            raise
    return hashes


def _savez(arrays: dict[str, np.ndarray], file: BinaryIO) -> None:
    np.savez(file, allow_pickle=False, **arrays)


def _aside(place: Path) -> Path:
    """Where the old states are while the new ones take their place."""
    return place.with_name(f"{ownership.OLD}{place.name}")


def _tidy(place: Path, run: Path) -> None:
    """Complete a replacement that a killed process left half done; refuse to replace what is not ours."""
    ownership.sweep(place.parent, run, place.name)
    old = _aside(place)
    if old.is_dir() and not place.exists():
        os.rename(old, place)
    ownership.remove_own(old, run)
    if not place.exists() or ownership.is_states(place) or _is_empty(place):
        return
    if not place.is_dir() or not (place / INDEX).exists() or any(path.suffix != ".npz" for path in _others(place)):
        raise RunError(
            f"{place}: this is not, or not only, what this project wrote, so no module states are written over it; "
            "move it away"
        )
    kept = durable.unused(place.with_name(f"{place.name}.damaged"))
    os.rename(place, kept)
    damage_warnings.warn(f"{place}: the {INDEX} of these module states is damaged; they are kept as {kept.name}")


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def _others(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.name != INDEX]


def _swap(half: Path, place: Path, run: Path) -> None:
    """Put the new folder at the place of the old one; a process killed in between leaves the old one aside, where
    readers look too."""
    old = _aside(place)
    if place.exists() and not _is_empty(place):
        os.rename(place, old)
    try:
        os.rename(half, place)
    except BaseException:
        if old.exists():
            os.rename(old, place)
        raise
    durable.sync_folder(place.parent)
    ownership.remove_own(old, run)
    mirror.push(place)


def exists(folder: Path) -> bool:
    """Whether module states are there, even where a killed process was replacing them."""
    return (_current(folder) / INDEX).is_file()


def _current(folder: Path) -> Path:
    old = _aside(folder)
    return old if old.is_dir() and not folder.is_dir() else folder


def index(folder: Path) -> dict[str, Any]:
    """`modules`, module -> hash, and what the writer noted. Raises RunError when the folder is no folder of module
    states."""
    return _steadily(folder, _index)


def read(folder: Path, only: Iterable[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """States of the folder's modules, checked against the hashes in its index.

    Raises
    ------
    RunError
        When a module asked for is not there, or its content is not what was written.
    """
    wanted = None if only is None else list(only)
    return _steadily(folder, lambda place: _read(place, wanted))


def _steadily(folder: Path, look: Callable[[Path], T]) -> T:
    """What `look` finds, looked for again while another process replaces the folder.

    A fault is believed when it has been found `_LOOKS` times in a row in the same folder: one look may fall into a
    replacement and find afterwards the inode and the time of before (both are used again within a clock tick).
    """
    faults, file_id = 0, _file_id(_current(folder))
    while True:
        try:
            return look(_current(folder))
        except RunError:
            before, file_id = file_id, _file_id(_current(folder))
            faults = faults + 1 if file_id == before else 1
            if faults >= _LOOKS:
                raise
            time.sleep(_BETWEEN_LOOKS_S)


def _file_id(place: Path) -> tuple[int, int] | None:
    try:
        found = (place / INDEX).stat()
        return found.st_ino, found.st_mtime_ns
    except OSError:
        return None


def _index(place: Path) -> dict[str, Any]:
    path = place / INDEX
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        tree = json.loads(path.read_bytes())
        if not isinstance(tree, dict) or not isinstance(tree.get("modules"), dict):
            raise ValueError("it names no modules")
        if tree.get("format") != FORMAT:
            raise ValueError(f"its format is {tree.get('format')!r}, and this version reads {FORMAT}")
        for module, found in tree["modules"].items():
            if (fault := name_fault(module)) is not None:
                raise ValueError(f"the module {shown(module)} {fault}")
            if not isinstance(found, str) or _HASH.fullmatch(found) is None:
                raise ValueError(f"the hash of {module} is none")
        return tree
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{place}: no module states here ({error}); expected {INDEX} and an .npz per module") from error


def _read(place: Path, only: list[str] | None) -> dict[str, dict[str, np.ndarray]]:
    hashes = _index(place)["modules"]
    found = {}
    for module in hashes if only is None else only:
        if module not in hashes:
            raise RunError(f"{place}: no state of {module}; there are {', '.join(hashes)}")
        found[module] = _arrays(place / f"{module}.npz")
        if sha256(found[module]) != hashes[module]:
            raise RunError(f"{place / module}.npz: its content is not what {INDEX} says; the file is damaged")
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise RunError(f"{path}: this file of module states is missing; put it back from a copy")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as error:
        # What a flipped byte makes of a zip archive and of the array headers in it is any of a dozen types.
        raise RunError(
            f"{path}: this file of module states is damaged ({type(error).__name__}); put it back from a copy"
        ) from error


_POLICY, _DEVIATION = "policy.", "policy.rho"


def acting(state: ModuleState) -> dict[str, np.ndarray]:
    """The policy's part of a module state, without value network and critics."""
    return {key: array for key, array in state.items() if key.startswith(_POLICY)}


def carried_over(state: ModuleState, fresh: Mapping[str, Any], learning: bool) -> dict[str, Any]:
    """A state for a module that may learn by another algorithm than the one that the state comes from.

    The policy carries over. Where the learner's part is of another kind (a value network, or critics) the module keeps
    its own fresh one, and if it is to learn, a fresh deviation too: the algorithms want different ones.
    """
    parts, own = ({key for key in keys if not key.startswith(_POLICY)} for keys in (state.keys(), fresh.keys()))
    if parts == own or not parts:
        return dict(state)
    carried: dict[str, Any] = acting(state)
    if learning:
        carried[_DEVIATION] = fresh[_DEVIATION]
    return carried
