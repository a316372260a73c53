"""Module states as files: plain arrays without pickles, hashed by content.

A folder holds one `MODULE.npz` per module and an `index.json` with each module's hash and what the writer wants to
remember (bars, score). It appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.errors import RunError

INDEX = "index.json"
ModuleState = Mapping[str, np.ndarray]


def as_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        key: np.asarray(value.detach().cpu() if hasattr(value, "detach") else value) for key, value in state.items()
    }


def sha256(state: ModuleState) -> str:
    """Of names, types, shapes and bytes of the arrays, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        array = np.ascontiguousarray(state[key])
        digest.update(f"{key}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write(folder: Path, states: Mapping[str, ModuleState], **notes: Any) -> dict[str, str]:
    """Write modules into `folder`, replacing what was there; returns module -> hash."""
    hashes = {module: sha256(state) for module, state in states.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    for module, state in states.items():
        with open(half / f"{module}.npz", "wb") as file:
            np.savez(file, allow_pickle=False, **{key: np.asarray(array) for key, array in state.items()})
    (half / INDEX).write_text(json.dumps({"modules": hashes, **notes}, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
    return hashes


def index(folder: Path) -> dict[str, Any]:
    """Raises RunError when the folder is no folder of module states."""
    try:
        return json.loads((folder / INDEX).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: no module states here ({error}); expected {INDEX} and an .npz per module") from error


def read(folder: Path, only: Iterable[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """States of the folder's modules, checked against the hashes in its index.

    Raises
    ------
    RunError
        When a module asked for is not there, or its content is not what was written.
    """
    hashes = index(folder)["modules"]
    states = {}
    for module in hashes if only is None else only:
        if module not in hashes:
            raise RunError(f"{folder}: no state of {module}; there are {', '.join(hashes)}")
        with np.load(folder / f"{module}.npz", allow_pickle=False) as arrays:
            states[module] = {key: arrays[key] for key in arrays.files}
        if sha256(states[module]) != hashes[module]:
            raise RunError(f"{folder / module}.npz: its content is not what {INDEX} says; the file is damaged")
    return states


_POLICY, _DEVIATION = "policy.", "policy.rho"


def acting(state: ModuleState) -> dict[str, np.ndarray]:
    """The part that acts: the policy's."""
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
