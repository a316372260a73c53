"""Other futures of one history: the same up to a row, and something else, in another order, or nothing after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME, MarketData

_MOVE, _SPREAD, _HOLIDAYS = 0.05, 0.03, 0.1
"""Deviations of a bar's close-to-close and of its four prices, and the share of bars that turn into holidays."""


def scrambled(market: MarketData, row: int, rng: np.random.Generator) -> MarketData:
    """Other prices, ranges, volumes, holidays and macro values after `row`."""
    bars, valid, macro = market.bars.copy(), market.valid.copy(), market.macro.copy()
    after = slice(row + 1, None)
    n_after, n = valid[after].shape
    level = np.abs(np.nan_to_num(bars[row, :, CLOSE], nan=1.0)) + 1e-6
    close = level * np.exp(np.cumsum(_MOVE * rng.standard_normal((n_after, n)), axis=0))
    prices = np.sort(np.exp(_SPREAD * rng.standard_normal((4, n_after, n))), axis=0)
    for channel, rank in ((LOW, 0), (OPEN, 1), (CLOSE, 2), (HIGH, 3)):
        bars[after, :, channel] = close * prices[rank]
    bars[after, :, VOLUME] = np.exp(8 + rng.standard_normal((n_after, n)))
    valid[after] &= rng.random((n_after, n)) > _HOLIDAYS
    bars[~valid] = np.nan
    known = ~np.isnan(macro[after])
    macro[after] = np.where(known, macro[after] * rng.uniform(0.5, 2.0, macro[after].shape), np.nan)
    return replace(market, bars=bars, valid=valid, macro=macro, stale_open=market.stale_open & valid)


def shuffled(market: MarketData, row: int, rng: np.random.Generator) -> MarketData:
    """The rows after `row` in another order: everything in them is real, and in its wrong place."""
    order = np.concatenate((np.arange(row + 1), row + 1 + rng.permutation(len(market) - row - 1)))
    parts = {name: getattr(market, name)[order] for name in ("bars", "valid", "macro", "stale_open")}
    return replace(market, **parts)


def truncated(market: MarketData, row: int, rng: np.random.Generator) -> MarketData:
    """A history that ends with `row`, as a live decision has it."""
    return market.rows(0, row + 1)


FUTURES: dict[str, Callable[[MarketData, int, np.random.Generator], MarketData]] = {
    "scrambled": scrambled,
    "shuffled": shuffled,
    "truncated": truncated,
}
