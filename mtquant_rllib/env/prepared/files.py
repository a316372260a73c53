"""The files of a prepared market: their hashes and checks.

The index of a prepared folder, `data.json`, has the sha256 of every other file in it. Folders of older versions have
one hash over all arrays instead.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.errors import MarketDataError, RunError
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.portfolio.execution_data import ExecutionData

INDEX = "data.json"
FILES, ARRAYS_HASH = "files", "arrays_hash"
"""Keys of the index: sha256 of every file by its path below the folder, and one hash of all arrays."""
_NAMED = 3
"""Damaged files that an error names; the others it counts."""
_ROWS_AT_A_TIME = 4096
"""Rows of an array that are checked at a time, so that temporaries stay within a processor's cache."""


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a prepared folder: source, splits, hashes.

    Raises
    ------
    RunError
        When the folder is not a prepared market.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        if not isinstance(index["splits"], dict):
            raise ValueError("its splits are not a table")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder} is not a prepared market ({error}); prepare it again from its bars") from None
    return index


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below the folder but its index, by path."""
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / INDEX):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def arrays_hash(hashes: Mapping[str, str]) -> str:
    """One hash of all prepared arrays, independent of the code version and the name of the features' folder."""
    digest = hashlib.sha256()
    arrays = [(path.split("/")[0], path.rsplit("/", 1)[-1], own) for path, own in hashes.items()]
    for _, name, own in sorted(item for item in arrays if item[1].endswith(".npy")):
        digest.update(name.encode())
        digest.update(bytes.fromhex(own))
    return digest.hexdigest()


def verify_prepared(folder: Path) -> None:
    """Read every file of a prepared market and compare it with the hash it had when it was written.

    Raises
    ------
    RunError
        Naming the files that are missing or hold something else now, or the folder that is no prepared market.
    """
    index = read_index(folder)
    try:
        found = file_hashes(folder)
    except OSError as error:
        raise RunError(f"{folder}: the prepared market cannot be read ({error})") from None
    if FILES not in index:
        # Written by an older version, which may have had no hash at all.
        if index.get(ARRAYS_HASH, arrays_hash(found)) != arrays_hash(found):
            raise RunError(f"{folder}: its arrays are not those that were prepared: a file in it is damaged")
        return
    damaged = [
        f"{path} ({'holds other bytes' if path in found else 'missing'})"
        for path, own in index[FILES].items()
        if found.get(path) != own
    ]
    if damaged:
        more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
        raise RunError(f"{folder}: not what was prepared: {', '.join(damaged[:_NAMED])}{more}")


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder, so that its name is free. Returns the new path."""
    aside = folder.with_name(f"{folder.name}.damaged-{uuid.uuid4().hex[:8]}")
    folder.rename(aside)
    return aside


def require_finite(execution: ExecutionData, features: FeatureTable, symbols: Sequence[str]) -> None:
    """Check that every number that an environment reads is finite, in the warm-up too: without a bar or macro series
    prices are 1, rates and features 0.

    Raises
    ------
    MarketDataError
        Naming array, row, its time and the column or channel of the first number that is not finite.
    """
    names = ("block", "context", "sizing", "correlation_shift", "regime_confidence", "proxy_return")
    for name, array in {**{name: getattr(features, name) for name in names}, "money": execution.money}.items():
        for start in range(0, len(array), _ROWS_AT_A_TIME):
            rows = np.asarray(array[start : start + _ROWS_AT_A_TIME])
            bad = ~np.isfinite(rows)
            if bad.any():
                row, *place = np.argwhere(bad)[0].tolist()
                raise MarketDataError(
                    f"prepared array {name}: row {start + row} ({execution.timestamps[start + row]}) "
                    f"{position_name(name, place, symbols)} is {rows[(row, *place)]}; expected a finite number: the "
                    "bars or macro series around that time cannot be used as they are"
                )


def position_name(array: str, place: Sequence[int], symbols: Sequence[str]) -> str:
    """Words for a position in a row: symbol and channel of the execution data, symbol and column of the block, or a
    column."""
    if array == "money":
        return f"of {symbols[place[1]]}, {channel.CHANNEL_NAMES[place[0]]},"
    if array == "block":
        return f"of {symbols[place[0]]}, column {place[1]},"
    return f"column {place[0]}" if place else "of all instruments"
