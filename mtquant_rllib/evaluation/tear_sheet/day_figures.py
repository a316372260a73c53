"""Figures of a book's daily returns that a tear sheet has: tails, drawdowns, streaks, and its relation to a benchmark.

Days are calendar days of the timestamps; returns are net and simple. The formulas are the textbook ones, and
quantstats, where it is installed, gives the same (tests).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.evaluation.measures import sharpe


@dataclass(frozen=True)
class DrawdownSpell:
    """A stretch below the highest wealth so far. depth: its largest loss, in (0, 1]; start, valley, end: positions of
    the first day below, the lowest, and the day on which the high is reached again, None where it has not been."""

    depth: float
    start: int
    valley: int
    end: int | None

    def days(self, total: int) -> int:
        """From the first day below the high to the recovery, or to the end of the record."""
        return (total if self.end is None else self.end) - self.start


def drawdown_spells(returns: np.ndarray, most: int) -> list[DrawdownSpell]:
    """The deepest drawdowns of daily returns (T,), the deepest first."""
    curve = np.concatenate(([1.0], np.cumprod(1 + returns)))
    loss = (1 - curve / np.maximum.accumulate(curve))[1:]
    below = np.concatenate(([False], loss > 1e-12, [False]))
    starts, ends = np.flatnonzero(~below[:-1] & below[1:]), np.flatnonzero(below[:-1] & ~below[1:])
    spells = [
        DrawdownSpell(
            depth=float(loss[start:end].max()),
            start=int(start),
            valley=int(start + loss[start:end].argmax()),
            end=int(end) if end < len(returns) else None,
        )
        for start, end in zip(starts, ends)
    ]
    return sorted(spells, key=lambda spell: -spell.depth)[:most]


def figures_of_days(returns: np.ndarray, days_per_year: float, tail: float = 0.05) -> Mapping[str, float]:
    """Figures of daily returns (T,), by name; NaN where undefined.

    tail
        Share of the worst days in value at risk and expected shortfall, and of either end in the tail ratio.
    """
    nan = float("nan")
    n = len(returns)
    if n < 2 or np.ptp(returns) == 0:
        return {}
    mean, deviation = float(returns.mean()), float(returns.std(ddof=1))
    z = (returns - mean) / returns.std()
    curve = np.concatenate(([1.0], np.cumprod(1 + returns)))
    loss = 1 - curve / np.maximum.accumulate(curve)
    years = n / days_per_year
    growth = float(curve[-1] ** (1 / years) - 1) if curve[-1] > 0 else -1.0
    deepest = float(loss.max())
    gains, losses = returns[returns > 0], returns[returns < 0]
    low, high = np.quantile(returns, [tail, 1 - tail])
    worst = returns[returns <= low]
    spells = drawdown_spells(returns, n)
    traded = len(gains) + len(losses)
    return {
        "total return": float(curve[-1] - 1),
        "return a year (CAGR)": growth,
        "volatility a year": deviation * np.sqrt(days_per_year),
        "Sharpe": float(sharpe(returns, days_per_year)),
        "Sortino": _over(mean, float(np.sqrt(np.mean(np.minimum(returns, 0) ** 2)))) * np.sqrt(days_per_year),
        "Calmar": _over(growth, deepest),
        "Omega": _over(float(gains.sum()), float(-losses.sum())),
        "maximum drawdown": deepest,
        "longest drawdown, days": float(max((spell.days(n) for spell in spells), default=0)),
        "average drawdown": float(np.mean([spell.depth for spell in spells])) if spells else 0.0,
        "ulcer index": float(np.sqrt(np.mean(loss[1:] ** 2))),
        "skewness": float(np.mean(z**3)),
        "excess kurtosis": float(np.mean(z**4) - 3),
        "value at risk of a day": -float(low),
        "expected shortfall of a day": -float(worst.mean()) if len(worst) else nan,
        "tail ratio": _over(float(high), -float(low)),
        "best day": float(returns.max()),
        "worst day": float(returns.min()),
        "winning days": _over(float(len(gains)), float(traded)),
        "payoff ratio": _over(
            float(gains.mean()) if len(gains) else nan, -float(losses.mean()) if len(losses) else nan
        ),
        "profit factor": _over(float(gains.sum()), float(-losses.sum())),
        "longest losing streak, days": float(_longest(returns < 0)),
        "gain to pain": _over(float(returns.sum()), float(-losses.sum())),
    }


def figures_beside(returns: np.ndarray, benchmark: np.ndarray, days_per_year: float) -> Mapping[str, float]:
    """A book's daily returns (T,) beside a benchmark's: beta, annual alpha, correlation, tracking error, information
    ratio, and the share of its up and down days' return that the book had."""
    if len(returns) < 3 or np.ptp(benchmark) == 0 or np.ptp(returns) == 0:
        return {}
    covariance = np.cov(returns, benchmark)
    beta = float(covariance[0, 1] / covariance[1, 1])
    gap = returns - benchmark
    spread = float(gap.std(ddof=1))
    up, down = benchmark > 0, benchmark < 0
    return {
        "beta": beta,
        "alpha a year": float((returns.mean() - beta * benchmark.mean()) * days_per_year),
        "correlation": float(np.corrcoef(returns, benchmark)[0, 1]),
        "tracking error a year": spread * float(np.sqrt(days_per_year)),
        "information ratio": _over(float(gap.mean()), spread) * float(np.sqrt(days_per_year)),
        "up capture": _over(float(returns[up].mean()), float(benchmark[up].mean())) if up.any() else float("nan"),
        "down capture": _over(float(returns[down].mean()), float(benchmark[down].mean()))
        if down.any()
        else float("nan"),
    }


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 or denominator < 0 else float("nan")


def _longest(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(int)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
