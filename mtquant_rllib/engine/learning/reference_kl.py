"""The KL penalty on departing from the reference policy, in PPO's loss and SAC's alike.

Policy and reference are diagonal Gaussians over raw actions. The reference has the policy's own deviation, so that
exploration costs nothing, and

    KL(policy || reference) = sum_a (mean_a - reference_a)^2 / (2 sigma_a^2)

The deviation is held: it would otherwise grow to make departures cheap.

Shape suffixes: S modules, B rows, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

REFERENCE_KL = "reference_kl"
"""Metric of a module: mean divergence of its rows."""


def reference_kl(mean_SBA: Tensor, log_std_SBA: Tensor, reference_SBA: Tensor, action_mask_S1A: Tensor) -> Tensor:
    """The divergence of each row, (S, B). log_std: (S, B or 1, A); action_mask: 0 in padding."""
    distance = (mean_SBA - reference_SBA) * (-log_std_SBA.detach()).exp() * action_mask_S1A
    return 0.5 * distance.square().sum(-1)


def reference_kl_gradient(
    mean_SBA: Tensor, log_std_SBA: Tensor, reference_SBA: Tensor, action_mask_S1A: Tensor
) -> Tensor:
    """The gradient of each row's divergence by mean, (S, B, A)."""
    return (mean_SBA - reference_SBA) * (-2.0 * log_std_SBA).exp() * action_mask_S1A


def reference_kl_coeff(config: Mapping[str, Any]) -> float:
    """The factor of the divergence in the loss of a module with this configuration (`policies.registry`)."""
    return float(config.get("reference_kl_coeff", 0.0))
