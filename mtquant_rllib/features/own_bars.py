"""An instrument's own bars and the quantities that its features share.

`OwnBars` are only those bars that the instrument has. Features are computed on these rows and then spread over the
common time axis, where a bar the instrument lacks repeats the last value: a holiday of one market disturbs no window.

Notation of the formulas, here and in the registry:

    O H L C       open, high, low, close               r    simple return C / |C_-1| - sign, clipped
    s             root of the EWMA (span 60) of r^2; lagged one bar when it divides
    cum           cumulative sum of r, which a negative price cannot break
    TR, A         true range; its Wilder average of 14 bars (ATR)
    a             log volume, or log of TR / |C_-1| for a series without volume
    z_n           rolling z-score over n bars, capped
    va            exp(z60(a)): volume as a multiple of its recent level
    clv           (2C - H - L) / (H - L): -1 close at the low, +1 at the high

Rows are time, columns are the same instrument in several histories with equal masks; everything is (k, m).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from mtquant_rllib.config.sections.features import FeaturesConfig
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME
from mtquant_rllib.market.calendar import without_holes

ATR_PERIOD = 14
# Differences of prices below this share of them are rounding.
_ROUNDING = 1e-12
_WEEK = np.timedelta64(7, "D")
_WEEKS_PER_YEAR = 365.25 / 7


class OwnBars:
    """Own bars of one instrument.

    Parameters
    ----------
    timestamps, days
        datetime64 and the id of the trading day, both (k,), of the own bars.
    bars
        float64 of shape (k, m, 5), no NaN but in the volume.
    volume_proxy
        The true range stands in for the volume, for the whole series.
    """

    def __init__(
        self, timestamps: np.ndarray, days: np.ndarray, bars: np.ndarray, volume_proxy: bool, config: FeaturesConfig
    ) -> None:
        self.timestamps = timestamps
        self.days = days
        self.config = config
        self.volume_proxy = volume_proxy
        self.open, self.high, self.low, self.close, self._volume = (
            np.ascontiguousarray(bars[:, :, channel]) for channel in (OPEN, HIGH, LOW, CLOSE, VOLUME)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Bars and histories, (k, m)."""
        return self.close.shape

    # Returns and scales

    @cached_property
    def previous(self) -> np.ndarray:
        return ind.lag(self.close)

    @cached_property
    def r(self) -> np.ndarray:
        """Simple return of each bar, clipped; NaN on the first."""
        clip = self.config.return_clip
        return np.clip(ind.ratio(self.close - self.previous, np.abs(self.previous)), -clip, clip)

    @cached_property
    def cum(self) -> np.ndarray:
        """Cumulative sum of returns; 0 on the first bar."""
        return np.cumsum(np.nan_to_num(self.r), axis=0)

    @cached_property
    def s(self) -> np.ndarray:
        """EWMA deviation of one bar's return, including this bar."""
        span = self.config.volatility_span_bars
        return np.sqrt(ind.ewma(self.r**2, span, self.config.block_minimum(span)))

    @cached_property
    def s_lag(self) -> np.ndarray:
        return ind.lag(self.s)

    def move(self, bars: int) -> np.ndarray:
        """Return over so many bars in units of its deviation: change of cum / (s sqrt bars)."""
        return ind.ratio(ind.change(self.cum, bars), self.s_lag * np.sqrt(bars))

    def move_between(self, recent: int, distant: int) -> np.ndarray:
        """Return from `distant` to `recent` bars ago in units of its deviation."""
        span = distant - recent
        return ind.ratio(ind.lag(self.cum, recent) - ind.lag(self.cum, distant), self.s_lag * np.sqrt(span))

    # Ranges

    @cached_property
    def true_range(self) -> np.ndarray:
        """Wilder's true range; NaN on the first bar, which has no previous close."""
        return np.maximum(self.high, self.previous) - np.minimum(self.low, self.previous)

    @cached_property
    def atr(self) -> np.ndarray:
        return ind.wilder(self.true_range, ATR_PERIOD, start=1)

    @cached_property
    def span(self) -> np.ndarray:
        return self.high - self.low

    @cached_property
    def close_location(self) -> np.ndarray:
        return ind.ratio(2 * self.close - self.high - self.low, self.span)

    @cached_property
    def typical(self) -> np.ndarray:
        return (self.high + self.low + self.close) / 3

    def sma(self, window: int) -> np.ndarray:
        return ind.rolling_mean(self.close, window, self.config.block_minimum(window))

    def position(self, window: int, minimum: int | None = None) -> np.ndarray:
        """Where the close stands between the lowest low (-1) and the highest high (+1) of the window."""
        minimum = self.config.block_minimum(window) if minimum is None else minimum
        top, bottom = ind.rolling_max(self.high, window, minimum), ind.rolling_min(self.low, window, minimum)
        return ind.ratio(2 * self.close - top - bottom, top - bottom)

    def z(self, x: np.ndarray, window: int) -> np.ndarray:
        return ind.rolling_zscore(x, window, self.config.block_minimum(window), self.config.z_cap)

    # Volume. A bar without volume is left out of the windows, which therefore ask for half of their bars only.

    @cached_property
    def a(self) -> np.ndarray:
        """Log volume; NaN where there is none."""
        if self.volume_proxy:
            return ind.log_positive(ind.ratio(self.true_range, np.abs(self.previous)))
        return ind.log_positive(self._volume)

    def volume_z(self, x: np.ndarray, window: int) -> np.ndarray:
        """Rolling score that keeps its last value where x is missing, 0 before the first."""
        return ind.hold(ind.rolling_zscore(x, window, window // 2, self.config.z_cap))

    @cached_property
    def va(self) -> np.ndarray:
        """Volume as a multiple of its recent level; 1 where nothing is known."""
        return np.exp(self.volume_z(self.a, 60))

    @cached_property
    def signed_va(self) -> np.ndarray:
        return np.sign(np.nan_to_num(self.r)) * self.va

    @cached_property
    def va20(self) -> np.ndarray:
        return ind.rolling_sum(self.va, 20)

    # Directional movement (Wilder 1978)

    @cached_property
    def directional(self) -> np.ndarray:
        """(+DI - -DI) / (+DI + -DI) over 14 bars, in [-1, 1]."""
        up, down = ind.change(self.high), -ind.change(self.low)
        # Equal moves count for neither side; whether they are equal must not hang on the rounding of a price.
        apart = _ROUNDING * (np.abs(self.high) + np.abs(self.low))
        plus = ind.wilder(np.where((up - down > apart) & (up > 0), up, 0.0), ATR_PERIOD, start=1)
        minus = ind.wilder(np.where((down - up > apart) & (down > 0), down, 0.0), ATR_PERIOD, start=1)
        return ind.ratio(plus - minus, plus + minus)

    # Frequency and sizing

    @cached_property
    def bars_per_year(self) -> np.ndarray:
        """Own bars a year, counted over the whole weeks since the first bar, (k, 1); NaN in the first week.

        Whole weeks, so that a few days of intraday bars do not depend on how many weekends they hold; only past bars,
        so that a value does not change when history grows.
        """
        if not len(self.timestamps):
            return np.empty((0, 1))
        timestamps = without_holes(self.timestamps)
        weeks = (timestamps - timestamps[0]) // _WEEK
        since = np.searchsorted(timestamps, timestamps - weeks * _WEEK, side="right")
        bars = np.arange(1, len(timestamps) + 1) - since
        return np.where(weeks > 0, bars * _WEEKS_PER_YEAR / np.maximum(weeks, 1), np.nan)[:, None]

    @cached_property
    def bars_per_day(self) -> np.ndarray:
        """Own bars of a trading day that has any, so far, (k, 1); 1 for daily bars."""
        if not len(self.days):
            return np.empty((0, 1))
        n_days = 1 + np.cumsum(np.concatenate([[0], self.days[1:] != self.days[:-1]]))
        return (np.arange(1, len(self.days) + 1) / n_days)[:, None]

    @cached_property
    def vol_ann(self) -> np.ndarray:
        """Annualised deviation that sizes positions: s, not below half the long deviation nor below a fixed floor."""
        floor = self.config.sizing
        window = floor.floor_window_bars
        deviation = ind.rolling_std(self.r, window, self.config.block_minimum(window))
        per_year = np.sqrt(self.bars_per_year)
        return np.maximum(np.maximum(self.s, floor.floor_share * deviation) * per_year, floor.floor_ann)


class InstrumentBars:
    """The bars of one instrument in several histories on one time axis: one `OwnBars` for each distinct mask.

    Parameters
    ----------
    timestamps, days
        (T,), the latter the trading day's id.
    bars, valid
        (T, P, 5) and bool (T, P).
    volume_proxy
        bool (P,).
    """

    def __init__(
        self,
        timestamps: np.ndarray,
        days: np.ndarray,
        bars: np.ndarray,
        valid: np.ndarray,
        volume_proxy: np.ndarray,
        config: FeaturesConfig,
    ) -> None:
        self.shape = valid.shape
        alike: dict[tuple[bool, bytes], list[int]] = {}
        for path in range(valid.shape[1]):
            alike.setdefault((bool(volume_proxy[path]), valid[:, path].tobytes()), []).append(path)
        self.groups: list[tuple[np.ndarray, np.ndarray, OwnBars]] = []
        for (proxy, _), members in alike.items():
            paths = np.array(members)
            rows = np.flatnonzero(valid[:, paths[0]])
            own_bars = OwnBars(timestamps[rows], days[rows], bars[np.ix_(rows, paths)], proxy, config)
            self.groups.append((paths, rows, own_bars))

    def spread(self, compute: Callable[[OwnBars], np.ndarray]) -> np.ndarray:
        """A quantity of the own bars, (k, m), on the common axis, (T, P); NaN before the first own bar."""
        out = np.full(self.shape, np.nan)
        for paths, rows, own_bars in self.groups:
            out[:, paths] = spread_rows(compute(own_bars), rows, len(out))
        return out


def spread_rows(values: np.ndarray, rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Values (k, ...) known from `rows` (k,) on, repeated until the next, NaN before the first: (n_rows, ...)."""
    if len(rows) == n_rows:
        return values
    source = np.searchsorted(rows, np.arange(n_rows), side="right") - 1
    out = np.full((n_rows, *values.shape[1:]), np.nan, dtype=values.dtype)
    known = source >= 0
    out[known] = values[source[known]]
    return out


def on_common_rows(mask: np.ndarray, compute: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Compute on the rows of a mask only, then repeat until the next such row.

    mask: bool (T, P); arrays: (T, P, ...), of which `compute` gets the rows of the mask, (k, m, ...), for each set of
    columns with equal masks; it returns (k, m, ...). The result is (T, P, ...), NaN before the first row of the mask.
    """
    alike: dict[bytes, list[int]] = {}
    for path in range(mask.shape[1]):
        alike.setdefault(mask[:, path].tobytes(), []).append(path)
    parts = []
    for members in alike.values():
        rows = np.flatnonzero(mask[:, members[0]])
        values = compute(*(array[np.ix_(rows, np.array(members))] for array in arrays))
        parts.append((members, spread_rows(values, rows, len(mask))))
    if len(parts) == 1:
        return parts[0][1]
    first = parts[0][1]
    out = np.empty((len(mask), mask.shape[1], *first.shape[2:]), dtype=first.dtype)
    for members, values in parts:
        out[:, members] = values
    return out
