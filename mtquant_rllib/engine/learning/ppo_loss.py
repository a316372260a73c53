"""PPO's loss on columns, and its gradients by what a network puts out, written out.

The loss of one row is (Schulman et al. 2017, arXiv 1707.06347, with RLlib's clipped value error)

    -min(A r, A clip(r, 1 - eps, 1 + eps)) + c_v min((V - T)^2, v) - c_e H + c_kl KL(old || new),

r the ratio of probabilities, A the advantage, T the value target; policies are diagonal Gaussians over raw actions, for
which every derivative is a line. What is summed is each row's loss times its weight.

Shape suffixes: S modules, B rows, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

TALLIED = ("surrogate", "value_loss", "value_error", "entropy", "kl", "target", "target_square", "error")
"""What is summed besides the gradients, in this order, each row by its weight."""

Gradients = tuple[Tensor, Tensor, Tensor]
"""By mean (S, B, A), by log deviation (S, B, A), by value (S, B)."""


@torch.no_grad()
def ppo_gradients(
    outputs: tuple[Tensor, Tensor, Tensor],
    columns: Sequence[Tensor],
    weight_SB: Tensor,
    knobs: Mapping[str, Tensor],
    *,
    tell: bool = True,
) -> tuple[Gradients, Tensor | None]:
    """Gradients of the summed loss, and where asked for the tallies, (8, S).

    Parameters
    ----------
    outputs
        Mean (S, B, A), log deviation (S, B or 1, A), value (S, B).
    columns
        Raw action (S, B, A), old `[mean | log deviation]` (S, B, 2A), old log-probability, advantage and value target
        (S, B, 1).
    knobs
        (S, 1) each: clip_param, vf_clip_param, vf_loss_coeff, entropy_coeff, and kl_coeff where it is part of the loss;
        and `real` (S, 1, A): 1 where the module has the action, 0 where the column is another's.
    """
    mean, log_std, value_SB = outputs
    real = knobs["real"]
    log_std = log_std * real
    action, old, *singles = columns
    old_log_prob, advantage, target = (column.squeeze(-1) for column in singles)
    precision = torch.exp(-log_std) * real
    constant = real.sum(-1) * HALF_LOG_TWO_PI
    z = (action - mean) * precision
    z_square = z.square()
    log_prob = (z_square * -0.5 - log_std).sum(-1) - constant
    ratio = torch.exp(log_prob - old_log_prob)
    gain = advantage * ratio
    clipped = advantage * torch.clamp(ratio, 1 - knobs["clip_param"], 1 + knobs["clip_param"])
    # Where clipping makes it smaller, the surrogate does not depend on the policy.
    by_log_prob = (gain <= clipped) * gain * -weight_SB
    by_mean = by_log_prob.unsqueeze(-1) * z * precision
    by_log_std = by_log_prob.unsqueeze(-1) * (z_square - real)
    by_log_std -= (knobs["entropy_coeff"] * weight_SB).unsqueeze(-1) * real

    missed = value_SB - target
    value_error = missed.square()
    within = value_error <= knobs["vf_clip_param"]
    by_value = within * missed * (2.0 * knobs["vf_loss_coeff"] * weight_SB)

    if tell or "kl_coeff" in knobs:
        old_mean, old_log_std = old.chunk(2, dim=-1)
        apart = (mean - old_mean) * precision
        spread = torch.exp(2.0 * (old_log_std - log_std)) + apart.square()
    if "kl_coeff" in knobs:
        scale = (knobs["kl_coeff"] * weight_SB).unsqueeze(-1)
        by_mean += scale * apart * precision
        by_log_std += scale * (1.0 - spread) * real
    gradients = (by_mean, by_log_std, by_value)
    if not tell:
        return gradients, None
    kl = (log_std - old_log_std + 0.5 * (spread - 1.0)).sum(-1)
    entropy = (log_std.sum(-1) + constant + 0.5 * real.sum(-1)).expand_as(value_SB)
    capped = torch.minimum(value_error, knobs["vf_clip_param"])
    tallied = (torch.minimum(gain, clipped), capped, value_error, entropy, kl, target, target.square(), missed)
    return gradients, (torch.stack(tallied) * weight_SB).sum(-1)
