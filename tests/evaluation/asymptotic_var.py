"""The published backtests of a VaR forecast with their asymptotic p-values, by which the simulated ones are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from mtquant_rllib.evaluation.measures import living_returns


@dataclass(frozen=True)
class BacktestResult:
    """A likelihood-ratio test: under the null `statistic` is chi-squared with `degrees` degrees of freedom."""

    statistic: float
    p_value: float
    degrees: int


@dataclass(frozen=True)
class VarBacktest:
    """How often, and how clustered, losses went beyond the VaR forecast. n_bars: those judged; trading days where the
    forecast is a day's."""

    n_bars: int
    n_breaches: int
    expected_rate: float
    coverage: BacktestResult
    independence: BacktestResult
    conditional_coverage: BacktestResult

    @property
    def breach_rate(self) -> float:
        return self.n_breaches / self.n_bars if self.n_bars else float("nan")


def kupiec(n_breaches: int, n_bars: int, expected_rate: float) -> BacktestResult:
    """Unconditional coverage (Kupiec 1995): is the rate of breaches the promised one?

    LR = 2 [ln L(x/n) - ln L(p)] with ln L(q) = x ln q + (n - x) ln(1 - q), chi-squared with 1 degree of freedom.
    """
    if n_bars == 0:
        return BacktestResult(np.nan, np.nan, 1)
    observed = n_breaches / n_bars
    statistic = 2 * (_log_likelihood(n_breaches, n_bars, observed) - _log_likelihood(n_breaches, n_bars, expected_rate))
    return _chi_squared(statistic, 1)


def christoffersen(breached: np.ndarray) -> BacktestResult:
    """Independence (Christoffersen 1998): is a breach as likely after a breach as after a quiet bar?

    breached
        Zeros and ones of shape (T,) or (B, T), NaN where there is no forecast; transitions across NaN or from one row
        to the next are not counted. Without breaches nothing can cluster: statistic 0.
    """
    rows = np.atleast_2d(np.asarray(breached, dtype=np.float64))
    before, after = rows[:, :-1], rows[:, 1:]
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return BacktestResult(np.nan, np.nan, 1)
    counts = {(i, j): int((known & (before == i) & (after == j)).sum()) for i in (0, 1) for j in (0, 1)}
    quiet, hit = counts[0, 0] + counts[0, 1], counts[1, 0] + counts[1, 1]
    total = counts[0, 1] + counts[1, 1]
    separate = sum(_log_likelihood(counts[i, 1], n, counts[i, 1] / n if n else 0.0) for i, n in ((0, quiet), (1, hit)))
    together = _log_likelihood(total, quiet + hit, total / (quiet + hit))
    return _chi_squared(2 * (separate - together), 1)


def backtest_var(returns: np.ndarray, var_forecast: np.ndarray, confidence: float) -> VarBacktest:
    """Coverage, independence and both together (LR_cc = LR_uc + LR_ind, 2 degrees of freedom).

    Parameters
    ----------
    returns
        Net returns, shape (T,) or (B, T), of as much time as the forecast is for: a one-day VaR needs those of days
        (`trading_days.days_and_forecasts`).
    var_forecast
        VaR for the same bar, made before it, same shape, a positive fraction. Bars with a forecast of zero (a flat
        book) or NaN are left out.
    confidence
        Of the forecast: at 0.95 one bar in twenty is expected to lose more.
    """
    living = living_returns(returns)
    forecast = np.asarray(var_forecast, dtype=np.float64)
    usable = np.isfinite(living) & np.isfinite(forecast) & (forecast > 0)
    breached = np.where(usable, -living > forecast, np.nan)
    n_bars, n_breaches = int(usable.sum()), int(np.nansum(breached))
    coverage = kupiec(n_breaches, n_bars, 1 - confidence)
    independence = christoffersen(breached)
    both = _chi_squared(coverage.statistic + independence.statistic, 2)
    return VarBacktest(n_bars, n_breaches, 1 - confidence, coverage, independence, both)


def _chi_squared(statistic: float, degrees: int) -> BacktestResult:
    statistic = max(float(statistic), 0.0) if np.isfinite(statistic) else float("nan")
    return BacktestResult(statistic, float(stats.chi2.sf(statistic, degrees)), degrees)


def _log_likelihood(hits: int, n: int, rate: float) -> float:
    return float(special.xlogy(hits, rate) + special.xlog1py(n - hits, -rate))
