"""The terms of the allocator's regime-aware reward. A term, its weights in config and its metric share one name.

Every term is a fraction of equity for one bar, added to the net return, whose weight is `regime_return`; the regime is
that of the decision. The terms are small: their sum over a year is small beside the deviation of the returns for every
book, equal weights earn nothing from `diversification`, and `action_change` is at most half of the trade's cost. Tests
check these three.

    s       = sum_i w_i clip(m_i, -2, 2) / 2        m_i = 20-bar move of asset i in deviations
    spread  = (1 - H) / (1 - 1/n)                   H = sum of squared shares of the gross book; 1 at equal weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.config.sections.allocator import RegimeAwareConfig
from mtquant_rllib.features.regimes import Regime

_CALM_VOL_ANN = 0.10
_MOVE_CLIP = 2.0
_COST_SHARE = 0.5
"""Largest part of a trade's cost that `action_change` returns."""


@dataclass(frozen=True)
class BarView:
    """One bar of B environments and n assets; all fields but the first three are as of the decision.

    Attributes
    ----------
    net_return, cost, traded
        Of the bar: net return, costs of trading and absolute notional traded, fractions of equity, (B,).
    weights
        Signed weights held through the bar, (B, n).
    moves
        20-bar return of each asset in units of its deviation, (B, n).
    volatility_ann, index_beta
        Forecast annual volatility of the book, and its beta to the equity index, (B,).
    regime
        The detector's label, `Regime`, (B,).
    """

    net_return: np.ndarray
    cost: np.ndarray
    traded: np.ndarray
    weights: np.ndarray
    moves: np.ndarray
    volatility_ann: np.ndarray
    index_beta: np.ndarray
    regime: np.ndarray

    @property
    def trend(self) -> np.ndarray:
        """s of the module's docstring, (B,), in [-gross, gross]."""
        return np.einsum("bi,bi->b", self.weights, np.clip(self.moves, -_MOVE_CLIP, _MOVE_CLIP)) / _MOVE_CLIP

    @property
    def spread(self) -> np.ndarray:
        """(B,) in [0, 1]: 1 at equal weights, 0 in one asset and in none."""
        size = np.abs(self.weights)
        gross = size.sum(axis=1, keepdims=True)
        shares = size / np.where(gross > 0, gross, 1.0)
        concentration = np.where(gross[:, 0] > 0, np.einsum("bi,bi->b", shares, shares), 1.0)
        return (1.0 - concentration) / (1.0 - 1.0 / self.weights.shape[1])


def regime_return(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """The net return, weighted by regime; gains and losses alike."""
    return weight * bar.net_return


def bull_momentum(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """Rewards holding assets that have risen."""
    return weight * np.tanh(5.0 * bar.trend)


def bear_defence(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """Rewards a low beta to the equity index: 0 at a beta of 1."""
    return weight * np.tanh(3.0 * (1.0 - bar.index_beta))


def volatile_diversification(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """Rewards an even spread of weights over assets."""
    return weight * bar.spread


def momentum(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """Rewards following trends, more in the bull and bear regimes."""
    trends = (bar.regime == Regime.BULL) | (bar.regime == Regime.BEAR)
    return weight * np.tanh(np.where(trends, 3.0, 2.0) * bar.trend)


def volatility(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """Penalises the book's volatility from a calm one on, up to three times it."""
    return -weight * np.clip(bar.volatility_ann / _CALM_VOL_ANN - 1.0, 0.0, 2.0)


def diversification(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """Penalises concentration: 0 at equal weights, the whole weight in a single asset."""
    return weight * (bar.spread - 1.0)


def action_change(bar: BarView, weight: np.ndarray) -> np.ndarray:
    """Rewards rebalancing, by at most half its cost, so that churn cannot pay."""
    return np.minimum(weight * np.tanh(10.0 * bar.traded), _COST_SHARE * bar.cost)


Term = Callable[[BarView, np.ndarray], np.ndarray]

TERMS: dict[str, Term] = {
    term.__name__: term
    for term in (
        regime_return,
        bull_momentum,
        bear_defence,
        volatile_diversification,
        momentum,
        volatility,
        diversification,
        action_change,
    )
}
SHAPING = tuple(name for name in TERMS if name != regime_return.__name__)
"""All terms but the return."""


class RegimeAwareReward:
    """All terms of a bar by name, fractions of equity, (B,) each; their sum is the reward."""

    def __init__(self, config: RegimeAwareConfig) -> None:
        tree: dict[str, Any] = config.model_dump()
        self._weights = {name: np.array([tree[name][regime.name.lower()] for regime in Regime]) for name in TERMS}

    def __call__(self, bar: BarView) -> dict[str, np.ndarray]:
        return {name: term(bar, self._weights[name][bar.regime]) for name, term in TERMS.items()}
