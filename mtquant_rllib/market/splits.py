"""Cutting history in time: train before validation before test, with a gap wherever one meets the next.

The last row before a cut would be rewarded by a return that belongs to the other side (purge), and the first rows
after it have features whose windows reach back (embargo). Both are left out, so no row serves two purposes and
neighbours do not share a return.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.market import SplitsConfig
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.bars import MarketData

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Rows [start, stop) of a market."""

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def of(self, market: MarketData) -> MarketData:
        """The rows themselves, as views."""
        return market.rows(self.start, self.stop)


def cut(edges: tuple[int, int, int, int], purge_bars: int, embargo_bars: int) -> tuple[Split, Split, Split]:
    """Three splits between four edges: purge before each inner edge, embargo after it. Raises MarketDataError if one
    is empty."""
    splits = []
    for k, name in enumerate(NAMES):
        start = edges[k] + (embargo_bars if k else 0)
        stop = edges[k + 1] - (purge_bars if k < 2 else 0)
        if stop <= start:
            raise MarketDataError(
                f"split {name}: rows {edges[k]} to {edges[k + 1]} leave none after purge {purge_bars} and embargo "
                f"{embargo_bars}; accepted: more bars, or a smaller market.splits.embargo_bars"
            )
        splits.append(Split(name, start, stop))
    return splits[0], splits[1], splits[2]


def time_splits(market: MarketData, config: SplitsConfig) -> dict[str, Split]:
    """Train, validation and test of one history.

    Daily bars that have `min_bars` rows in each of the configured spans are cut at those dates; everything else (other
    spans, intraday, synthetic) by fractions of its rows.
    """
    dates = np.array([config.train_until, config.validation_until, config.test_until], dtype="datetime64[D]")
    inner = np.searchsorted(market.timestamps, (dates + 1).astype("datetime64[s]"), side="left")
    edges = (0, int(inner[0]), int(inner[1]), int(inner[2]))
    if not market.daily or min(np.diff(edges)) < config.min_bars:
        n = len(market)
        first = round(config.fractions.train * n)
        second = round((config.fractions.train + config.fractions.validation) * n)
        edges = (0, first, second, n)
    train, validation, test = cut(edges, config.purge_bars, config.embargo_bars)
    return {split.name: split for split in (train, validation, test)}
