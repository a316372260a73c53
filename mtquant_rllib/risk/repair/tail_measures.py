"""The VaR that limits a book by methods other than the parametric one, and the expected shortfall beside it.

Each method is a function of the book and of what is known at the close: Monte Carlo has the same draws for every book,
from a seed of the settings. All are positively homogeneous, VaR(x w) = x VaR(w) for x >= 0. So a factor on the whole
book brings any VaR to its limit, as it does with the parametric one; `RuleChain` rests on that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mtquant_rllib.config.sections.risk import RiskConfig, VaRMethodsConfig
from mtquant_rllib.risk import var
from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.rules import RiskInputError

_CHUNK_CELLS = 1_000_000
"""Losses held at a time: 8 MB."""


class TailMeasure(Protocol):
    """One-day VaR and expected shortfall of books (R, n), (R,) each, positive fractions of equity.

    covariance: packed, (R, n(n+1)/2); past: of the same R environments, None where the method does not look at it.
    """

    def var(self, weights: np.ndarray, covariance: np.ndarray, past: PastReturns | None) -> np.ndarray: ...

    def shortfall(self, weights: np.ndarray, covariance: np.ndarray, past: PastReturns | None) -> np.ndarray: ...


def tail_measure(config: RiskConfig, index: PackedIndex, confidence: float) -> TailMeasure | None:
    """The configured method, `risk.var_method`; None for the parametric one, which is a variance limit."""
    methods = config.var_methods
    match config.var_method:
        case "parametric":
            return None
        case "monte_carlo_normal":
            return MonteCarloTail(methods, index, confidence, None)
        case "monte_carlo_student_t":
            return MonteCarloTail(methods, index, confidence, methods.degrees_of_freedom)
    decay = methods.age_decay if config.var_method == "historical_age_weighted" else None
    return HistoricalTail(confidence, decay)


class HistoricalTail:
    """Losses that the book would have had on past days: the interpolated quantile of equally likely days, or, with
    `age_decay`, the smallest loss that days at or beyond it reach with probability 1 - confidence."""

    def __init__(self, confidence: float, age_decay: float | None) -> None:
        self._confidence, self._decay = confidence, age_decay

    def var(self, weights: np.ndarray, covariance: np.ndarray, past: PastReturns | None) -> np.ndarray:
        out = np.empty(len(weights))
        for envs, losses in self._losses(weights, past):
            if self._decay is None:
                out[envs] = upper_quantile(losses, self._confidence)
            else:
                out[envs] = var.weighted_var(losses, self._confidence, self._probabilities(losses))
        return np.maximum(out, 0.0)

    def shortfall(self, weights: np.ndarray, covariance: np.ndarray, past: PastReturns | None) -> np.ndarray:
        out = np.empty(len(weights))
        for envs, losses in self._losses(weights, past):
            if self._decay is None:
                out[envs] = upper_mean(losses, self._confidence)
            else:
                out[envs] = var.expected_shortfall(losses, self._confidence, self._probabilities(losses))
        return np.maximum(out, 0.0)

    def _probabilities(self, losses: np.ndarray) -> np.ndarray:
        assert self._decay is not None
        return var.age_weights(losses.shape[1], self._decay)

    def _losses(self, weights: np.ndarray, past: PastReturns | None) -> list[tuple[np.ndarray, np.ndarray]]:
        if past is None:
            raise RiskInputError(
                "historical VaR needs past returns, which a market has that was prepared with this risk.var_method; "
                "prepare the market again with it, or give the proposal `past`"
            )
        if len(past) and (past.days[:, 1] <= past.days[:, 0]).any():
            raise RiskInputError("historical VaR: a book has no past days; decide only after the features' warm-up")
        return past.losses(weights)


class MonteCarloTail:
    """Losses of draws with the market's covariance: normal, or Student t scaled to the same variance.

    The draws are standard ones, made once, and get each market's covariance by its Cholesky root; one that is not
    positive definite is repaired (`var.cholesky_root`).
    """

    def __init__(
        self, config: VaRMethodsConfig, index: PackedIndex, confidence: float, degrees_of_freedom: float | None
    ) -> None:
        self._index, self._confidence = index, confidence
        generator = np.random.default_rng(config.draws_seed)
        draws = var.standard_draws(index.n, config.draws, generator, degrees_of_freedom)
        self._draws = np.ascontiguousarray(draws.T)

    def var(self, weights: np.ndarray, covariance: np.ndarray, past: PastReturns | None) -> np.ndarray:
        parts = [upper_quantile(losses, self._confidence) for losses in self._losses(weights, covariance)]
        return np.maximum(np.concatenate(parts), 0.0) if parts else np.zeros(0)

    def shortfall(self, weights: np.ndarray, covariance: np.ndarray, past: PastReturns | None) -> np.ndarray:
        parts = [upper_mean(losses, self._confidence) for losses in self._losses(weights, covariance)]
        return np.maximum(np.concatenate(parts), 0.0) if parts else np.zeros(0)

    def _losses(self, weights: np.ndarray, covariance: np.ndarray) -> Iterator[np.ndarray]:
        """Losses (r, draws), a few books at a time."""
        exposures = np.matvec(self._roots(covariance).swapaxes(-1, -2), weights)
        step = max(_CHUNK_CELLS // self._draws.shape[1], 1)
        for first in range(0, len(weights), step):
            yield -(exposures[first : first + step] @ self._draws)

    def _roots(self, covariance: np.ndarray) -> np.ndarray:
        """L with LL' = covariance for each of the R books."""
        matrices = self._index.matrices(covariance)
        finite = np.isfinite(matrices).all(axis=(1, 2))
        if not finite.all():
            roots = np.full(matrices.shape, np.nan)
            roots[finite] = self._roots(covariance[finite])
            return roots
        try:
            return np.linalg.cholesky(matrices)
        except np.linalg.LinAlgError:
            return np.stack([var.cholesky_root(matrix) for matrix in matrices])


def upper_quantile(losses: np.ndarray, confidence: float) -> np.ndarray:
    """The linearly interpolated quantile of losses (R, S), (R,): np.quantile's, by a partition in place. `losses` is
    reordered; a book with a NaN among its losses has NaN."""
    n = losses.shape[1]
    place = (n - 1) * confidence
    low = int(place)
    high = min(low + 1, n - 1)
    losses.partition((low, high), axis=1)
    below, above = losses[:, low], losses[:, high]
    found = below + (place - low) * (above - below)
    # A partition puts NaN last.
    return np.where(np.isnan(losses[:, high:].max(axis=1)), np.nan, found)


def upper_mean(losses: np.ndarray, confidence: float) -> np.ndarray:
    """Mean of the worst 1 - confidence of losses (R, S), (R,): `var.expected_shortfall` of equally likely losses, by a
    partition in place, before its bound at 0. `losses` is reordered."""
    n = losses.shape[1]
    worst = n * (1 - confidence)
    whole = min(int(worst + 1e-9), n - 1)
    losses.partition(n - whole - 1, axis=1)
    partial = max(worst - whole, 0.0)
    return np.asarray((losses[:, n - whole :].sum(axis=1) + partial * losses[:, n - whole - 1]) / worst)
