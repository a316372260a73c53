"""The daily returns that a historical VaR revalues books with, and which of them are known at each row.

They lie day by day, so that the last S of them are one slice. A day counts on which every instrument that has begun has
a bar; the return from one such day to the next is the change of the cumulative return. Once an instrument has a history
of `history_min_days`, days before it began are left out.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.moments import Days


def past_returns(
    settings: Settings, days: Days, cum: np.ndarray, valid: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of `FeatureTable` by name, of all rows and paths, and which instruments have enough days.

    Parameters
    ----------
    cum, valid
        (T, P, n): cumulative returns, repeated where masked, and masks.

    Returns
    -------
    arrays
        `past_returns` float64 (T, P, n): returns in the order of their days, then zeros. `past_days` int32 (T, P, 2):
        first and last (exclusive) of them that are used at a row, within the path. `past_scale` float64 (T, P, n): the
        volatility forecast for the next day, where returns are in units of the one for theirs.
    ready
        bool (T, P, n).
    """
    shape, config = settings.risk.past_returns, settings.risk.var_methods
    assert shape is not None
    filtered = "volatility_decay" in shape
    traded = days.traded(valid)
    arrays = {"past_returns": np.zeros(cum.shape), "past_days": np.zeros((*cum.shape[:2], 2), dtype=np.int32)}
    if filtered:
        arrays["past_scale"] = np.zeros(cum.shape)
    ready = np.zeros(cum.shape, dtype=bool)
    for path in range(cum.shape[1]):
        begun = np.logical_or.accumulate(traded[:, path], axis=0)
        common = np.flatnonzero(begun.any(axis=1) & (traded[:, path] | ~begun).all(axis=1))
        there = begun[common][:-1]
        returns = np.where(there, np.diff(cum[days.last[common], path], axis=0), 0.0)
        first = np.where(there.any(axis=0), there.argmax(axis=0) if len(there) else 0, len(cum))
        known = np.searchsorted(days.known[common[1:]], np.arange(len(cum)), side="right")
        enough = known[:, None] - first >= config.history_min_days
        start = np.where(enough, first, 0).max(axis=1)
        arrays["past_days"][:, path, 0] = np.maximum(start, known - config.history_days)
        arrays["past_days"][:, path, 1] = known
        ready[:, path] = enough
        if filtered:
            volatility = _volatility(returns, there, first, config.history_min_days, config.volatility_decay)
            arrays["past_scale"][:, path] = volatility[known]
            returns = ind.ratio(returns, volatility[:-1])
        arrays["past_returns"][: len(returns), path] = returns
    return arrays, ready


def _volatility(returns: np.ndarray, there: np.ndarray, first: np.ndarray, start_days: int, decay: float) -> np.ndarray:
    """Volatility forecast for each day and the one after the last, (K + 1, n), from the days before it (Hull and White
    1998); the mean square of an instrument's first `start_days` stands in for what came before them."""
    squares = returns * returns
    variance = np.zeros((len(returns) + 1, returns.shape[1]))
    for i, begin in enumerate(first.tolist()):
        if begin < len(returns):
            variance[begin, i] = squares[begin : begin + start_days, i].mean()
    for day, square in enumerate(squares):
        step = decay * variance[day] + (1 - decay) * square
        variance[day + 1] = np.where(there[day], step, variance[day + 1])
    return np.sqrt(variance)
