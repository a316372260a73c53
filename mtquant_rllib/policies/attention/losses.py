"""The auxiliary losses of the attention network, and metrics of its attention.

Shape suffixes: as in `regime_network`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mtquant_rllib.config.sections.attention import AuxiliaryLossesConfig
from mtquant_rllib.policies.attention.regime_network import RegimeOutput

NO_LABEL = -1
"""Label of a row that the regime detector has not labelled."""


def classifier_loss(regime_logits_BR: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy against the detector's labels, mean(-log p_label) over the rows that have one; 0 without any."""
    known = (labels_B != NO_LABEL).sum().clamp(min=1)
    summed = functional.cross_entropy(regime_logits_BR, labels_B.long(), ignore_index=NO_LABEL, reduction="sum")
    return summed / known


def diversity_loss(attention_BLHGG: Tensor, target: float) -> Tensor:
    """mean((entropy / ln G - target)^2) over rows, layers, heads and reading groups; G = 4 in the design document.

    Entropy of a group's attention in nats: 0 on one group, ln G when uniform. A target in between penalises both.
    """
    return (normalised_entropy(attention_BLHGG) - target).square().mean()


def consistency_loss(probabilities_BR: Tensor, target: float) -> Tensor:
    """mean((max_r p_r - target)^2): confident regimes, but not certain ones."""
    return (probabilities_BR.amax(dim=-1) - target).square().mean()


def auxiliary_losses(output: RegimeOutput, labels_B: Tensor | None, config: AuxiliaryLossesConfig) -> dict[str, Tensor]:
    """The three losses with their weights; without labels there is none of the classifier. `output` needs attention
    weights. Rows that are not finite must be left out by the caller.
    """
    assert output.attention_BLHGG is not None
    losses = {
        "attention_diversity": config.diversity * diversity_loss(output.attention_BLHGG, config.diversity_target),
        "regime_consistency": config.consistency * consistency_loss(output.probabilities_BR, config.consistency_target),
    }
    if labels_B is not None:
        losses["regime_classifier"] = config.classifier * classifier_loss(output.regime_logits_BR, labels_B)
    return losses


def normalised_entropy(attention: Tensor) -> Tensor:
    """Entropy of each row of attention over its maximum ln G: (..., G) -> (...) in [0, 1]."""
    return torch.special.entr(attention).sum(dim=-1) / math.log(attention.shape[-1])


def attention_metrics(attention_BLHGG: Tensor) -> dict[str, float]:
    """Metrics of how attention is spread, means over rows, layers, heads and groups.

    entropy
        `normalised_entropy` of a group's attention: 1 when uniform.
    focus
        The largest weight: 1 / G to 1.
    diversity
        Jensen-Shannon divergence of a layer's heads over ln(min(H, G)): 0 when all heads agree, 1 when each attends to
        another group.
    """
    heads = attention_BLHGG.shape[-3]
    groups = attention_BLHGG.shape[-1]
    own = torch.special.entr(attention_BLHGG).sum(dim=-1).mean(dim=-2)
    together = torch.special.entr(attention_BLHGG.mean(dim=-3)).sum(dim=-1)
    most = math.log(min(heads, groups))
    return {
        "entropy": normalised_entropy(attention_BLHGG).mean().item(),
        "focus": attention_BLHGG.amax(dim=-1).mean().item(),
        "diversity": ((together - own).mean() / most).item() if most else 0.0,
    }
