"""What the attention network is taught besides its agent's reward, and figures of how it looks at things.

Shape suffixes: as in `regime_network`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mtquant_rllib.config.attention import AuxiliaryLossesConfig
from mtquant_rllib.policies.regime_network import RegimeAnswer

NO_LABEL = -1
"""Label of a row that the detector said nothing about."""


def classifier_loss(regime_logits_BR: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy against the detector's labels, mean(-log p_label) over the rows that have one; 0 without any."""
    known = (labels_B != NO_LABEL).sum().clamp(min=1)
    summed = functional.cross_entropy(regime_logits_BR, labels_B.long(), ignore_index=NO_LABEL, reduction="sum")
    return summed / known


def diversity_loss(attention_BLHGG: Tensor, target: float) -> Tensor:
    """mean((entropy / ln G - target)^2) over rows, layers, heads and reading groups; G = 4 in the design document.

    Entropy of a group's attention in nats: 0 when it reads one group, ln G when it reads all alike. A target between
    keeps attention from collapsing onto one group as well as from saying nothing.
    """
    return (normalised_entropy(attention_BLHGG) - target).square().mean()


def consistency_loss(probabilities_BR: Tensor, target: float) -> Tensor:
    """mean((max_r p_r - target)^2): regimes told apart, but not with certainty."""
    return (probabilities_BR.amax(dim=-1) - target).square().mean()


def auxiliary_losses(answer: RegimeAnswer, labels_B: Tensor | None, config: AuxiliaryLossesConfig) -> dict[str, Tensor]:
    """The three of them with their weights; without labels the classifier has none. `answer` needs attention weights.

    Rows that are not finite are the caller's to leave out.
    """
    assert answer.attention_BLHGG is not None
    losses = {
        "attention_diversity": config.diversity * diversity_loss(answer.attention_BLHGG, config.diversity_target),
        "regime_consistency": config.consistency * consistency_loss(answer.probabilities_BR, config.consistency_target),
    }
    if labels_B is not None:
        losses["regime_classifier"] = config.classifier * classifier_loss(answer.regime_logits_BR, labels_B)
    return losses


def normalised_entropy(attention: Tensor) -> Tensor:
    """Entropy of each row of attention over the largest there can be: (..., G) -> (...) in [0, 1]."""
    return torch.special.entr(attention).sum(dim=-1) / math.log(attention.shape[-1])


def attention_metrics(attention_BLHGG: Tensor) -> dict[str, float]:
    """How attention is spread, as means over everything.

    entropy
        Of a group's attention, as in `normalised_entropy`: 1 reads all groups alike.
    focus
        Weight of the group that is read most: 1 / G to 1.
    diversity
        How differently a layer's heads read: Jensen-Shannon divergence of the heads' distributions over ln(min(H, G)),
        0 when all heads agree, 1 when each reads its own group.
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
