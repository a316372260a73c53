"""Is a Sharpe ratio more than luck? Its error, the probability that skill is behind it, and how long that takes to see.

All Sharpe ratios here are *per bar*: annualising is for people. What is tested is the ratio s = mean / deviation of
returns r, whose deviation from the true one is asymptotically the mean of

    psi_t = z_t - s/2 (z_t^2 - 1),        z_t = (r_t - mean) / deviation

(delta method; Lo 2002, Mertens 2002, Ledoit and Wolf 2008). Independent returns give var(psi) = 1 - g3 s + (g4 - 1)/4
s^2, with skewness g3 and kurtosis g4 (`measures.sharpe_variance`): the term of Bailey and Lopez de Prado. Returns that
depend on each other need the long-run variance of psi in its place, which sums its autocovariances (Newey and West
1987, bandwidth by Andrews 1991).
"""

from __future__ import annotations

import numpy as np
from scipy import stats

EULER_GAMMA = float(np.euler_gamma)


def sharpe_influence(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """psi of every bar, (..., T), and the Sharpe ratio a bar, (...), of finite returns (..., T).

    NaN where returns do not vary. The deviation is the population's, as in psi's derivation.
    """
    returns = np.asarray(returns, dtype=np.float64)
    if not np.isfinite(returns).all():
        raise ValueError("returns hold NaN or infinity; leave those bars out first")
    mean, deviation = returns.mean(axis=-1, keepdims=True), returns.std(axis=-1, keepdims=True)
    varies = deviation > 1e-12 * np.abs(returns).max(axis=-1, keepdims=True, initial=0.0)
    deviation = np.where(varies, deviation, np.nan)
    z = (returns - mean) / deviation
    sharpe = mean / deviation
    return z - sharpe / 2 * (z**2 - 1), sharpe[..., 0]


def bandwidth(series: np.ndarray) -> np.ndarray:
    """Lags that the long-run variance of (..., T) needs, real (...): 1.1447 (a T)^(1/3), a = 4 rho^2 / (1 - rho^2)^2
    (Andrews 1991, first-order autoregression, Bartlett's kernel). 0 where neighbours are uncorrelated."""
    centred = series - series.mean(axis=-1, keepdims=True)
    variance = (centred**2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = (centred[..., 1:] * centred[..., :-1]).sum(axis=-1) / variance
    rho = np.clip(np.nan_to_num(rho), -0.97, 0.97)
    strength = 4 * rho**2 / (1 - rho**2) ** 2
    n = series.shape[-1]
    return np.asarray(np.minimum(1.1447 * (strength * n) ** (1 / 3), n / 4))


def long_run_variance(series: np.ndarray, lags: np.ndarray | float | None = None) -> np.ndarray:
    """sum_k w_k cov(x_t, x_t+k) of (..., T), Bartlett's weights w_k = 1 - |k| / (lags + 1), (...).

    lags: bandwidth, one for all or one each; None chooses by `bandwidth`, 0 is the plain variance.
    """
    series = np.asarray(series, dtype=np.float64)
    own = np.broadcast_to(bandwidth(series) if lags is None else np.asarray(lags), series.shape[:-1])
    centred, n = series - series.mean(axis=-1, keepdims=True), series.shape[-1]
    total = (centred**2).sum(axis=-1) / n
    for k in range(1, int(np.ceil(own.max(initial=0.0))) + 1):
        weight = np.maximum(1 - k / (own + 1), 0.0)
        total = total + 2 * weight * (centred[..., k:] * centred[..., :-k]).sum(axis=-1) / n
    return np.asarray(total)


def sharpe_error(returns: np.ndarray, lags: np.ndarray | float | None = None) -> np.ndarray:
    """Standard error of the Sharpe ratio a bar, (...), of returns (..., T), corrected for skewness, kurtosis and
    autocorrelation; with lags=0 it is Bailey and Lopez de Prado's sqrt((1 - g3 s + (g4 - 1)/4 s^2) / (T - 1))."""
    psi, _ = sharpe_influence(returns)
    return np.sqrt(long_run_variance(psi, lags) / (psi.shape[-1] - 1))


def probabilistic_sharpe(
    sharpe: np.ndarray | float, benchmark: np.ndarray | float, error: np.ndarray | float
) -> np.ndarray:
    """Probability that the true Sharpe ratio is above `benchmark`: Phi((s - benchmark) / error), all a bar (Bailey and
    Lopez de Prado 2012, "The Sharpe Ratio Efficient Frontier")."""
    return np.asarray(stats.norm.cdf((np.asarray(sharpe) - benchmark) / error))


def expected_best_of(n_trials: float, deviation: np.ndarray | float) -> np.ndarray | float:
    """Expected largest Sharpe ratio of independent trials without any skill, whose ratios deviate by `deviation`:

        deviation * ((1 - g) Z(1 - 1/N) + g Z(1 - 1/(N e))),     g Euler's constant, Z the normal quantile

    (Bailey and Lopez de Prado 2014, "The Deflated Sharpe Ratio"). 0 for one trial, which nobody has chosen.
    """
    if n_trials < 1:
        raise ValueError(f"{n_trials} trials: expected at least one")
    if n_trials == 1:
        return 0.0 * np.asarray(deviation)
    best = (1 - EULER_GAMMA) * stats.norm.ppf(1 - 1 / n_trials) + EULER_GAMMA * stats.norm.ppf(
        1 - 1 / (n_trials * np.e)
    )
    return np.asarray(deviation) * best


def deflated_sharpe(
    returns: np.ndarray, n_trials: float, deviation: float | None = None, lags: float | None = None
) -> float:
    """Probability that the best of `n_trials` has any skill, from its returns (T,).

    deviation
        Of the trials' Sharpe ratios a bar. Without it the error of this one stands in: what trials without skill
        deviate by.
    """
    _, sharpe = sharpe_influence(returns)
    error = sharpe_error(returns, lags)
    benchmark = expected_best_of(n_trials, float(error) if deviation is None else deviation)
    return float(probabilistic_sharpe(sharpe, benchmark, error))


def minimum_track_record(sharpe: float, benchmark: float, variance: float, confidence: float) -> float:
    """Bars after which a Sharpe ratio of this size is above `benchmark` with this confidence; infinite where it is not
    above it.

        1 + variance (Z(confidence) / (s - benchmark))^2

    (Bailey and Lopez de Prado 2012). variance: of psi, that is error^2 (T - 1).
    """
    if not sharpe > benchmark:
        return float("inf")
    return float(1 + variance * (stats.norm.ppf(confidence) / (sharpe - benchmark)) ** 2)
