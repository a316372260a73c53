"""Interest rates by currency: foreign policy rates from a yearly table, the account currency's short rate from
macro."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import MarketData


def policy_rate(table: Mapping[str, Mapping[int, float]], currency: str, timestamps: np.ndarray) -> np.ndarray:
    """Policy rate known at each timestamp, per cent a year, shape (T,): the value at the end of the previous year.

    Years before the table use its first value, years after it the last.

    Raises
    ------
    ConfigError
        When the table has no such currency.
    """
    if currency not in table:
        raise ConfigError(f"policy_rates: no row for {currency}; there are {', '.join(sorted(table))}")
    by_year = table[currency]
    years = np.array(sorted(by_year))
    values = np.array([by_year[year] for year in years], dtype=np.float64)
    previous_year = timestamps.astype("datetime64[Y]").astype(np.int64) + 1970 - 1
    return values[np.clip(np.searchsorted(years, previous_year, side="right") - 1, 0, len(years) - 1)]


def short_rate(market: MarketData, columns: Sequence[str]) -> np.ndarray:
    """The account currency's short rate at each row, per cent a year, shape (T,); 0 where no column has a value yet."""
    rate = np.full(len(market), np.nan)
    for name in columns:
        if name in market.macro_columns:
            rate = np.where(np.isnan(rate), market.macro[:, market.macro_columns.index(name)], rate)
    last_known = np.maximum.accumulate(np.where(np.isnan(rate), -1, np.arange(len(rate))))
    return np.where(last_known >= 0, rate[np.maximum(last_known, 0)], 0.0)
