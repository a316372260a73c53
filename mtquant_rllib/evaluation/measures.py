"""Performance measures: plain functions of simple net returns per bar.

Every function takes `returns` of shape (..., T), reduces the last axis and is vectorised over the leading ones.
Ratios are annualised by `bars_per_year`, the data's own frequency; the risk-free rate is 0, because financing is
already in the net return.

Conventions, the same everywhere
--------------------------------
- A NaN is a bar that was not played (an episode that ended early, a date left out); it is skipped and counts for no
  time.
- Bankruptcy: the first bar that takes wealth to zero or below is counted in full (a return of -1.3 leaves a debt of
  30% of the stake) and ends the sequence; whatever follows is ignored. Total return is then below or at -1, maximum
  drawdown at or above 1, and the annual return is -1: a debt does not compound.
- An undefined ratio is NaN, never 0: a Sharpe without deviation (a flat book), a win rate where nothing was won or
  lost. Sortino, Calmar and profit factor are +inf where there were gains and no loss at all.
- Losses (VaR, CVaR, drawdown) are positive fractions.
"""

from __future__ import annotations

import numpy as np


def living_returns(returns: np.ndarray) -> np.ndarray:
    """Returns (..., T) with NaN after the bar of bankruptcy, which itself is kept."""
    returns = np.asarray(returns, dtype=np.float64)
    growth = 1 + np.nan_to_num(returns)
    dead = np.logical_or.accumulate(growth <= 0, axis=-1)
    dead_before = np.zeros_like(dead)
    dead_before[..., 1:] = dead[..., :-1]
    return np.where(dead_before, np.nan, returns)


def wealth(returns: np.ndarray) -> np.ndarray:
    """Wealth per unit staked, shape (..., T + 1), beginning at 1; constant over NaN bars and after bankruptcy."""
    growth = 1 + np.nan_to_num(living_returns(returns))
    curve = np.ones((*growth.shape[:-1], growth.shape[-1] + 1))
    np.cumprod(growth, axis=-1, out=curve[..., 1:])
    return curve


def drawdown(returns: np.ndarray) -> np.ndarray:
    """Loss since the highest wealth so far, shape (..., T + 1); above 1 where there is a debt."""
    curve = wealth(returns)
    return 1 - curve / np.maximum.accumulate(curve, axis=-1)


def n_bars(returns: np.ndarray) -> np.ndarray:
    """Bars played, shape (...)."""
    return np.isfinite(living_returns(returns)).sum(axis=-1)


def total_return(returns: np.ndarray) -> np.ndarray:
    return wealth(returns)[..., -1] - 1


def annual_return(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Geometric: what a year returned if every year had returned the same. NaN without bars."""
    final = wealth(returns)[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        compounded = np.power(np.maximum(final, 0), bars_per_year / n_bars(returns).astype(float)) - 1
    return np.where(n_bars(returns) == 0, np.nan, compounded)


def volatility(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Annualised sample deviation (one degree of freedom given up). NaN with fewer than two bars."""
    return _deviation(living_returns(returns)) * np.sqrt(bars_per_year)


def sharpe(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Annualised mean over deviation of net returns. NaN where the deviation is zero."""
    return _sharpe_per_bar(living_returns(returns)) * np.sqrt(bars_per_year)


def sharpe_variance(sharpe: np.ndarray, skewness: np.ndarray, kurtosis: np.ndarray) -> np.ndarray:
    """Variance of a Sharpe ratio a bar, times the number of bars, for independent returns of these moments (Mertens
    2002): 1 - g3 s + (g4 - 1)/4 s^2. Kurtosis is 3 for a normal."""
    return 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2


def sharpe_standard_error(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Standard error of `sharpe` for independent returns that need not be normal: sqrt(sharpe_variance / T),
    annualised. `statistics.sharpe_tests` has the one of returns that depend on each other.

    For normal returns it is Lo's (2002) sqrt((1 + s^2/2) / T); for a small s about 1/sqrt(years):
    six years cannot tell a Sharpe of 0.4 from none.
    """
    return _standard_error(living_returns(returns), bars_per_year)


def pooled_sharpe_standard_error(returns: np.ndarray, bars_per_year: float) -> float:
    """`sharpe_standard_error` of all bars of all paths (P, T) taken together."""
    living = living_returns(returns)
    return float(_standard_error(living[np.isfinite(living)], bars_per_year))


def _standard_error(living: np.ndarray, bars_per_year: float) -> np.ndarray:
    count = np.isfinite(living).sum(axis=-1)
    centred = living - _mean(living)[..., None]
    variance = _mean(centred**2)
    skewness = _ratio(_mean(centred**3), variance**1.5)
    kurtosis = _ratio(_mean(centred**4), variance**2)
    spread = sharpe_variance(_sharpe_per_bar(living), skewness, kurtosis)
    return np.sqrt(_ratio(np.maximum(spread, 0), count.astype(float)) * bars_per_year)


def sortino(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Annualised mean over downside deviation: the root mean square of min(r, 0) over *all* bars."""
    living = living_returns(returns)
    downside = np.sqrt(_mean(np.minimum(living, 0) ** 2))
    return _ratio(_mean(living), downside) * np.sqrt(bars_per_year)


def max_drawdown(returns: np.ndarray) -> np.ndarray:
    return drawdown(returns).max(axis=-1)


def calmar(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Annual return over maximum drawdown."""
    return _ratio(annual_return(returns, bars_per_year), max_drawdown(returns))


def value_at_risk(returns: np.ndarray, confidence: float) -> np.ndarray:
    """Historical one-bar VaR: minus the linearly interpolated (1 - confidence) quantile of returns.

    0.02 at 0.95 means that about one bar in twenty lost more than 2% of equity. Negative where even that bar gained.
    """
    return -_quantile(living_returns(returns), 1 - confidence)


def conditional_value_at_risk(returns: np.ndarray, confidence: float) -> np.ndarray:
    """Mean loss of the bars at least as bad as `value_at_risk`, also called expected shortfall."""
    living = living_returns(returns)
    threshold = _quantile(living, 1 - confidence)[..., None]
    return -_mean(np.where(living <= threshold, living, np.nan))


def win_rate(returns: np.ndarray) -> np.ndarray:
    """Share of winning bars among the bars that won or lost."""
    living = living_returns(returns)
    wins, losses = (living > 0).sum(axis=-1), (living < 0).sum(axis=-1)
    return _ratio(wins.astype(float), (wins + losses).astype(float))


def profit_factor(returns: np.ndarray) -> np.ndarray:
    """Sum of the winning returns over the sum of the losing ones."""
    living = np.nan_to_num(living_returns(returns))
    return _ratio(np.maximum(living, 0).sum(axis=-1), np.maximum(-living, 0).sum(axis=-1))


def turnover(traded: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Notional traded a year as a multiple of equity, buys and sells both counted.

    traded
        Absolute notional traded in each bar as a fraction of equity, shape (..., T); NaN where no bar was played.
    """
    return _mean(np.asarray(traded, dtype=np.float64)) * bars_per_year


def exposure(gross: np.ndarray) -> np.ndarray:
    """Mean gross notional as a multiple of equity. `gross` has shape (..., T)."""
    return _mean(np.asarray(gross, dtype=np.float64))


def cost_share(gross_profit: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Share of the price profit that costs ate, both in account currency; 1.2: the book won, and paid more than it won.

    NaN where there was no profit before costs.
    """
    profit = np.asarray(gross_profit, dtype=np.float64)
    return _ratio(np.asarray(costs, dtype=np.float64), np.where(profit > 0, profit, np.nan))


def measure_returns(returns: np.ndarray, bars_per_year: float, confidence: float) -> dict[str, np.ndarray]:
    """All measures that need nothing but returns (..., T), each of shape (...)."""
    return {
        "total_return": total_return(returns),
        "annual_return": annual_return(returns, bars_per_year),
        "volatility_ann": volatility(returns, bars_per_year),
        "sharpe_ann": sharpe(returns, bars_per_year),
        "sharpe_standard_error": sharpe_standard_error(returns, bars_per_year),
        "sortino_ann": sortino(returns, bars_per_year),
        "calmar": calmar(returns, bars_per_year),
        "max_drawdown_frac": max_drawdown(returns),
        "var_frac": value_at_risk(returns, confidence),
        "cvar_frac": conditional_value_at_risk(returns, confidence),
        "win_rate": win_rate(returns),
        "profit_factor": profit_factor(returns),
    }


_ROUNDING = 1e-12
"""A deviation below this share of the largest return is rounding of equal returns, hence zero."""


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over finite entries of the last axis; NaN where there are none."""
    finite = np.isfinite(values)
    return _ratio(np.where(finite, values, 0.0).sum(axis=-1), finite.sum(axis=-1).astype(float))


def _deviation(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    count = finite.sum(axis=-1).astype(float)
    centred = np.where(finite, values - _mean(values)[..., None], 0.0)
    deviation = np.sqrt(_ratio((centred**2).sum(axis=-1), np.where(count > 1, count - 1, np.nan)))
    largest = np.abs(np.where(finite, values, 0.0)).max(axis=-1, initial=0.0)
    return np.where(deviation <= _ROUNDING * largest, 0.0, deviation)


def _sharpe_per_bar(values: np.ndarray) -> np.ndarray:
    deviation = _deviation(values)
    return _ratio(_mean(values), np.where(deviation > 0, deviation, np.nan))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient; +inf where gains meet nothing to divide by, NaN where nothing or a loss does."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = np.asarray(numerator, dtype=np.float64) / denominator
    return np.where(quotient == -np.inf, np.nan, quotient)


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    """Linearly interpolated quantile over the finite entries of the last axis (`np.nanquantile`, without its loop)."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    ordered = np.sort(values, axis=-1)  # NaN goes last
    count = np.isfinite(values).sum(axis=-1)
    position = q * np.maximum(count - 1, 0)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    at_low = np.take_along_axis(ordered, low[..., None], axis=-1)[..., 0]
    at_high = np.take_along_axis(ordered, high[..., None], axis=-1)[..., 0]
    return at_low + (at_high - at_low) * (position - low)
