"""The measures that the book rules limit, for a batch of books."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.risk import RiskConfig
from mtquant_rllib.risk.repair.correlation import ratio
from mtquant_rllib.risk.repair.limits import load_matrix
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.repair.tail_measures import tail_measure
from mtquant_rllib.risk.rules import Proposal, RiskInputError
from mtquant_rllib.risk.var import parametric_shortfall
from mtquant_rllib.universe import Universe

TOLERANCE = 1e-10
"""Relative slack before a measure counts as a breach. Repairs aim at the limit itself, so a repaired book passes."""


@dataclass
class Measures:
    """Raw measures of R books.

    Attributes
    ----------
    loads
        Gross by sector, total gross, margin with buffer; (R, D + 2).
    pair_sum, pair_gross
        Numerator and denominator of the correlation concentration, (R,).
    variance
        w'Sw per day, (R,); of another `risk.var_method` the variance of a normal book that has this VaR.
    """

    loads: np.ndarray
    pair_sum: np.ndarray
    pair_gross: np.ndarray
    variance: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        """Total gross and margin with buffer, (R, 2)."""
        return self.loads[:, -2:]

    def require_finite(self) -> None:
        """Raise `RiskInputError` if an input of any book was NaN or infinite: nothing can be said of its risk."""
        if not math.isfinite(float(self.variance.sum()) + float(self.pair_sum.sum())):
            finite = np.isfinite(self.variance) & np.isfinite(self.pair_sum)
            raise RiskInputError(
                f"environment {int(np.flatnonzero(~finite)[0])}: a weight, covariance or correlation is not a finite "
                "number; decide only after the features' warm-up, and mask what has no price"
            )


class BookMeasurer:
    """Measures books. Holds scratch memory that grows to the largest batch seen: one thread each.

    Parameters
    ----------
    universe
        Order of instruments and domains.
    margin_per_notional
        With its buffer, (n,).
    z, confidence
        Standard deviations from variance to VaR, horizon included; the confidence that they are of.
    config
        The VaR's method.
    """

    def __init__(
        self, universe: Universe, margin_per_notional: np.ndarray, z: float, confidence: float, config: RiskConfig
    ) -> None:
        self.index = PackedIndex(universe.n_instruments)
        self.loads = load_matrix(universe.domain_of, universe.n_domains, margin_per_notional)
        self._z = z
        self._confidence = confidence
        self._tail = tail_measure(config, self.index, confidence)
        self._day_to_horizon = math.sqrt(config.var_horizon_days)
        self._scratch = self._new_scratch(1)

    @property
    def has_variance_limit(self) -> bool:
        """Whether the VaR limit is one on w'Sw."""
        return self._tail is None

    def measure(self, weights: np.ndarray, proposal: Proposal, rows: np.ndarray | None = None) -> Measures:
        """Measures of the books (R, n) of a proposal, or of its environments `rows`."""
        covariance, correlation = proposal.covariance, proposal.correlation
        if rows is not None:
            covariance, correlation = covariance[rows], correlation[rows]
        n_rows, n = weights.shape
        if n_rows > len(self._scratch[0]):
            self._scratch = self._new_scratch(n_rows)
        doubled, pairs, second, off = (buffer[:n_rows] for buffer in self._scratch)
        index = self.index
        loads = np.abs(weights) @ self.loads
        doubled[:, :n] = weights
        np.multiply(weights, 2.0, out=doubled[:, n:])
        # The modes only switch off numpy's buffering for bounds checks: the indices are ours.
        weights.take(index.first, axis=1, out=pairs, mode="clip")
        doubled.take(index.doubled, axis=1, out=second, mode="clip")
        np.multiply(pairs, second, out=pairs)
        pairs.take(index.off, axis=1, out=off, mode="clip")
        gross = loads[:, -2]
        return Measures(
            loads=loads,
            pair_sum=np.vecdot(off, correlation),
            pair_gross=gross * gross - np.vecdot(weights, weights),
            variance=np.vecdot(pairs, covariance) if self._tail is None else self.variance(weights, proposal, rows),
        )

    def variance(self, weights: np.ndarray, proposal: Proposal, rows: np.ndarray | None = None) -> np.ndarray:
        """`Measures.variance` alone, of the books (R, n) of a proposal, or of its environments `rows`."""
        covariance, past = proposal.covariance, proposal.past
        if rows is not None:
            covariance, past = covariance[rows], None if past is None else past[rows]
        if self._tail is None:
            return np.vecdot(self.index.products(weights), covariance)
        return (self._tail.var(weights, covariance, past) * self._day_to_horizon / self._z) ** 2

    def shortfall(self, weights: np.ndarray, proposal: Proposal) -> np.ndarray:
        """Expected shortfall by the VaR's method over its horizon, of the books (R, n) of a proposal, (R,)."""
        if self._tail is None:
            beyond = parametric_shortfall(np.ones(1), np.ones((1, 1)), self._confidence)
            deviation = np.sqrt(np.maximum(self.variance(weights, proposal), 0.0))
            return np.asarray(beyond * self._day_to_horizon * deviation)
        return self._tail.shortfall(weights, proposal.covariance, proposal.past) * self._day_to_horizon

    def update(self, measures: Measures, weights: np.ndarray, proposal: Proposal, rows: np.ndarray) -> None:
        """Measure the books at `rows` again, in place. weights, proposal: of the whole batch."""
        some = self.measure(weights[rows], proposal, rows)
        measures.loads[rows] = some.loads
        measures.pair_sum[rows] = some.pair_sum
        measures.pair_gross[rows] = some.pair_gross
        measures.variance[rows] = some.variance

    def named(self, measures: Measures) -> dict[str, np.ndarray]:
        """`var`, `correlation`, `gross`, `margin` (R,) and `sector_gross` (R, D), as reported."""
        return {
            "var": self._z * np.sqrt(np.maximum(measures.variance, 0.0)),
            "correlation": ratio(measures.pair_sum, measures.pair_gross),
            "sector_gross": measures.loads[:, :-2],
            "gross": measures.loads[:, -2],
            "margin": measures.loads[:, -1],
        }

    def _new_scratch(self, capacity: int) -> tuple[np.ndarray, ...]:
        n, n_pairs = self.index.n, len(self.index.first)
        return tuple(np.empty((capacity, width)) for width in (2 * n, n_pairs, n_pairs, n_pairs - n))
