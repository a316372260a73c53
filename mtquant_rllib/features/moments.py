"""Second moments that risk and sizing read: covariance a day, correlation, its recent shift, and the regime proxy.

They are taken over rows on which every instrument has a bar. The return between two such rows is the change of the
cumulative return, so that a move on a day when only some markets traded is not lost but booked to the next common row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.covariance import covariance_of_days
from mtquant_rllib.features.own_bars import on_common_rows
from mtquant_rllib.features.regimes import detect
from mtquant_rllib.market.calendar import trading_day


@dataclass(frozen=True)
class Days:
    """Trading days of the time axis: `last` row of each and the row from which it is `known`, both (J,).

    A daily bar is known on its own row, a day of shorter bars on the first row of the next; the last, possibly
    unfinished day of shorter bars is left out.
    """

    first: np.ndarray
    last: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, timestamps: np.ndarray, daily: bool) -> Days:
        if daily:
            rows = np.arange(len(timestamps))
            return cls(rows, rows, rows)
        day = trading_day(timestamps, daily)
        starts = np.concatenate([[0], np.flatnonzero(day[1:] != day[:-1]) + 1])
        return cls(starts[:-1], starts[1:] - 1, starts[1:])

    def traded(self, valid: np.ndarray) -> np.ndarray:
        """bool (J, ...): there was at least one bar in the day; valid (T, ...)."""
        if len(self.first) == len(valid):
            return valid
        if not len(self.first):
            return valid[:0]
        return np.logical_or.reduceat(valid[: self.last[-1] + 1], self.first, axis=0)

    def on_rows(self, values: np.ndarray, n_rows: int) -> np.ndarray:
        """Values of days (J, ...) on the rows from which they are known, (n_rows, ...); NaN before the first."""
        if len(values) == n_rows:
            return values
        out = np.full((n_rows, *values.shape[1:]), np.nan)
        source = np.searchsorted(self.known, np.arange(n_rows), side="right") - 1
        out[source >= 0] = values[source[source >= 0]]
        return out


def daily_covariance(settings: Settings, days: Days, cum: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Second moments of daily returns about zero by the configured estimator, (T, P, n(n+1)/2): triangle with diagonal.

    cum, valid: (T, P, n) cumulative returns (repeated where masked) and masks.
    """

    def compute(levels: np.ndarray) -> np.ndarray:
        return covariance_of_days(settings, ind.change(levels))

    common = np.all(days.traded(valid), axis=-1)
    return days.on_rows(on_common_rows(common, compute, cum[days.last]), len(cum))


def bar_correlation(settings: Settings, cum: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of bar returns and how far its mean has moved lately.

    Returns
    -------
    correlation
        (T, P, n(n-1)/2): Pearson, over the long window, upper triangle row by row; NaN until the window is full.
    shift
        (T, P): |mean pairwise correlation of the short window - of the long one|.
    """
    long, short = settings.portfolio_risk.correlation_window, settings.features.moments.correlation_short_bars
    n = cum.shape[-1]

    def compute(levels: np.ndarray) -> np.ndarray:
        r = ind.change(levels)
        slow, fast = (_pairwise_correlation(r, window) for window in (long, short))
        shift = np.abs(fast.mean(axis=-1) - slow.mean(axis=-1))
        return np.concatenate([slow, shift[..., None]], axis=-1)

    if n < 2:
        return np.zeros((*cum.shape[:2], 0)), np.zeros(cum.shape[:2])
    both = on_common_rows(np.all(valid, axis=-1), compute, cum)
    return both[..., :-1], both[..., -1]


def spread_pairs(values: np.ndarray, members: np.ndarray, n: int, *, diagonal: bool) -> np.ndarray:
    """Triangles of some of n instruments (..., pairs) in the layout of all of them; 0 for pairs with others."""
    offset = 0 if diagonal else 1
    position = np.zeros((n, n), dtype=np.int64)
    position[np.triu_indices(n, offset)] = np.arange(len(np.triu_indices(n, offset)[0]))
    first, second = np.triu_indices(len(members), offset)
    out = np.zeros((*values.shape[:-1], len(np.triu_indices(n, offset)[0])))
    out[..., position[members[first], members[second]]] = values
    return out


def _pairwise_correlation(r: np.ndarray, window: int) -> np.ndarray:
    """(k, m, n) -> (k, m, n(n-1)/2)."""
    rows, columns = np.triu_indices(r.shape[-1], 1)
    mean = ind.rolling_mean(r, window)
    deviation = np.sqrt(np.maximum(ind.rolling_mean(r * r, window) - mean * mean, 0.0))
    cross = ind.rolling_mean(r[..., rows] * r[..., columns], window) - mean[..., rows] * mean[..., columns]
    return np.clip(ind.ratio(cross, deviation[..., rows] * deviation[..., columns]), -1.0, 1.0)


def regimes(
    settings: Settings, days: Days, cum: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regime labels, their confidence and the equal-weight daily return they are read from, each (T, P); NaN early."""
    window = settings.features.regimes.window_bars

    def compute(levels: np.ndarray) -> np.ndarray:
        out = np.full((*levels.shape[:2], 3), np.nan)
        proxy = np.diff(levels, axis=0).mean(axis=-1)
        labels, confidence = detect(proxy, settings.features.regimes)
        out[1:, :, 2] = proxy
        out[window:, :, 0] = labels[window - 1 :]
        out[window:, :, 1] = confidence[window - 1 :]
        return out

    common = np.all(days.traded(valid), axis=-1)
    label, confidence, proxy = np.moveaxis(
        days.on_rows(on_common_rows(common, compute, cum[days.last]), len(cum)), -1, 0
    )
    return label, confidence, proxy
