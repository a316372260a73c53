"""What a desk plays on: execution data, features and the rows of each split, prepared once, shared by every process.

A prepared folder is plain arrays, opened by memory map: workers on one machine share one copy, and a path to it is
all that an environment's config carries. Its name is a hash of everything that it was made from, so the same market
and settings are prepared once, and different ones never meet.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episodes import EpisodeSegment, InstrumentSegments
from mtquant_rllib.env.prepared.files import (
    ARRAYS_HASH,
    FILES,
    INDEX,
    arrays_hash,
    file_hashes,
    read_index,
    require_finite,
)
from mtquant_rllib.env.prepared.planted_leak import plant_leak
from mtquant_rllib.errors import ConfigError, MarketDataError, RunError
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.own_features import own_code
from mtquant_rllib.features.reference import book_code
from mtquant_rllib.features.table import FeatureTable, open_table
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.splits import NAMES, time_splits
from mtquant_rllib.paths import on_disk
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.portfolio.financing import kind_code

CACHE_VARIABLE = "MTQUANT_CACHE"


def cache_folder() -> Path:
    """Where prepared markets are kept: $MTQUANT_CACHE, else `.cache/mtquant` under the working directory."""
    named = os.environ.get(CACHE_VARIABLE)
    # Ray moves the processes of trials into folders of its own, and says where they were.
    here = Path(os.environ.get("TUNE_ORIG_WORKING_DIR") or Path.cwd())
    return here / on_disk(named or Path(".cache") / "mtquant", f"the prepared market ({CACHE_VARIABLE})")


@dataclass(frozen=True)
class DeskData:
    """ExecutionData and features of one split, and the segments of rows in which it may be traded."""

    execution: ExecutionData
    features: FeatureTable
    segments: tuple[EpisodeSegment, ...]

    @classmethod
    def open(cls, folder: Path, split: str) -> DeskData:
        """Memory-mapped.

        Raises
        ------
        RunError
            When the folder is not a prepared market, has no such split, or lacks a part of it.
        """
        index = read_index(folder)
        if split not in index["splits"]:
            raise RunError(f"{folder} has no split {split!r}; it has {', '.join(index['splits'])}")
        try:
            entry = index["splits"][split]
            part = folder / entry["arrays"]
            return cls(
                ExecutionData.open(part),
                open_table(part / entry["features"]),
                tuple(EpisodeSegment(*rows) for rows in entry["segments"]),
            )
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise RunError(
                f"{folder}: its split {split!r} is damaged ({error}); delete the folder, and it is prepared again"
            ) from None

    @classmethod
    def of(cls, settings: Settings, markets: Sequence[MarketData]) -> DeskData:
        """In memory, for tests and notebooks: every row after the warm-up of every path, one segment a path."""
        features = build_features(settings, markets, None)
        execution = ExecutionData.build(settings, markets).traded_from(features.warm_from)
        return cls(execution, features, _whole_paths(execution, features))

    def instrument_segments(self, settings: Settings, domain: int | None) -> tuple[InstrumentSegments, ...]:
        """Which instruments of a domain play alone, and in which segments each is traded; all segments as one choice
        where all domains play (None).

        Raises
        ------
        MarketDataError
            When no instrument of the domain is traded in this split.
        """
        if domain is None:
            return (InstrumentSegments(0, self.segments),)
        part = settings.universe.domain_slices[domain]
        found = [
            InstrumentSegments(number, self._traded(first))
            for number, first in enumerate(self.features.warm_from[part])
        ]
        if not any(one.segments for one in found):
            raise MarketDataError(
                f"{settings.universe.domains[domain].name}: none of its instruments is traded in these bars, which end "
                "before their features are known; accepted: a longer history, or other market.splits"
            )
        return tuple(one for one in found if one.segments)

    def _traded(self, first_row: int) -> tuple[EpisodeSegment, ...]:
        """The segments from a row of each path on."""
        length = self.execution.rows_per_path
        starts = [max(s.start, s.start // length * length + first_row) for s in self.segments]
        return tuple(EpisodeSegment(start, s.stop) for start, s in zip(starts, self.segments) if s.stop - start > 1)


def describe(folder: Path) -> dict[str, Any]:
    """The index of a prepared folder: source, spans, segments."""
    return read_index(folder)


def market_of(folder: Path) -> dict[str, Any]:
    """Which market a prepared folder is of: kind, and the hash of the bars or of what they were drawn from; of files
    also symbols, first and last day."""
    known: dict[str, Any] = read_index(folder).get("market", {"kind": "unknown", "content": folder.name})
    return known


def prepare_embedded(settings: Settings, cache: Path | None = None) -> Path:
    """Prepare the synthetic market of `embedded`, each split from paths and seeds of its own."""
    # Workers only open what is prepared; what prepares it weighs as much again as the arrays.
    from mtquant_rllib.market.synthetic import synthesise

    embedded = settings.embedded
    drawn_from = {
        "embedded": embedded.model_dump(mode="json"),
        "synthetic": settings.synthetic.drawn_from(),
        "strength": settings.planted.strength,
        "leak": settings.allocator.leak.model_dump() if settings.allocator and embedded.variant == "leak" else None,
    }
    identity = _digest(settings, drawn_from)
    if embedded.variant == "leak" and settings.allocator is None:
        raise ConfigError("embedded.variant = leak: only an allocator's market has one (allocator.leak)")

    def fill(folder: Path) -> dict[str, Any]:
        splits = {}
        for number, split in enumerate(NAMES):
            size = embedded.of(split)
            seed = int(np.random.SeedSequence((embedded.seed, number)).generate_state(1)[0])
            drawn = synthesise(settings, n_paths=size.paths, n_years=size.years, seed=seed, variant=embedded.bars)
            segments, features = _write_arrays(settings, drawn.markets, folder / split)
            mu, sigma = drawn.truth.mu, drawn.truth.sigma
            if embedded.variant == "leak":
                block = folder / split / features / "block.npy"
                flat = sigma.reshape(-1, sigma.shape[-1])
                mu = plant_leak(settings, ExecutionData.open(folder / split), block, flat).reshape(mu.shape)
            known: dict[str, Any] = {"mu": mu, "sigma": sigma}
            if embedded.variant != "null" and settings.synthetic.planted.structures:
                known |= {"steady_mu": drawn.truth.steady_mu, "predictability": drawn.truth.predictability}
            np.savez(folder / split / "truth.npz", **known)
            splits[split] = {"arrays": split, "features": features, "segments": segments}
        world = hashlib.sha256(strict_json.dumps(drawn_from, sort_keys=True).encode()).hexdigest()
        market = {"kind": "synthetic", "content": world}
        return {"source": f"embedded ({embedded.variant})", "market": market, "splits": splits}

    return _prepared(cache, f"embedded-{identity}", fill)


def prepare_files(
    settings: Settings, bars: Path | Sequence[Path], macro: Path | None, cache: Path | None = None
) -> Path:
    """Prepare a history from files, split by time."""
    market, content = _loaded(settings, bars, macro)
    identity = _digest(settings, {"bars": content, "splits": settings.market.splits.model_dump(mode="json")})

    def fill(folder: Path) -> dict[str, Any]:
        (whole,), features = _write_arrays(settings, [market], folder / "history")
        splits = {}
        for name, split in time_splits(market, settings.market.splits).items():
            start, stop = max(split.start, whole[0]), min(split.stop, whole[1])
            if stop - start < 2:
                raise MarketDataError(
                    f"split {name}: rows {split.start} to {split.stop} leave nothing to trade after the warm-up, which "
                    f"ends at row {whole[0]}; accepted: a longer history, or other market.splits"
                )
            splits[name] = {"arrays": "history", "features": features, "segments": [[start, stop]]}
        return _source(market, content, bars, macro) | {"splits": splits}

    return _prepared(cache, f"bars-{identity}", fill)


UNSEEN = "unseen"
"""Split of bars that a run is judged on and was not made with."""


def prepare_unseen(
    settings: Settings,
    bars: Path,
    macro: Path | None,
    after: dt.date | None,
    cache: Path | None = None,
    *,
    holdout: bool = False,
) -> Path:
    """Prepare bars from files with one split, `UNSEEN`: all that can be traded after a day, or at all (None). The bars
    before it warm the features up. holdout: the last holdout is among them."""
    market, content = _loaded(settings, bars, macro, holdout=holdout)
    identity = _digest(settings, {"bars": content, "after": str(after)})

    def fill(folder: Path) -> dict[str, Any]:
        (whole,), features = _write_arrays(settings, [market], folder / "history")
        first = 0
        if after is not None:
            first = int(np.searchsorted(market.timestamps, np.datetime64(after + dt.timedelta(days=1)), side="left"))
        start, stop = max(first, whole[0]), whole[1]
        if stop - start < 2:
            raise MarketDataError(
                f"{bars}: nothing of it can be traded"
                + ("" if after is None else f" after {after}")
                + f"; its features are known from {market.timestamps[whole[0]].astype('datetime64[D]')} on, "
                f"and it ends on {market.timestamps[-1].astype('datetime64[D]')}; "
                "accepted: newer bars, with a year before them"
            )
        split = {"arrays": "history", "features": features, "segments": [[start, stop]]}
        return _source(market, content, bars, macro) | {"splits": {UNSEEN: split}}

    return _prepared(cache, f"unseen-{identity}", fill)


def _source(market: MarketData, content: str, bars: Path | Sequence[Path], macro: Path | None) -> dict[str, Any]:
    """Which files the bars are from, and which bars they are."""
    first, last = (str(timestamp.astype("datetime64[D]")) for timestamp in market.timestamps[[0, -1]])
    known = {"kind": "file", "content": content, "symbols": list(market.symbols), "first": first, "last": last}
    return {"source": str(bars), "macro": None if macro is None else str(macro), "market": known}


def _loaded(
    settings: Settings, bars: Path | Sequence[Path], macro: Path | None, *, holdout: bool = False
) -> tuple[MarketData, str]:
    """The bars, and a hash of them; without the last holdout, where there is one, unless it is asked for."""
    from mtquant_rllib.market.importing.importers import load_market

    market, _ = load_market(settings, bars, macro)
    first_held = settings.market.splits.holdout_from
    if first_held is not None and not holdout:
        stop = int(np.searchsorted(market.timestamps, np.datetime64(first_held), side="left"))
        if not stop:
            raise MarketDataError(
                f"{bars}: all of it is the last holdout, from {first_held} (market.splits.holdout_from)"
            )
        market = market.rows(0, stop)
    content = hashlib.sha256()
    for array in (market.timestamps, market.bars, market.valid, market.macro, market.stale_open, market.volume_proxy):
        content.update(np.ascontiguousarray(array).tobytes())
    return market, content.hexdigest()


def truth(folder: Path, split: str, names: Sequence[str] = ("mu", "sigma")) -> tuple[np.ndarray, ...]:
    """What nobody sees of a prepared synthetic split, each (N, n), rows as on the execution: conditional mean and
    volatility of the next return; where the planted part has structures of the whole desk (`planted.structures`) also
    `steady_mu` and `predictability`, see `market.synthetic.PlantedTruth`.

    Only an oracle may read this.
    """
    with np.load(folder / split / "truth.npz") as stored:
        return tuple(stored[name].reshape(-1, stored[name].shape[-1]) for name in names)


def _write_arrays(settings: Settings, markets: Sequence[MarketData], folder: Path) -> tuple[list[list[int]], str]:
    """Write the histories' arrays; the tradable rows of each, and the features' folder below `folder`."""
    folder.mkdir(parents=True)
    features = build_features(settings, markets, folder)
    assert features.folder is not None
    execution = ExecutionData.build(settings, markets).traded_from(features.warm_from)
    execution.save(folder)
    require_finite(execution, features, settings.universe.symbols)
    return [[segment.start, segment.stop] for segment in _whole_paths(execution, features)], features.folder.name


def _whole_paths(execution: ExecutionData, features: FeatureTable) -> tuple[EpisodeSegment, ...]:
    length = execution.rows_per_path
    return tuple(
        EpisodeSegment(path * length + features.warmup, (path + 1) * length) for path in range(execution.n_paths)
    )


@functools.cache
def _code_version() -> str:
    """Hash of the sources that decide what a prepared array holds: of whole folders, so that none is forgotten."""
    package = Path(__file__).resolve().parents[2]
    sources = [
        *(
            source
            for part in ("market", "features", "env/prepared")
            for source in sorted((package / part).rglob("*.py"))
        ),
        *(package / "portfolio" / name for name in ("execution_data.py", "financing.py")),
    ]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _digest(settings: Settings, parts: dict[str, Any]) -> str:
    """Hash of the parts, of every setting that shapes prepared arrays, and of the files that functions of one's own
    stand in."""
    shaping = ("symbols", "policy_rates", "features", "reference", "specialists", "portfolio_risk", "desk")
    tree = settings.model_dump(mode="json")
    del tree["desk"]["observation"]  # how an agent sees the arrays
    del tree["desk"]["decision"]["risk_scale"]  # what a desk does with them
    tree["reference"] = settings.reference.arrays
    text = strict_json.dumps(
        {
            "code": _code_version(),
            "own_code": own_code(settings.features) | book_code(settings.reference) | kind_code(settings),
            "traded": settings.universe.symbols,
            "past_returns": settings.risk.past_returns,
            **parts,
            **{key: tree[key] for key in shaping},
        },
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _prepared(cache: Path | None, name: str, fill: Any) -> Path:
    """The folder of this name, filled in a temporary one and moved into place whole: two processes may race, one
    wins."""
    root = cache or cache_folder()
    final = root / name
    if (final / INDEX).is_file():
        return final
    root.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
    try:
        index = fill(half)
        hashes = file_hashes(half)
        index |= {ARRAYS_HASH: arrays_hash(hashes), FILES: hashes}
        (half / INDEX).write_text(strict_json.dumps(index, indent=1))
        half.chmod(0o755)
        try:
            half.rename(final)
        except OSError:
            if not (final / INDEX).is_file():
                raise
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return final
