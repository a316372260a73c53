"""Rounding of repaired books to whole lots that pass the rules too.

Cutting a hedge to whole lots can take it below what it hedges, and the book over its limit. So a repaired book is cut
and measured again, and where it fails it is made a little smaller than its limit asks for, twice as much with each
attempt; in the end nothing is left, which passes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtquant_rllib.risk.engine import PortfolioRiskManager, RiskDecision
from mtquant_rllib.risk.rules import Proposal
from mtquant_rllib.short_rows import row_any

ToLots = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""Weights (R, n) of the environments with these indices, or of all, as the weights of whole lots."""

_FINE_LOT = 0.05
"""Lots under this share of equity are fine: cutting to them moves a measure by a few per cent only."""
_NEAR = 0.85
"""Share of a limit from which a book of fine lots is measured again."""
_EASING = 0.01
"""Share by which a book is made smaller at the first attempt after its first repair."""
ATTEMPTS = 9
"""After so many nothing is left of a book: 1 - .01 * 2 ** 7 is below zero."""


def eased(executed: np.ndarray, proposal: Proposal, attempt: int) -> np.ndarray:
    """Repaired books (R, n) a little smaller, twice as much with each attempt: a repair aims at the limit itself, and
    whole lots would take the next hedge over it. Books that pass stay, and so do untradable positions."""
    repaired = row_any(executed != proposal.proposed)
    left = max(1.0 - _EASING * 2**attempt, 0.0)
    return np.where(repaired[:, None] & proposal.tradable, executed * left, executed)


def in_whole_lots(
    manager: PortfolioRiskManager, proposal: Proposal, decision: RiskDecision, to_lots: ToLots, lot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The executed books of `decision`, on `proposal`, in whole lots that pass the rules.

    Parameters
    ----------
    to_lots
        Cuts weights to whole lots.
    lot
        Weight of one lot of each instrument, (B, n).

    Returns
    -------
    Weights (B, n), and what bound each instrument, int8 (B, n): the decision's rules, and those of lots where there was
    none.
    """
    weights, rule = to_lots(decision.executed, None), decision.rule.copy()
    limits = manager.limits
    var_limit = limits["var"] if proposal.var_limit_scale is None else limits["var"] * proposal.var_limit_scale
    near = (decision.measures["var"] > _NEAR * var_limit) | (
        decision.measures["correlation"] > _NEAR * limits["correlation"]
    )
    coarse = row_any(np.abs(lot) > _FINE_LOT)
    rows = np.flatnonzero(near | coarse)
    for attempt in range(ATTEMPTS):
        if not len(rows):
            break
        some = proposal.rows(rows)
        some.proposed = weights[rows]
        again = manager.repair(some)
        moved = row_any(again.executed != some.proposed)
        rows = rows[moved]
        weights[rows] = to_lots(eased(again.executed, some, attempt)[moved], rows)
        rule[rows] = np.where(rule[rows] == 0, again.rule[moved], rule[rows])
    return weights, rule
