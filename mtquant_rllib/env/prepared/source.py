"""The market of an environment's configuration: its prepared arrays, or a recipe to prepare them again.

A configuration names the folder of its prepared arrays, which is a cache: a checkpoint may outlive it, or be moved to a
machine that never had it. So it has the market's recipe beside it (`config.environment.MarketRecipe`).

The market is opened from `data`, or from the cache of this machine, or prepared again and compared by hash: an
environment plays on the arrays that its run began with, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtquant_rllib.config.environment import EnvironmentConfig, MarketRecipe
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData, cache_folder, prepare_embedded, prepare_files
from mtquant_rllib.env.prepared.files import ARRAYS_HASH, INDEX, read_index, set_aside, verify_prepared
from mtquant_rllib.errors import RunError
from mtquant_rllib.object_store import downloaded
from mtquant_rllib.paths import address_of, is_address

logger = logging.getLogger(__name__)


def open_market(config: EnvironmentConfig, split: str | None = None) -> DeskData:
    """One split of the market of an environment, memory-mapped; its own where none is named.

    Raises
    ------
    RunError
        When the arrays are gone and cannot be prepared again, or differ then.
    """
    folder = config.data
    if not _is_there(folder):
        folder = find_prepared(config.settings, folder, config.market)
    return DeskData.open(folder, split or config.split)


def find_prepared(settings: Settings, data: Path, source: MarketRecipe | None, *, verify: bool = False) -> Path:
    """The folder of the prepared arrays: `data`, the one of its name in the cache, or one prepared again.

    verify: check the hashes of a folder before it is used. A damaged one is renamed if it has our index or lies in the
    cache, and left alone otherwise.

    Raises
    ------
    RunError
        When there is none and no recipe, or the recipe's bars are gone, or it makes other arrays.
    """
    for folder in dict.fromkeys((data, cache_folder() / data.name)):
        if _is_there(folder) and (not verify or _is_sound(folder)) and _is_the_same(folder, data, source):
            return folder
        if not _is_there(folder) and folder.is_dir() and _is_in_the_cache(folder):
            _free_the_name(folder, f"{folder} has no readable {INDEX}")
    if source is None:
        raise RunError(
            f"{data} is not a prepared market, and there is no record of its bars; prepare it again from them"
        )
    folder = _prepared_again(settings, data, source)
    if verify:
        # One that is damaged and could not be set aside is found again under its name.
        verify_prepared(folder)
    return folder


def local_copy(name: str | Path) -> Path:
    """Market files on a disk: those named, or of an address in an object store a copy in the cache.

    Raises
    ------
    RunError
        When an address names nothing, or its store does not answer.
    """
    if not is_address(name):
        return Path(name)
    address = address_of(name)
    try:
        return downloaded(address, cache_folder() / "files" / hashlib.sha256(address.encode()).hexdigest()[:16])
    except OSError as error:
        raise RunError(f"{address}: {error.strerror or error}") from error


def lies_here(data: str | Path) -> bool:
    """Whether this machine has the prepared market that another one has in `data`: there, or by its name in the
    cache."""
    return any(_is_there(folder) for folder in (Path(data), cache_folder() / Path(data).name))


def packed(folder: Path) -> dict[str, np.ndarray]:
    """A prepared market as arrays of bytes by path, memory-mapped, to be sent to a machine that does not have it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    return {path.relative_to(folder).as_posix(): np.memmap(path, np.uint8, mode="r") for path in paths}


def unpacked(name: str, files: Mapping[str, np.ndarray]) -> Path:
    """Put a prepared market that was `packed` elsewhere into the cache of this machine, under its name.

    Raises
    ------
    RunError
        When it did not arrive as it was sent.
    """
    final = cache_folder() / name
    aside = final.with_name(f"{name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        for path, content in files.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            content.tofile(aside / path)
        verify_prepared(aside)
        if not _is_there(final):
            # Another process may be first: what it has put there is the same.
            with contextlib.suppress(OSError):
                aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def _is_there(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def _is_in_the_cache(folder: Path) -> bool:
    return folder.resolve().parent == cache_folder().resolve()


def _is_the_same(folder: Path, data: Path, source: MarketRecipe | None) -> bool:
    """Whether a folder found by its name in the cache holds the arrays of the recipe."""
    if folder == data or source is None or source.arrays is None:
        return True
    return bool(read_index(folder).get(ARRAYS_HASH) == source.arrays)


def _is_sound(folder: Path) -> bool:
    try:
        verify_prepared(folder)
    except RunError as error:
        _free_the_name(folder, str(error))
        return False
    return True


def _free_the_name(folder: Path, why: str) -> None:
    try:
        if not _is_in_the_cache(folder):
            read_index(folder)  # Without our index it is somebody else's, and stays.
        aside = set_aside(folder)
    except (RunError, OSError) as error:
        logger.warning("%s; it is left where it is (%s), and the market is prepared again elsewhere", why, error)
        return
    logger.warning("%s; it is set aside as %s, and the market is prepared again", why, aside.name)


def _prepared_again(settings: Settings, data: Path, source: MarketRecipe) -> Path:
    if source.kind == "synthetic":
        folder = prepare_embedded(settings)
    else:
        if source.bars is None:
            raise RunError(f"{data} is gone, and the record of its market names no bars; begin a new run")
        bars, macro = (None if path is None else local_copy(path) for path in (source.bars, source.macro))
        for path in (bars, macro):
            if path is not None and not path.exists():
                raise RunError(
                    f"{data} is gone, and so is {path}, from which it was prepared; put the file back there, or the "
                    f"prepared folder into {cache_folder()}"
                )
        assert bars is not None
        folder = prepare_files(settings, bars, macro)
    same = folder.name == data.name if source.arrays is None else read_index(folder).get(ARRAYS_HASH) == source.arrays
    if not same:
        raise RunError(
            f"{source.name}: prepared again it is {folder.name}, and the run began with {data.name}: its bars, or the "
            f"version of the code or of the numerical libraries that prepare them, are not those of then; a run goes "
            f"on with what it began with, which lay in {data}: put it back there, or begin a new run"
        )
    return folder
