"""Covariances of daily returns that the desk's risk is measured with: the estimators that
`features.moments.covariance` names.

Each takes the daily returns of k days in m histories and says, at the end of each day, what it expects of the next. All
are second moments about zero: over a day the mean is small beside the deviation, and its estimate is mostly noise. No
value uses a later day.

- `ewma`: weights that fall by `covariance_decay` a day (RiskMetrics Technical Document, 1996).
- `sample`: equal weights over `covariance_window_days`.
- `ledoit_wolf`: the same, shrunk towards equal variances without correlation by the share that minimises the expected
  squared error (Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004).
- `regime_switching`: one covariance for each regime of `features.regimes`, weighted by the probability that the next
  day is of that regime.
- `garch_constant`, `garch_dcc`: `features.garch`.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.garch import garch_covariance
from mtquant_rllib.features.regimes import Regime, detect


def covariance_of_days(settings: Settings, returns: np.ndarray) -> np.ndarray:
    """The configured estimate at the end of each day.

    Parameters
    ----------
    returns
        Daily simple returns (k, m, n): NaN on the first day, which has no day before it.

    Returns
    -------
    ndarray of shape (k, m, n(n+1)/2), upper triangles with diagonal; NaN before `covariance_min_days` returns.

    Raises
    ------
    ConfigError
        When the estimator needs a library that is not installed.
    """
    config = settings.features.moments
    rows, columns = np.triu_indices(returns.shape[-1])
    products = returns[..., rows] * returns[..., columns]
    match config.covariance:
        case "sample":
            return ind.rolling_mean(products, config.covariance_window_days, config.covariance_min_days)
        case "ledoit_wolf":
            return ledoit_wolf(products, config.covariance_window_days, config.covariance_min_days)
        case "regime_switching":
            labels = regime_labels(settings, returns)
            return regime_switching(products, labels, config.regime_window_days, config.covariance_min_days)
    ewma = ind.ewma_decay(products, config.covariance_decay, config.covariance_min_days)
    if config.covariance == "ewma":
        return ewma
    return garch_covariance(returns, ewma, config)


def ledoit_wolf(products: np.ndarray, window: int, minimum: int) -> np.ndarray:
    """Second moments over a window, shrunk towards the mean variance times the identity.

        (1 - s) S + s m I,   m = tr S / n,   s = min(b, d) / d,   d = |S - m I|^2,   b = sum_t |x_t x_t' - S|^2 / T^2

    with the squared Frobenius norm; s is 0 where S is m I already.

    products: x_i x_j of each day, packed, (k, m, n(n+1)/2), NaN where there is none; of the same shape comes back, NaN
    before `minimum` days.
    """
    n = _instruments(products)
    rows, columns = np.triu_indices(n)
    diagonal = rows == columns
    twice = np.where(diagonal, 1.0, 2.0)
    moment = ind.rolling_mean(products, window, minimum)
    size = products[..., diagonal].sum(axis=-1, keepdims=True)
    fourth = ind.rolling_mean(size * size, window, minimum)
    days = ind.rolling_count(size, window)
    mean_variance = moment[..., diagonal].mean(axis=-1, keepdims=True)
    squared = (moment * moment * twice).sum(axis=-1, keepdims=True)
    distance = np.maximum(squared - n * mean_variance**2, 0.0)
    noise = np.maximum((fourth - squared) / np.maximum(days, 1.0), 0.0)
    share = ind.ratio(np.minimum(noise, distance), distance)
    return np.asarray((1 - share) * moment + share * mean_variance * diagonal)


def regime_labels(settings: Settings, returns: np.ndarray) -> np.ndarray:
    """Label of each day, int8 (k, m), by the equal-weight return of these instruments up to its end; sideways on the
    first day."""
    labels = np.full(returns.shape[:2], Regime.SIDEWAYS, dtype=np.int8)
    labels[1:], _ = detect(returns[1:].mean(axis=-1), settings.features.regimes)
    return labels


def regime_switching(products: np.ndarray, labels: np.ndarray, window: int, minimum: int) -> np.ndarray:
    """Second moments of each regime's days, weighted by the probability that the next day is of the regime.

        sum_g P(next is g | label now) S_g,   S_g = (sum over days of g of x x' + minimum S) / (days of g + minimum)

    S is the mean over all days of the window: a regime that was rarely seen is near it. P counts how often each label
    was followed by each in the window, starting from a quarter of a day for each of the four. The labels are a Markov
    chain that is observed, so no probability has to be filtered.

    products: x_i x_j of each day, packed, (k, m, n(n+1)/2), NaN on the first; labels: int (k, m). NaN before `minimum`
    days.
    """
    there = ~np.isnan(products[..., :1])
    known = np.where(there, products, 0.0)
    overall = ind.rolling_mean(products, window, minimum)
    is_regime = [(labels == regime)[..., None] & there for regime in Regime]
    forecast, total = np.zeros(products.shape), np.zeros(there.shape)
    for regime in Regime:
        # Days on which the label now, whichever it is on each row, was followed by this regime.
        followed = [np.zeros(there.shape, dtype=bool) for _ in Regime]
        for before in Regime:
            followed[before][1:] = is_regime[before][:-1] & is_regime[regime][1:]
        counts = [ind.window_sum(one.astype(np.float64), window) for one in followed]
        weight = np.select(is_regime, counts, 0.0) + 1.0 / len(Regime)
        days = ind.window_sum(is_regime[regime].astype(np.float64), window)
        own = ind.window_sum(known * is_regime[regime], window)
        forecast += weight * (own + minimum * overall) / (days + minimum)
        total += weight
    return forecast / total


def _instruments(products: np.ndarray) -> int:
    """n of packed triangles (..., n(n+1)/2)."""
    return int((np.sqrt(8 * products.shape[-1] + 1) - 1) / 2)
