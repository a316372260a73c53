"""PPO's loss (Schulman et al. 2017, arXiv 1707.06347) with RLlib's clipped value error and KL penalty. The loss of a
row:

    -min(A r, A clip(r, 1 - eps, 1 + eps)) + c_v min((V - T)^2, v) + c_kl KL(old || new) + c_r KL(new || reference)
    - c_e H

r is the ratio of probabilities, A the advantage, T the value target; policies are diagonal Gaussians over raw actions.
c_r is there where a reference policy is (`reference_kl_coeff`).
A minibatch's loss is the sum of its rows' losses times their weights. This is the definition. Networks that run by
autograd are stepped along its gradient; for plain ones it is written out in `fast_path.loss_gradients`, which tests
hold to autograd's.

Shape suffixes: S modules, B rows, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.reference_kl import REFERENCE_KL, reference_kl
from mtquant_rllib.policies.networks import HALF_LOG_TWO_PI


def ppo_terms(
    outputs: tuple[Tensor, Tensor, Tensor],
    columns: Sequence[Tensor],
    coefficients: Mapping[str, Tensor],
    action_mask_S1A: Tensor,
    reference_SBA: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms of each row's loss before their coefficients, and what metrics need besides, (S, B) each.

    Parameters
    ----------
    outputs
        Mean (S, B, A), log deviation (S, B or 1, A), value (S, B).
    columns
        Raw action (S, B, A), old `[mean | log deviation]` (S, B, 2A), old log-probability, advantage and value target
        (S, B, 1).
    coefficients
        (S, 1) each: clip_param, vf_clip_param, vf_loss_coeff, entropy_coeff, kl_coeff where KL is part of the loss, and
        reference_kl_coeff where there is a reference policy.
    action_mask_S1A
        1 where the module has the action, 0 where the column is padding.
    reference_SBA
        Mean of the reference policy; None where there is none.
    """
    mean, log_std, value_SB = outputs
    log_std = log_std * action_mask_S1A
    action, old, *singles = columns
    old_log_prob, advantage, target = (column.squeeze(-1) for column in singles)
    precision = torch.exp(-log_std) * action_mask_S1A
    constant = action_mask_S1A.sum(-1) * HALF_LOG_TWO_PI
    log_prob = (((action - mean) * precision).square() * -0.5 - log_std).sum(-1) - constant
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = torch.clamp(ratio, 1 - coefficients["clip_param"], 1 + coefficients["clip_param"])
    error = value_SB - target
    squared_error = error.square()
    old_mean, old_log_std = old.chunk(2, dim=-1)
    spread = torch.exp(2.0 * (old_log_std - log_std)) + ((mean - old_mean) * precision).square()
    terms = {
        "surrogate": torch.minimum(advantage * ratio, advantage * clipped),
        "value_loss": torch.minimum(squared_error, coefficients["vf_clip_param"]),
        "value_error": squared_error,
        "entropy": (log_std.sum(-1) + constant + 0.5 * action_mask_S1A.sum(-1)).expand_as(value_SB),
        "kl": (log_std - old_log_std + 0.5 * (spread - 1.0)).sum(-1),
        "target": target,
        "target_square": target.square(),
        "error": error,
    }
    if reference_SBA is not None:
        terms[REFERENCE_KL] = reference_kl(mean, log_std, reference_SBA, action_mask_S1A)
    return terms


def ppo_loss(terms: Mapping[str, Any], coefficients: Mapping[str, Any], auxiliary_loss: Any = 0.0) -> Any:
    """The loss from its terms, or its mean from their means. auxiliary_loss: what a policy adds to it
    (`GaussianPolicy.auxiliary_losses`)."""
    loss = coefficients["vf_loss_coeff"] * terms["value_loss"] - terms["surrogate"]
    if "kl_coeff" in coefficients:
        loss = loss + coefficients["kl_coeff"] * terms["kl"]
    if REFERENCE_KL in terms:
        loss = loss + coefficients["reference_kl_coeff"] * terms[REFERENCE_KL]
    return loss + auxiliary_loss - coefficients["entropy_coeff"] * terms["entropy"]
