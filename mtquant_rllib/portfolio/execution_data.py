"""Execution data: prices, conversion rates, financing and costs of each row of time, laid out so that a step fetches
them in one gather.

Rows of several histories ("paths") are stacked: row r of path p stands at p * rows_per_path + r. A row describes the
bar that ends with it *and* the way into it: `PREVIOUS` is the last good close before the bar, `FILL` the price at which
orders of the previous row's close are filled. Where an instrument has no bar, all its prices are the last good close,
so that nothing is earned and nothing is filled.

The book holds units and settles every bar's price difference in account currency at that bar's own rate, so a long
USDJPY earns (P1 - P0) / P1 of its dollar notional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, MarketData
from mtquant_rllib.market.calendar import financing_nights, rollover_bar, trading_day
from mtquant_rllib.portfolio.financing import base_rates
from mtquant_rllib.risk.pretrade import within_price_band

# Channels of `ExecutionData.money`.
PREVIOUS, FILL, TOP, BOTTOM, LAST, FX_FILL, FX_LAST, LONG_FINANCING, SHORT_FINANCING, COST = range(10)
CHANNEL_NAMES = (
    "previous close",
    "fill price",
    "high",
    "low",
    "close",
    "account currency at the fill",
    "account currency at the close",
    "financing of a long",
    "financing of a short",
    "cost of a trade",
)
N_CHANNELS = len(CHANNEL_NAMES)
# Channels of `ExecutionData.flags`.
TRADABLE, OPENING_ALLOWED, FILLS_AT_CLOSE = range(3)
N_FLAGS = 3

_ARRAYS = ("money", "flags", "day", "timestamps")


@dataclass(frozen=True)
class ExecutionData:
    """Money per row and instrument.

    Attributes
    ----------
    money
        float64 of shape (N, 10, n): previous close, fill price, high, low and close in quote currency; account
        currency per quote currency at the fill and at the close; cost of being long or short over the nights into this
        row, as a fraction of notional (negative: earned); one-way cost of a trade as a fraction of notional.
    flags
        bool of shape (N, 3, n): has a bar; a position may be opened or enlarged (price band, positive prices); orders
        fill at the close (the open is not tradable).
    day
        int64 of shape (N,): trading day of the row, 17:00 to 17:00 New York.
    timestamps
        datetime64[s] of shape (N,).
    rows_per_path
        Rows of one history.
    bars_per_year, bars_per_year_of, days_per_year
        Bars of the common axis, bars of each instrument (n,), and trading days, all read from the timestamps.
    """

    money: np.ndarray
    flags: np.ndarray
    day: np.ndarray
    timestamps: np.ndarray
    rows_per_path: int
    bars_per_year: float
    bars_per_year_of: np.ndarray
    days_per_year: float

    @property
    def n_paths(self) -> int:
        return len(self.day) // self.rows_per_path

    @classmethod
    def build(cls, settings: Settings, markets: Sequence[MarketData]) -> ExecutionData:
        """From one or several histories that share a time axis."""
        parts = [_one_path(settings, market) for market in markets]
        first = markets[0]
        day = trading_day(first.timestamps, first.daily)
        return cls(
            money=np.concatenate([part[0] for part in parts]),
            flags=np.concatenate([part[1] for part in parts]),
            day=np.tile(day, len(markets)),
            timestamps=np.tile(first.timestamps.astype("datetime64[s]"), len(markets)),
            rows_per_path=len(first),
            bars_per_year=first.bars_per_year,
            bars_per_year_of=first.bars_per_year_of,
            days_per_year=first.bars_per_year * len(np.unique(day)) / len(day),
        )

    def traded_from(self, first_rows: Sequence[int]) -> ExecutionData:
        """The same where instrument i is traded from row first_rows[i] of each path on: before, its features are not
        known yet and none of its orders fill."""
        young = np.arange(len(self.day))[:, None] % self.rows_per_path < np.asarray(first_rows)
        if not young.any():
            return self
        flags = np.array(self.flags)
        for flag in (TRADABLE, OPENING_ALLOWED):
            flags[:, flag] &= ~young
        return replace(self, flags=flags)

    def save(self, folder: Path) -> None:
        for name in _ARRAYS:
            np.save(folder / f"execution_{name}.npy", getattr(self, name))
        np.savez(
            folder / "execution_scalars.npz",
            rows_per_path=self.rows_per_path,
            bars_per_year=self.bars_per_year,
            bars_per_year_of=self.bars_per_year_of,
            days_per_year=self.days_per_year,
        )

    @classmethod
    def open(cls, folder: Path) -> ExecutionData:
        """Memory-mapped and read-only, so that every process of a machine shares one copy."""
        with np.load(folder / "execution_scalars.npz") as scalars:
            return cls(
                **{name: np.load(folder / f"execution_{name}.npy", mmap_mode="r") for name in _ARRAYS},
                rows_per_path=int(scalars["rows_per_path"]),
                bars_per_year=float(scalars["bars_per_year"]),
                bars_per_year_of=scalars["bars_per_year_of"],
                days_per_year=float(scalars["days_per_year"]),
            )


def _one_path(settings: Settings, market: MarketData) -> tuple[np.ndarray, np.ndarray]:
    n_rows, n = market.valid.shape
    valid = market.valid
    own_row = np.where(valid, np.arange(n_rows)[:, None], -1)
    last_good = np.maximum.accumulate(own_row, axis=0)
    close = np.take_along_axis(market.bars[:, :, CLOSE], np.maximum(last_good, 0), axis=0)
    # Before an instrument's first bar nothing can be held: a price of one keeps the arithmetic finite.
    close = np.where(last_good >= 0, close, 1.0)
    previous = np.vstack([close[:1], close[:-1]])
    stale = market.stale_open & valid

    money = np.empty((n_rows, N_CHANNELS, n))
    money[:, PREVIOUS] = previous
    money[:, FILL] = np.where(stale, close, np.where(valid, market.bars[:, :, OPEN], previous))
    money[:, TOP] = np.where(valid, market.bars[:, :, HIGH], previous)
    money[:, BOTTOM] = np.where(valid, market.bars[:, :, LOW], previous)
    money[:, LAST] = close
    money[:, FX_FILL] = _account_per_quote(settings, money[:, FILL])
    money[:, FX_LAST] = _account_per_quote(settings, close)
    nights = financing_nights(market.timestamps, market.daily, [row.triple_day for row in settings.instruments])
    base_rate = base_rates(settings, market)
    markup = np.array([row.financing.markup_pct for row in settings.instruments])
    per_night = nights / (100.0 * settings.desk.account.day_count)
    # The night into row t is paid at the rates known at t - 1.
    known = np.vstack([base_rate[:1], base_rate[:-1]])
    money[:, LONG_FINANCING] = per_night * (known + markup)
    money[:, SHORT_FINANCING] = per_night * (-known + markup)
    half_spread = np.array([row.spread_bps / 2 for row in settings.instruments])
    fees = np.array([row.commission_bps + row.slippage_bps for row in settings.instruments])
    widening = np.where(
        rollover_bar(market.timestamps, market.daily), settings.desk.cost.rollover_spread_multiplier, 1.0
    )
    money[:, COST] = (half_spread * widening[:, None] + fees) * 1e-4

    previous_good = np.vstack([np.full((1, n), -1), last_good[:-1]])
    age = np.arange(n_rows)[:, None] - previous_good
    in_band = within_price_band(
        money[:, FILL],
        np.where(previous_good >= 0, previous, np.nan),
        age,
        np.array([row.band_pct / 100 for row in settings.instruments]),
        settings.desk.fill.band_reference_max_age_bars,
    )
    positive = (previous > 0) & (money[:, FILL] > 0)
    flags = np.empty((n_rows, 3, n), dtype=bool)
    flags[:, TRADABLE] = valid & (previous_good >= 0)
    flags[:, OPENING_ALLOWED] = flags[:, TRADABLE] & positive & in_band
    flags[:, FILLS_AT_CLOSE] = stale
    return money, flags


def _account_per_quote(settings: Settings, prices: np.ndarray) -> np.ndarray:
    """Account currency per unit of each instrument's quote currency, at prices of shape (T, n)."""
    account = settings.desk.account.currency
    rates = np.ones_like(prices)
    rows = settings.instruments
    for i, row in enumerate(rows):
        if row.quote == account:
            continue
        for j, other in enumerate(rows):
            if (other.base, other.quote) == (account, row.quote):
                rates[:, i] = 1.0 / prices[:, j]
                break
            if (other.base, other.quote) == (row.quote, account):
                rates[:, i] = prices[:, j]
                break
        else:
            raise ConfigError(
                f"symbols.{settings.universe.symbols[i]}.quote = {row.quote}: no traded instrument converts "
                f"{row.quote} to {account}"
            )
    return rates
