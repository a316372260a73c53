"""`ActorObjective`: SAC's loss of the policies of a stack on one minibatch, against critics that are held.

Shape suffixes: S modules, T = 2 twin critics, B rows, A actions, W executed actions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.fast_path.loss_gradients import (
    action_penalty_gradient,
    actor_gradients,
    minimum_mask,
)
from mtquant_rllib.engine.learning.reference_kl import reference_kl, reference_kl_gradient
from mtquant_rllib.engine.learning.sac.loss import action_penalty, actor_loss, sampled_actions


class ActorObjective:
    """J_pi with its penalties (`objective.Objective`). The outputs are mean (S, B, A) and log deviation
    (S, B or 1, A).

    Parameters
    ----------
    values
        Raw actions (S, B, A) -> values of both critics of each module, (S, T, B), differentiable in the actions.
    noise_SBA
        Standard normal, of the sampled actions.
    alpha_S1
        Weight of the entropy, held.
    action_penalty, kl_coeff
        Coefficients kappa and of the divergence from the reference policy.
    reference_SBA
        Mean of the reference policy; None where there is none.

    Attributes
    ----------
    value_STB, log_prob_SB
        Of the actions sampled by the last call of `loss` or `gradients`.
    """

    def __init__(
        self,
        values: Callable[[Tensor], Tensor],
        noise_SBA: Tensor,
        alpha_S1: Tensor,
        action_mask_S1A: Tensor,
        *,
        action_penalty: float,
        reference_SBA: Tensor | None,
        kl_coeff: float,
    ) -> None:
        self._values, self._noise, self._alpha, self._mask = values, noise_SBA, alpha_S1, action_mask_S1A
        self._action_penalty, self._reference, self._kl_coeff = action_penalty, reference_SBA, kl_coeff

    def loss(self, *outputs: Tensor) -> Tensor:
        mean_SBA, log_std_SBA = outputs
        action_SBA, log_prob_SB = sampled_actions(mean_SBA, log_std_SBA, self._noise, self._mask)
        value_STB = self._values(action_SBA)
        loss_S = actor_loss(value_STB, log_prob_SB, self._alpha)
        loss_S = loss_S + action_penalty(self._departure(mean_SBA), self._action_penalty, self._mask)
        if self._reference is not None:
            divergence_SB = reference_kl(mean_SBA, log_std_SBA, self._reference, self._mask)
            loss_S = loss_S + self._kl_coeff * divergence_SB.mean(-1)
        self.value_STB, self.log_prob_SB = value_STB.detach(), log_prob_SB.detach()
        return loss_S.sum()

    def gradients(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        mean_SBA, log_std_SBA = outputs
        action_SBA, self.log_prob_SB = sampled_actions(mean_SBA, log_std_SBA, self._noise, self._mask)
        action_SBA.requires_grad_()
        value_STB = self._values(action_SBA)
        self.value_STB = value_STB.detach()
        # Of a scalar: autograd loads a symbolic algebra, 2 s of every process, where it is given gradients.
        (slope_SBA,) = torch.autograd.grad((value_STB * minimum_mask(self.value_STB)).sum(), action_SBA)
        by_mean, by_log_std = actor_gradients(slope_SBA, log_std_SBA, self._noise, self._alpha, self._mask)
        by_mean += action_penalty_gradient(self._departure(mean_SBA), self._action_penalty, self._mask)
        if self._reference is not None:
            by_mean += reference_kl_gradient(mean_SBA, log_std_SBA, self._reference, self._mask) * (
                self._kl_coeff / mean_SBA.shape[1]
            )
        return by_mean, by_log_std

    def _departure(self, mean_SBA: Tensor) -> Tensor:
        return mean_SBA if self._reference is None else mean_SBA - self._reference
