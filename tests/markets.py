"""Markets for the tests of the desk: a smooth synthetic one and a rough one, with everything that breaks a ledger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, MarketData
from mtquant_rllib.market.synthetic import synthesise


def smooth(settings: Settings, n_paths: int = 1, n_years: float = 2.5, seed: int = 1) -> list[MarketData]:
    return synthesise(settings, n_paths=n_paths, n_years=n_years, seed=seed, variant="default").markets


def roughen(settings: Settings, market: MarketData, seed: int) -> MarketData:
    """Holidays of single instruments (some longer than any reference), stale opens, gaps beyond the price bands, and
    bars on which oil closes below zero."""
    rng = np.random.default_rng(seed)
    bars, valid, stale = market.bars.copy(), market.valid.copy(), market.stale_open.copy()
    n_rows, n = valid.shape
    symbols = settings.universe.symbols

    for _ in range(n_rows // 25):
        t, i = int(rng.integers(1, n_rows)), int(rng.integers(n))
        jump = 1 + rng.choice([-0.12, -0.06, 0.06, 0.12])
        bars[t:, i, :4] *= jump
    valid &= rng.random((n_rows, n)) > 0.03
    for start in range(40, n_rows - 10, 90):
        valid[start : start + 6, int(rng.integers(n))] = False
    for symbol in ("SPX500", "US30"):
        i = symbols.index(symbol)
        stale[: 3 * n_rows // 4, i] = True
        before = np.concatenate((bars[:1, i, CLOSE], bars[:-1, i, CLOSE]))
        bars[:, i, OPEN] = np.where(stale[:, i], before, bars[:, i, OPEN])
    oil = symbols.index("WTIUSD")
    for t in range(n_rows // 2, n_rows, 97):
        bars[t, oil, CLOSE] = -bars[t, oil, CLOSE] / 3
        valid[t : t + 2, oil] = True
    bars[..., HIGH] = np.maximum(bars[..., HIGH], bars[..., :4].max(axis=2))
    bars[..., LOW] = np.minimum(bars[..., LOW], bars[..., :4].min(axis=2))
    bars[~valid] = np.nan
    return replace(market, bars=bars, valid=valid, stale_open=stale & valid)


def intraday(settings: Settings, n_years: float = 8.0, hours: int = 4) -> MarketData:
    """A synthetic history whose bars are relabelled as bars of some hours, around the clock."""
    market = smooth(settings, n_years=n_years)[0]
    timestamps = np.datetime64("2019-01-01", "s") + np.arange(len(market)) * np.timedelta64(hours * 3600, "s")
    return replace(market, timestamps=timestamps, daily=False)


def scramble_after(market: MarketData, t: int, seed: int) -> MarketData:
    """The same history up to and including row t; other prices, ranges, volumes and macro values afterwards."""
    rng = np.random.default_rng(seed)
    bars, macro = market.bars.copy(), market.macro.copy()
    n_after, n = market.valid[t + 1 :].shape
    close = 100 * np.exp(np.cumsum(0.05 * rng.standard_normal((n_after, n)), axis=0))
    spread = np.sort(np.exp(0.03 * rng.standard_normal((4, n_after, n))), axis=0)
    bars[t + 1 :, :, OPEN], bars[t + 1 :, :, CLOSE] = close * spread[1], close * spread[2]
    bars[t + 1 :, :, HIGH], bars[t + 1 :, :, LOW] = close * spread[3], close * spread[0]
    bars[t + 1 :, :, 4] = np.exp(rng.standard_normal((n_after, n)))
    bars[~market.valid] = np.nan
    macro[t + 1 :] = np.where(np.isnan(macro[t + 1 :]), np.nan, rng.uniform(1, 50, macro[t + 1 :].shape))
    return replace(market, bars=bars, macro=macro)


def stage(settings: Settings, row: int, plays: dict[str, list[tuple[float, float, float, float]]]) -> MarketData:
    """A synthetic market that stands still after `row`, except for what is put on stage: for a symbol, the open, high,
    low and close of the bars from `row + 1` on, as multiples of its close at `row`. The last close then stays."""
    market = smooth(settings, n_years=1.4, seed=5)[0]
    bars = market.bars.copy()
    here = bars[row, :, CLOSE]
    bars[row + 1 :, :, :4] = here[:, None]
    for symbol, shown in plays.items():
        i = settings.universe.symbols.index(symbol)
        for k, multiples in enumerate(shown):
            bars[row + 1 + k, i, :4] = here[i] * np.array(multiples)
        bars[row + 1 + len(shown) :, i, :4] = bars[row + len(shown), i, CLOSE]
    return replace(market, bars=bars)
