"""The macro series on the rows of the market, and the five numbers of them that the meta-controller sees.

Series are taken as they were known at each row (the market carries them lagged). A series that the market lacks is
replaced by a stand-in from prices where there is one; rates have none, and say so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.layout import MACRO
from mtquant_rllib.features.own_bars import InstrumentBars
from mtquant_rllib.features.registry import Registry
from mtquant_rllib.market.rates import policy_rate

macro_feature = Registry()


class AlignedMacro:
    """Macro columns of several histories on one time axis.

    Parameters
    ----------
    columns
        Names of the last axis of `values`.
    values
        float64 (T, P, n_macro), as known at each row; NaN before a series begins.
    by_symbol
        Own bars of each symbol, for the stand-ins.
    """

    def __init__(
        self,
        settings: Settings,
        timestamps: np.ndarray,
        columns: tuple[str, ...],
        values: np.ndarray,
        by_symbol: dict[str, InstrumentBars],
    ) -> None:
        self.settings = settings
        self.timestamps = timestamps
        self.by_symbol = by_symbol
        self.shape = values.shape[:2]
        # A column without a single value in any history counts as absent.
        self.columns = {
            name: np.ascontiguousarray(values[:, :, j])
            for j, name in enumerate(columns)
            if not np.isnan(values[:, :, j]).all()
        }
        self.names = settings.features.macro

    @cached_property
    def vix(self) -> np.ndarray:
        """Implied volatility of the index, per cent a year; else its realised volatility times the usual premium."""
        if self.names.vix in self.columns:
            return self.columns[self.names.vix]
        window, premium = self.names.vix_proxy_window_bars, self.names.vix_proxy_premium

        def realised(own_bars):
            return 100 * premium * ind.rolling_std(own_bars.r, window) * np.sqrt(own_bars.bars_per_year)

        return self.by_symbol[self.settings.features.roles.index].spread(realised)

    @cached_property
    def dxy(self) -> np.ndarray:
        """Dollar index; else a basket of the dollar pairs, up to a constant factor."""
        if self.names.dxy in self.columns:
            return self.columns[self.names.dxy]
        weights = {s: w for s, w in self.names.dxy_proxy_weights.items() if s in self.by_symbol}
        total = sum(abs(weight) for weight in weights.values())
        basket = np.zeros(self.shape)
        for symbol, weight in weights.items():
            basket = basket + weight / total * self.by_symbol[symbol].spread(lambda own_bars: own_bars.cum)
        return np.exp(basket)

    def _rate(self, name: str) -> np.ndarray:
        if name in self.columns:
            return self.columns[name]
        warnings.warn(
            f"macro: no column {name!r}; the features that read this rate are built from a rate of "
            f"{self.names.rate_centre_pct}%",
            stacklevel=2,
        )
        return np.full(self.shape, self.names.rate_centre_pct)

    @cached_property
    def rate_short(self) -> np.ndarray:
        """Short rate, per cent a year; before it begins, the next of the account's short-rate columns that has one."""
        candidates = (self.names.rate_short, *self.settings.desk.cost.short_rate_columns)
        there = [name for name in dict.fromkeys(candidates) if name in self.columns]
        if not there:
            return self._rate(self.names.rate_short)
        rate = self.columns[there[0]]
        for name in there[1:]:
            rate = np.where(np.isnan(rate), self.columns[name], rate)
        return rate

    @cached_property
    def rate_2y(self) -> np.ndarray:
        return self._rate(self.names.rate_2y)

    @cached_property
    def rate_10y(self) -> np.ndarray:
        return self._rate(self.names.rate_10y)

    def policy_rate(self, currency: str) -> np.ndarray:
        """Foreign policy rate, per cent a year, (T, 1): the previous year-end's, which every bar of a year knows."""
        return policy_rate(self.settings.policy_rates, currency, self.timestamps)[:, None]

    def z(self, x: np.ndarray, window: int) -> np.ndarray:
        """Rolling score over rows of the common axis, from a third of the window on."""
        config = self.settings.features
        return ind.rolling_zscore(x, window, config.domain_minimum(window), config.z_cap)

    @cached_property
    def dollar_score(self) -> np.ndarray:
        return self.z(ind.log_positive(self.dxy), self.names.dxy_window_bars)

    def rate_level(self, rate: np.ndarray) -> np.ndarray:
        return (rate - self.names.rate_centre_pct) / self.names.rate_scale_pct


def macro_block(series: AlignedMacro) -> tuple[np.ndarray, np.ndarray]:
    """The meta-controller's macro columns, float32 (T, P, width), and bool (T, P): from where all are known."""
    columns = [macro_feature[name].compute(series) for name in MACRO.names]
    return finish(columns, series.settings.features.macro_clip)


def finish(
    columns: list[np.ndarray], clip: float, waits: Sequence[bool] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Stack columns (T, P): held over gaps, clipped, zero before all of them are known that `waits` names (all of them
    where it is None), and before they are known themselves. Returns the stack and bool (T, P), from where it is."""
    shape = np.broadcast_shapes(*(column.shape for column in columns))
    complete = np.ones(shape, dtype=bool)
    values = np.empty((*shape, len(columns)), dtype=np.float32)
    for j, column in enumerate(columns):
        if waits is None or waits[j]:
            complete &= ~np.isnan(column)
        values[..., j] = np.clip(ind.hold(column), -clip, clip)
    complete = np.logical_or.accumulate(complete, axis=0)
    values[~complete] = 0
    return values, complete


@macro_feature("macro", "ln(VIX / 19) / .38")
def vix_level(m: AlignedMacro) -> np.ndarray:
    return ind.log_positive(m.vix / m.names.vix_centre) / m.names.vix_log_deviation


@macro_feature("macro", "z252(ln DXY)")
def dxy_level(m: AlignedMacro) -> np.ndarray:
    return m.dollar_score


@macro_feature("macro", "(short rate - 2) / 1.5")
def rate_short_level(m: AlignedMacro) -> np.ndarray:
    return m.rate_level(m.rate_short)


@macro_feature("macro", "(2-year rate - 2) / 1.5")
def rate_2y_level(m: AlignedMacro) -> np.ndarray:
    return m.rate_level(m.rate_2y)


@macro_feature("macro", "(10-year rate - 2) / 1.5")
def rate_10y_level(m: AlignedMacro) -> np.ndarray:
    return m.rate_level(m.rate_10y)
