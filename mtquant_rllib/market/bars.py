"""`MarketData`: aligned bars of all instruments on one time axis, with what was known of the macro series.

The axis is the union of the instruments' bars. A bar that an instrument does not have is masked, never filled: its
row of `bars` is NaN and `valid` is False.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mtquant_rllib.market.calendar import bars_per_year

OPEN, HIGH, LOW, CLOSE, VOLUME = range(5)
COLUMNS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class MarketData:
    """Bars and macro of one history.

    Attributes
    ----------
    symbols
        Instrument names in universe order.
    timestamps
        datetime64[s] of shape (T,), UTC, strictly increasing. A label: for daily bars midnight of the trading date, for
        intraday bars the moment of the open.
    bars
        float64 of shape (T, n_instruments, 5): open, high, low, close in quote currency, volume. NaN where not `valid`;
        volume may be NaN on a valid bar.
    valid
        bool of shape (T, n_instruments): the instrument has this bar.
    macro
        float64 of shape (T, n_macro): the last value published by the moment of decision of row t (a series is known
        the business day after its date), in the units of the source. NaN before a series begins.
    macro_columns
        Names of the macro columns.
    stale_open
        bool of shape (T, n_instruments): the open is not tradable (it repeats the previous close); orders of such a bar
        fill at its close.
    volume_proxy
        bool of shape (n_instruments,): the series has no usable volume; true range stands in for all of it.
    daily
        Bars are trading dates (True) or shorter than a day (False).
    """

    symbols: tuple[str, ...]
    timestamps: np.ndarray
    bars: np.ndarray
    valid: np.ndarray
    macro: np.ndarray
    macro_columns: tuple[str, ...]
    stale_open: np.ndarray
    volume_proxy: np.ndarray
    daily: bool

    def __post_init__(self) -> None:
        n_rows, n = len(self.timestamps), len(self.symbols)
        assert self.bars.shape == (n_rows, n, 5), self.bars.shape
        assert self.valid.shape == (n_rows, n), self.valid.shape
        assert self.macro.shape == (n_rows, len(self.macro_columns)), self.macro.shape
        assert self.stale_open.shape == (n_rows, n), self.stale_open.shape
        assert self.volume_proxy.shape == (n,), self.volume_proxy.shape

    def __len__(self) -> int:
        return len(self.timestamps)

    @cached_property
    def bars_per_year(self) -> float:
        """Rows of the common axis a year, read from the timestamps without their holes; what annualises the desk."""
        return bars_per_year(self.timestamps)

    @cached_property
    def bars_per_year_of(self) -> np.ndarray:
        """Own bars a year of each instrument, shape (n_instruments,), between its first and last bar."""
        return np.array([bars_per_year(self.timestamps[self.valid[:, i]]) for i in range(len(self.symbols))])

    def rows(self, start: int, stop: int) -> MarketData:
        """A contiguous stretch of rows, as views."""
        part = slice(start, stop)
        return replace(
            self,
            timestamps=self.timestamps[part],
            bars=self.bars[part],
            valid=self.valid[part],
            macro=self.macro[part],
            stale_open=self.stale_open[part],
        )
