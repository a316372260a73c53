"""What is learned from and what is judged on share no bar, and the means that are taken off features know the training
bars alone.

Both are asked of the market as a run prepares it: files are imported, cut and measured as `mtquant train` does it, once
as they are and once with other bars after the training split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.audit.changed_settings import changed
from mtquant_rllib.audit.findings import Check, Leak, first_of_each
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded, prepare_files
from mtquant_rllib.env.prepared.files import read_index
from mtquant_rllib.features.feature_means import measured
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME, MarketData
from mtquant_rllib.market.importing.importers import write_market
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.training.preparation import centred
from mtquant_rllib.training.records.manifest import MarketRecord

_LEAST_YEARS = 4.0
"""Of the small embedded markets that are prepared twice."""
_MEANS = ("desk", "observation", "feature_means")
_ROUNDING = 1e-3
"""Means that agree to this are the same measurement, written down with fewer digits."""


def prepare_twice(settings: Settings, market: MarketData | None, macro: Path | None, scratch: Path) -> list[Path]:
    """Two prepared folders that differ in nothing but what is not learned from: of bars from files those after the
    training split, of the embedded market (None), drawn small, the test paths."""
    if market is None:
        size = {"paths": 2, "years": _LEAST_YEARS}
        sizes = ({"train": size, "validation": size, "test": {**size, "years": years}} for years in (4.0, 4.5))
        return [prepare_embedded(changed(settings, embedded=own), scratch / "cache") for own in sizes]
    folders = []
    for name in ("as_it_is", "other_test_bars"):
        bars = write_market(market, scratch / f"{name}.parquet")
        folders.append(prepare_files(settings, bars, macro, scratch / "cache"))
        last = DeskData.open(folders[0], "train").segments[-1].stop - 1
        market = _other_bars_after(market, last, np.random.default_rng(settings.seed))
    return folders


def check_splits(folder: Path) -> Check:
    """No row, and no bar under another name, stands in two splits of a prepared market."""
    splits: Mapping[str, Any] = read_index(folder)["splits"]
    leaks, compared = [], 0
    bars = {name: _bars_of(DeskData.open(folder, name)) for name in splits}
    for one, other in combinations(splits, 2):
        same = splits[one]["arrays"] == splits[other]["arrays"]
        mine, theirs = bars[one], bars[other]
        shared = np.intersect1d(mine[0], theirs[0]) if same else mine[0][np.isin(mine[1], theirs[1])]
        compared += len(mine[0])
        if len(shared):
            timestamp = str(DeskData.open(folder, one).execution.timestamps[shared[0]])
            how = f"{len(shared):,} of its bars stand in the {other} split too"
            leaks.append(Leak(f"the {one} split", "", int(shared[0]), timestamp, how))
    return Check("splits", f"bars of {', '.join(splits)} with each other", compared, tuple(leaks))


def check_scaler(settings: Settings, folders: list[Path]) -> Check:
    """The means that a run measures do not change with bars that it does not learn from; means that the settings name
    are not those of all bars."""
    own = settings.desk.observation.feature_means
    free = changed(settings, desk={"observation": {"feature_means": None}})
    first, second = (
        centred(free, MarketRecord(kind="file", data=str(folder))).desk.observation.feature_means or {}
        for folder in folders
    )
    leaks = [
        Leak(
            "means of features",
            name,
            None,
            None,
            f"{mean:g} turns into {second.get(name, np.nan):g} with other test bars",
        )
        for name, mean in first.items()
        if second.get(name) != mean
    ]
    if own is not None:
        leaks += _fitted_on_all(settings, folders[0], own)
    n_rows = sum(segment.stop - segment.start for segment in DeskData.open(folders[0], "train").segments)
    where = "measured from training bars" + ("" if own is None else ", and those that the settings name")
    most = settings.evaluation.audit.max_reported_leaks
    return Check("scaler", f"means of {len(first)} features, {where}", n_rows, first_of_each(leaks, most))


def _fitted_on_all(settings: Settings, folder: Path, own: Mapping[str, float]) -> list[Leak]:
    """Leaks where named means are those of training and test bars together, and not those of training bars."""
    train = DeskData.open(folder, "train")
    splits = [DeskData.open(folder, name) for name in read_index(folder)["splits"]]
    if any(split.features.folder != train.features.folder for split in splits):
        return []
    learned, everything = ([slice(s.start, s.stop) for split in of for s in split.segments] for of in ([train], splits))
    of_train, of_all = (measured(train.features, part, settings) for part in (learned, everything))
    named = [name for name in own if name in of_train]
    far, near = (max((abs(own[name] - means[name]) for name in named), default=0.0) for means in (of_train, of_all))
    if near > _ROUNDING or far <= _ROUNDING:
        return []
    return [
        Leak(
            ".".join(_MEANS),
            name,
            None,
            None,
            f"{own[name]:g} is the mean over training, validation and test bars ({of_all[name]:g}); over training bars "
            f"it is {of_train[name]:g}",
        )
        for name in named
        if abs(own[name] - of_train[name]) > _ROUNDING
    ]


def _bars_of(data: DeskData) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a split, int (R,), and a key of the prices of each, (R,)."""
    rows = np.concatenate([np.arange(segment.start, segment.stop) for segment in data.segments])
    prices = data.execution.money[rows][:, [channel.TOP, channel.BOTTOM, channel.LAST]].reshape(len(rows), -1)
    return rows, np.ascontiguousarray(prices).view(f"V{prices.shape[1] * prices.itemsize}")[:, 0]


def _other_bars_after(market: MarketData, row: int, rng: np.random.Generator) -> MarketData:
    """The same bars up to `row`, as many after it, and other prices and volumes there."""
    bars = market.bars.copy()
    n_after = len(market) - row - 1
    factor = np.exp(0.03 * np.cumsum(rng.standard_normal((n_after, bars.shape[1])), axis=0))
    for name in (OPEN, HIGH, LOW, CLOSE):
        bars[row + 1 :, :, name] *= factor
    bars[row + 1 :, :, VOLUME] *= rng.uniform(0.2, 5.0, (n_after, bars.shape[1]))
    return replace(market, bars=bars)
