"""The market of a run as prepared arrays, and the record by which they can be made again.

Arrays live in the cache, where runs on the same market share them. Their folder's name is a hash of bars, settings and
code: a run whose arrays are gone makes them again from its record, and notices when they are others now.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.config.settings import BY_MARKET
from mtquant_rllib.env.prepared.data import DeskData, describe, prepare_embedded, prepare_files
from mtquant_rllib.env.prepared.files import ARRAYS_HASH
from mtquant_rllib.env.prepared.source import find_prepared, local_copy
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.features.feature_means import measured
from mtquant_rllib.paths import address_of, is_address, on_disk
from mtquant_rllib.training.records.manifest import MarketRecord


def prepare(settings: Settings, market: Path | None, macro: Path | None) -> MarketRecord:
    """Prepare bars from files, or the embedded market where none are named.

    Raises
    ------
    MarketDataError
        When the bars cannot be used, or macro series come without bars.
    RunError
        When an address names nothing, or its object store does not answer.
    """
    settings = for_market(settings, from_files=market is not None)
    if market is None:
        if macro is not None:
            raise MarketDataError(f"--macro {macro} without --market: the embedded market brings its own macro series")
        return _record(prepare_embedded(settings), kind="synthetic")
    bars, known = file_name(market), None if macro is None else file_name(macro)
    folder = prepare_files(settings, local_copy(bars), None if known is None else local_copy(known))
    return _record(folder, kind="file", bars=bars, macro=known)


def file_name(path: Path) -> str:
    """How the record names a market file: its full path, or its address in an object store."""
    return address_of(path) if is_address(path) else str(on_disk(path, "a market file").resolve())


def _record(folder: Path, **source: Any) -> MarketRecord:
    return MarketRecord(**source, data=str(folder.resolve()), arrays=describe(folder)[ARRAYS_HASH])


def centred(settings: Settings, record: MarketRecord) -> Settings:
    """The settings as a run on this market has them: with a reference policy or without, and with the means of the
    training bars' features where they do not name any."""
    settings = for_market(settings, from_files=record.kind == "file")
    if settings.desk.observation.feature_means is not None:
        return settings
    data = DeskData.open(Path(record.data), "train")
    segments = [slice(segment.start, segment.stop) for segment in data.segments]
    tree = settings.model_dump(mode="json")
    tree["desk"]["observation"]["feature_means"] = measured(data.features, segments, settings)
    return Settings.model_validate(tree)


def for_market(settings: Settings, *, from_files: bool) -> Settings:
    """The settings with everything decided that depends on the market (`config.settings.BY_MARKET`); an allocator has
    neither a reference policy nor a scale."""
    decided = {}
    for path in BY_MARKET:
        if attrgetter(path)(settings) == "files":
            here = from_files and (settings.allocator is None or path.startswith("recipe."))
            decided[path] = "always" if here else "never"
    return settings_with(settings, decided) if decided else settings


def restored(settings: Settings, record: MarketRecord) -> MarketRecord:
    """The record with arrays that exist, and hold what they held: every byte is read. For the beginning of a session;
    the processes of one open what it names.

    Raises
    ------
    RunError
        When the arrays are gone or damaged, and come out otherwise now: other bars, or code that prepares them
        otherwise. A change of the code that changes no array is none.
    """
    settings = for_market(settings, from_files=record.kind == "file")
    folder = find_prepared(settings, Path(record.data), record.recipe, verify=True)
    if folder == Path(record.data):
        return record
    return _record(folder, kind=record.kind, bars=record.bars, macro=record.macro)
