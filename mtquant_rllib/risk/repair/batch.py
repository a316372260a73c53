"""A batch of books under repair: weights that only shrink, and which rule shrank each last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.risk.pretrade import held
from mtquant_rllib.risk.rules import Proposal, RuleId


@dataclass
class RepairBatch:
    """R books. Since weights only ever shrink, the last rule that shrank one set its smallest bound.

    Attributes
    ----------
    proposal
        Of these R environments.
    weights
        Signed, (R, n), written in place.
    rule
        `RuleId`, int8 (R, n), written in place.
    fixed
        bool (R, n): untradable instruments, which no rule may move. None where all may.
    """

    proposal: Proposal
    weights: np.ndarray
    rule: np.ndarray
    fixed: np.ndarray | None

    def select(self, rows: np.ndarray) -> RepairBatch:
        """The books at `rows`, copied."""
        fixed = None if self.fixed is None else self.fixed[rows]
        return RepairBatch(self.proposal.rows(rows), self.weights[rows], self.rule[rows], fixed)

    def movable(self, where: np.ndarray) -> np.ndarray:
        """`where`, bool (R, n), without the untradable instruments."""
        return where if self.fixed is None else where & ~self.fixed

    def cap(self, limit: np.ndarray | float, over: np.ndarray, rule_id: RuleId) -> None:
        """|weight| = limit where `over`, bool (R, n); limit is a scalar or (R, n)."""
        over = self.movable(over)
        most = limit[over] if isinstance(limit, np.ndarray) else limit
        self.weights[over] = np.copysign(most, self.weights[over])
        self.rule[over] = rule_id

    def refuse(self, where: np.ndarray, rule_id: RuleId, addable: np.ndarray | None = None) -> None:
        """No more than `addable` (R, n) is added to what is held where `where`, bool (R, n); nothing when None."""
        at = np.nonzero(self.movable(where))
        if not len(at[0]):
            return
        before = self.weights[at]
        most = held(before, self.proposal.current[at])
        if addable is not None:
            most = most + addable[at]
        after = np.clip(before, -most, most)
        self.weights[at] = after
        self.rule[at] = np.where(after != before, rule_id, self.rule[at])

    def scale(self, rows: np.ndarray, factors: np.ndarray, rule_id: int | np.ndarray) -> None:
        """Multiply the weights of `rows` by factors, (len(rows), n) or (len(rows), 1), where they are below 1."""
        shrunk = np.broadcast_to(factors < 1, (len(rows), self.weights.shape[1]))
        if self.fixed is not None:
            shrunk = shrunk & ~self.fixed[rows]
        self.weights[rows] *= np.where(shrunk, factors, 1.0)
        self.rule[rows] = np.where(shrunk, rule_id, self.rule[rows])
