"""The prepared market of a run in an object store, which goes with the run: whoever carries it on may lack its bars."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from mtquant_rllib import durable
from mtquant_rllib.env.prepared.data import cache_folder
from mtquant_rllib.env.prepared.files import INDEX
from mtquant_rllib.object_store import Store, in_parallel

FOLDER = "market"
"""Of a run in a store, for its prepared market."""


def send(store: Store, data: Path) -> None:
    """Send the prepared market in the folder `data`, where the run does not have it yet."""
    place = f"{FOLDER}/{data.name}"
    if store.stat(f"{place}/{INDEX}") is not None:
        return
    paths = [path for path in sorted(data.rglob("*")) if path.is_file()]
    for last in (False, True):
        in_parallel(
            lambda path: store.upload(data / path, f"{place}/{path}"),
            [path.relative_to(data).as_posix() for path in paths if (path.name == INDEX) is last],
        )


def bring(store: Store, name: str) -> None:
    """Bring the prepared market of this name into the cache, where the run has it."""
    place = f"{FOLDER}/{name}/"
    paths = [path.removeprefix(place) for path in store.files(place.rstrip("/"))]
    if INDEX not in paths:
        return
    final = cache_folder() / name
    aside = durable.temporary_path(final)
    try:
        in_parallel(lambda path: store.download(f"{place}{path}", aside / path), paths)
        with contextlib.suppress(OSError):
            os.rename(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
