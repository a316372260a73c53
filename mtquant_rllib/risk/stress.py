"""What a book loses in market moves of the past, and in moves without precedent: windows, shocks, correlations to
one, and the smallest shock that does a given harm.

Books are signed weights (n,), fractions of equity; a loss is a positive fraction of equity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mtquant_rllib.risk.var import normal_quantile
from mtquant_rllib.universe import Universe


@dataclass(frozen=True)
class ReverseStress:
    """The most likely of all shocks that lose `loss`: returns of each instrument, (n,), how many deviations of the
    book's own day it is, and how likely a day at least so bad is for a normal book. None of it exists for a book
    without risk: deviations are infinite."""

    loss: float
    returns: np.ndarray
    deviations: float
    probability: float


def window_losses(weights: np.ndarray, returns: np.ndarray) -> tuple[float, float, int]:
    """What the book, held at these weights day by day, would have gone through in a window of daily returns (T, n):
    its whole loss, its worst day's, and the position of that day."""
    days = returns @ weights
    worst = int(days.argmin())
    return float(1 - np.prod(1 + days)), float(-days[worst]), worst


def shocked(universe: Universe, shock: Mapping[str, float]) -> np.ndarray:
    """Returns (n,) of a shock by symbol or domain; a symbol's own goes before its domain's, and what it does not name
    stays.

    Raises
    ------
    ValueError
        When it names neither an instrument nor a domain.
    """
    found = np.zeros(universe.n_instruments)
    known = {domain.name: np.array(universe.domain_of) == number for number, domain in enumerate(universe.domains)}
    for name, value in shock.items():
        if name in known:
            found[known[name]] = value
        elif name not in universe.symbols:
            raise ValueError(f"a shock of {name}: no such instrument or domain")
    for name, value in shock.items():
        if name in universe.symbols:
            found[universe.symbols.index(name)] = value
    return found


def correlated_var(weights: np.ndarray, covariance: np.ndarray, confidence: float) -> float:
    """VaR of a day on which all correlations are one against the book: every position loses together."""
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    return float(normal_quantile(confidence) * np.abs(weights) @ deviation)


def reverse_stress(weights: np.ndarray, covariance: np.ndarray, loss: float) -> ReverseStress:
    """The shock of smallest Mahalanobis distance that loses `loss`: x = -loss Sw / (w'Sw), at loss / sigma deviations.

    (The minimum of x'S^-1 x under w'x = -loss; Breuer, Jandacka, Rheinberger and Summer 2009 ask the same question the
    other way round.)
    """
    pull = covariance @ weights
    variance = float(weights @ pull)
    if variance <= 0:
        return ReverseStress(loss, np.zeros_like(weights), float("inf"), 0.0)
    deviations = loss / np.sqrt(variance)
    return ReverseStress(loss, -loss * pull / variance, float(deviations), NormalDist().cdf(-float(deviations)))
