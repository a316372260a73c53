"""What a decision leaves for the bar after it: whoever interrupts a desk between two closes keeps it with the state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.vector_state import VectorState


@dataclass(eq=False)
class LastDecision(VectorState):
    """The last decisions of B environments.

    proposed, ordered
        Weights before and after risk, (B, n).
    unscaled
        Weights before the risk scale, (B, n); zero where there is none.
    rule
        What bound each instrument, int8 (B, n); see `RiskLayer.rule`.
    var
        VaR of the ordered book, (B,); see `RiskLayer.var`.
    """

    proposed: np.ndarray
    ordered: np.ndarray
    unscaled: np.ndarray
    rule: np.ndarray
    var: np.ndarray

    @classmethod
    def of(
        cls,
        proposed: np.ndarray,
        ordered: np.ndarray,
        unscaled: np.ndarray,
        rule: np.ndarray | None,
        var: np.ndarray | None,
    ) -> LastDecision:
        """Copies of these arrays; rule and var are None without risk."""
        return cls(
            proposed.copy(),
            ordered.copy(),
            unscaled.copy(),
            np.zeros(proposed.shape, dtype=np.int8) if rule is None else rule.copy(),
            np.full(len(proposed), np.inf) if var is None else var.copy(),
        )
