"""The gradients of `ppo_loss` and `sac_loss` by what the networks put out, in closed form.

Shape suffixes: S modules, T the twin critics, B rows, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.reference_kl import reference_kl_gradient
from mtquant_rllib.policies.networks import HALF_LOG_TWO_PI

Gradients = tuple[Tensor, Tensor, Tensor]
"""By mean (S, B, A), by log deviation (S, B, A), by value (S, B)."""


@torch.no_grad()
def ppo_gradients(
    outputs: tuple[Tensor, Tensor, Tensor],
    columns: Sequence[Tensor],
    weight_SB: Tensor,
    coefficients: Mapping[str, Tensor],
    action_mask_S1A: Tensor,
    reference_SBA: Tensor | None = None,
) -> Gradients:
    """The gradients of `(ppo_loss(ppo_terms(...)) * weight_SB).sum()`. Arguments as of `ppo_loss.ppo_terms`."""
    mean, log_std, value_SB = outputs
    log_std = log_std * action_mask_S1A
    action, old, *singles = columns
    old_log_prob, advantage, target = (column.squeeze(-1) for column in singles)
    precision = torch.exp(-log_std) * action_mask_S1A
    z = (action - mean) * precision
    z_square = z.square()
    log_prob = (z_square * -0.5 - log_std).sum(-1) - action_mask_S1A.sum(-1) * HALF_LOG_TWO_PI
    ratio = torch.exp(log_prob - old_log_prob)
    gain = advantage * ratio
    clipped = advantage * torch.clamp(ratio, 1 - coefficients["clip_param"], 1 + coefficients["clip_param"])
    # Where clipping makes it smaller, the surrogate does not depend on the policy.
    by_log_prob = (gain <= clipped) * gain * -weight_SB
    by_mean = by_log_prob.unsqueeze(-1) * z * precision
    by_log_std = by_log_prob.unsqueeze(-1) * (z_square - action_mask_S1A)
    by_log_std -= (coefficients["entropy_coeff"] * weight_SB).unsqueeze(-1) * action_mask_S1A

    error = value_SB - target
    unclipped = error.square() <= coefficients["vf_clip_param"]
    by_value = unclipped * error * (2.0 * coefficients["vf_loss_coeff"] * weight_SB)

    if "kl_coeff" in coefficients:
        old_mean, old_log_std = old.chunk(2, dim=-1)
        shift = (mean - old_mean) * precision
        spread = torch.exp(2.0 * (old_log_std - log_std)) + shift.square()
        scale = (coefficients["kl_coeff"] * weight_SB).unsqueeze(-1)
        by_mean += scale * shift * precision
        by_log_std += scale * (1.0 - spread) * action_mask_S1A
    if reference_SBA is not None:
        scale = (coefficients["reference_kl_coeff"] * weight_SB).unsqueeze(-1)
        by_mean += scale * reference_kl_gradient(mean, log_std, reference_SBA, action_mask_S1A)
    return by_mean, by_log_std, by_value


def critic_gradient(value_STB: Tensor, target_SB: Tensor, weight_SB: Tensor) -> Tensor:
    """dJ_Q / dQ_j of each row, (S, T, B)."""
    return (value_STB - target_SB.unsqueeze(1)) * weight_SB.unsqueeze(1)


def minimum_mask(value_STB: Tensor) -> Tensor:
    """d min_j Q_j / dQ_j: 1 at the smaller of the twins' values, 0 at the other, (S, T, B)."""
    first_SB = (value_STB[:, 0] <= value_STB[:, 1]).to(value_STB)
    return torch.stack((first_SB, 1.0 - first_SB), dim=1)


def actor_gradients(
    slope_SBA: Tensor, log_std_SBA: Tensor, noise_SBA: Tensor, alpha_S1: Tensor, action_mask_S1A: Tensor
) -> tuple[Tensor, Tensor]:
    """dJ_pi by mean and by log deviation, (S, B, A) each, from d min_j Q_j / da of the raw action.

    With the noise held, log pi(a|s) does not depend on the mean, and falls by one per unit of log deviation.
    """
    by_mean = slope_SBA * action_mask_S1A / -slope_SBA.shape[1]
    alpha_S11 = alpha_S1.unsqueeze(-1) / slope_SBA.shape[1]
    return by_mean, by_mean * log_std_SBA.exp() * noise_SBA - alpha_S11 * action_mask_S1A


def action_penalty_gradient(mean_SBA: Tensor, action_penalty: float, action_mask_S1A: Tensor) -> Tensor:
    """That of `sac_loss.action_penalty` by mean, (S, B, A)."""
    return mean_SBA * action_mask_S1A * (action_penalty / mean_SBA.shape[1])


def alpha_gradient(log_prob_SB: Tensor, alpha_S1: Tensor, target_entropy_S1: Tensor) -> Tensor:
    """dJ_alpha / d log alpha, (S, 1)."""
    return -alpha_S1 * (log_prob_SB.mean(-1, keepdim=True) + target_entropy_S1)
