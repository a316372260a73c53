"""`PPOObjective`: PPO's loss of one minibatch as the objective of a stack of networks.

Shape suffixes: S modules, B rows, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mtquant_rllib.engine.learning.fast_path.loss_gradients import ppo_gradients
from mtquant_rllib.engine.learning.ppo.loss import ppo_loss, ppo_terms


@dataclass(frozen=True)
class PPOObjective:
    """`ppo_loss` of a minibatch (`objective.Objective`). The outputs are mean (S, B, A), log deviation (S, B or 1, A)
    and value (S, B).

    columns, coefficients, action_mask_S1A, reference_SBA
        As of `loss.ppo_terms`.
    weight_SB
        Of each row in its module's loss; 0 for padding.
    """

    columns: Sequence[Tensor]
    weight_SB: Tensor
    coefficients: Mapping[str, Tensor]
    action_mask_S1A: Tensor
    reference_SBA: Tensor | None = None

    def terms(self, *outputs: Tensor) -> dict[str, Tensor]:
        """The terms of each row's loss, (S, B) each."""
        mean, log_std, value = outputs
        return ppo_terms(
            (mean, log_std, value), self.columns, self.coefficients, self.action_mask_S1A, self.reference_SBA
        )

    def loss(self, *outputs: Tensor) -> Tensor:
        of_rows: Tensor = ppo_loss(self.terms(*outputs), self.coefficients)
        return (of_rows * self.weight_SB).sum()

    def gradients(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        mean, log_std, value = outputs
        return ppo_gradients(
            (mean, log_std, value),
            self.columns,
            self.weight_SB,
            self.coefficients,
            self.action_mask_S1A,
            self.reference_SBA,
        )
