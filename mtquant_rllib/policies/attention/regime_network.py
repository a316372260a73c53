"""A policy network with a head for each market regime and a global one, mixed by the regimes' probabilities.

    logits = (share * sum_r p_r head_r(x) + (1 - share) * global(x)) / temperature      x = pooled attention features

The probabilities come from a classifier that is trained on the regime detector's labels
(`policies.attention.losses`). Where it is unsure, or numbers are not finite, the network falls back row by row:

- largest probability below `min_confidence`: the global head alone;
- a column of the observation, the classifier or a regime's head not finite: the global head alone, broken columns read
  as 0, the mean of a standardised feature;
- the global head not finite either: logits 0, which is equal weight after a softmax.

The output has a `Fallback` code per row; `fallbacks.FallbackMonitor` counts and logs them. The confidence threshold is
a step: a row within rounding of it can fall back in batches of one size and not of another.

The classifier's last layer does not start small: with equal probabilities the global head alone would decide, and the
regimes' heads would not learn before the classifier. The heads' last layers start small, so that the first outputs lie
near 0 in any case.

Shape suffixes: as in `attention`; A actions, R regimes, and P = R + 1 heads, the global one last.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtquant_rllib.config.sections.attention import AttentionConfig, PolicyHeadsConfig, RegimeClassifierConfig
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.attention.self_attention import RELU_GAIN, AttentionEncoder, dropout
from mtquant_rllib.policies.networks import Dense, GroupedShape

N_REGIMES = len(Regime)


class Fallback(IntEnum):
    """Which head decided a row, and why."""

    NONE = 0
    """The mixture."""
    UNSURE = 1
    """The global head: no regime is likely enough."""
    NOT_FINITE = 2
    """The global head: something before it was not a number."""
    EQUAL = 3
    """None was finite: all logits are 0."""


class RegimeOutput(NamedTuple):
    """The outputs of a pass; regimes in the order of `Regime`.

    head_logits_BPA are before share and temperature, the global head last. attention_BLHGG is None unless asked for. Of
    rows that fell back all fields but logits_BA may hold NaN; logits_BA is always finite.
    """

    logits_BA: Tensor
    fallback_B: Tensor
    probabilities_BR: Tensor
    confidence_B: Tensor
    regime_logits_BR: Tensor
    head_logits_BPA: Tensor
    pooled_BE: Tensor
    attention_BLHGG: Tensor | None

    def weights_BA(self) -> Tensor:
        """The logits as portfolio weights: positive, summing to 1."""
        return self.logits_BA.softmax(dim=-1)


class RegimeClassifier(nn.Module):
    """Linear, ReLU, Dropout, ... Linear: pooled features -> logits of the regimes."""

    def __init__(self, width: int, config: RegimeClassifierConfig):
        super().__init__()
        self.dropout = config.dropout
        self.hidden = nn.ModuleList(Dense(*sizes, gain=RELU_GAIN) for sizes in pairwise((width, *config.hidden)))
        self.last = Dense(config.hidden[-1], N_REGIMES, gain=1.0)

    def forward(self, pooled_BE: Tensor, drop: bool = False) -> Tensor:
        x = pooled_BE
        for layer in self.hidden:
            x = dropout(functional.relu(layer(x)), self.dropout, drop)
        logits_BR: Tensor = self.last(x)
        return logits_BR


class PolicyHeads(nn.Module):
    """The regimes' heads and the global one, (B, E) -> (B, P, A): each Linear, ReLU, Dropout, Linear of its own.

    Each layer is one product for all heads: `hidden` holds their first layers below one another, `last` the second
    ones.
    """

    def __init__(self, width: int, actions: int, config: PolicyHeadsConfig, last_layer_scale: float):
        super().__init__()
        self.dropout, self.n_heads = config.dropout, N_REGIMES + 1
        self.hidden = Dense(width, self.n_heads * config.hidden, gain=RELU_GAIN)
        self.last_PAK = nn.Parameter(torch.empty(self.n_heads, actions, config.hidden))
        self.bias_PA = nn.Parameter(torch.zeros(self.n_heads, actions))
        for head in range(self.n_heads):
            nn.init.orthogonal_(self.hidden.weight.data.unflatten(0, (self.n_heads, -1))[head], RELU_GAIN)
            nn.init.orthogonal_(self.last_PAK.data[head], last_layer_scale)

    def forward(self, pooled_BE: Tensor, drop: bool = False) -> Tensor:
        hidden = dropout(functional.relu(self.hidden(pooled_BE)), self.dropout, drop)
        hidden_BPK = hidden.unflatten(-1, (self.n_heads, -1))
        return torch.einsum("bpk,pak->bpa", hidden_BPK, self.last_PAK) + self.bias_PA


class RegimeNetwork(nn.Module):
    """Attention encoder, regime classifier and heads: one grouped observation -> a `RegimeOutput`.

    Raises
    ------
    ValueError
        When an observation is not a tensor of the parameters' precision and shape (B, F).
    """

    def __init__(self, shape: GroupedShape, config: AttentionConfig, last_layer_scale: float):
        super().__init__()
        self.shape, self.mixture = shape, config.mixture
        self.encoder = AttentionEncoder(shape.widths, config)
        self.classifier = RegimeClassifier(config.width, config.classifier)
        self.heads = PolicyHeads(config.width, shape.actions, config.policy_heads, last_layer_scale)

    def forward(self, obs_BF: Tensor, drop: bool = False, need_weights: bool = False) -> RegimeOutput:
        """drop: with dropout, for auxiliary losses; need_weights: with attention weights."""
        # The precision of a parameter that `inference` leaves alone.
        dtype = self.encoder.embedding.groups_GE.dtype
        if not isinstance(obs_BF, Tensor) or obs_BF.dtype != dtype or obs_BF.shape[1:] != (self.shape.observation,):
            raise ValueError(
                f"observation of shape {tuple(obs_BF.shape)} and {obs_BF.dtype}: expected {dtype} of shape "
                f"(B, {self.shape.observation}), the groups {', '.join(name for name, _ in self.shape.groups)}"
            )
        clean_BF, is_finite_B = zeroed_nonfinite(obs_BF)
        pooled_BE, attention_BLHGG = self.encoder(clean_BF, drop, need_weights)
        regime_logits_BR = self.classifier(pooled_BE, drop)
        probabilities_BR = regime_logits_BR.softmax(dim=-1)
        confidence_B = probabilities_BR.amax(dim=-1)
        head_logits_BPA = self.heads(pooled_BE, drop)
        logits_BA, fallback_B = self._mixed(head_logits_BPA, probabilities_BR, confidence_B, is_finite_B)
        return RegimeOutput(
            logits_BA,
            fallback_B,
            probabilities_BR,
            confidence_B,
            regime_logits_BR,
            head_logits_BPA,
            pooled_BE,
            attention_BLHGG,
        )

    def _mixed(
        self, head_logits_BPA: Tensor, probabilities_BR: Tensor, confidence_B: Tensor, is_finite_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        share = self.mixture.regime_share
        global_BA = head_logits_BPA[:, N_REGIMES]
        by_regime_BA = torch.einsum("br,bra->ba", probabilities_BR, head_logits_BPA[:, :N_REGIMES])
        mixed_BA = share * by_regime_BA + (1 - share) * global_BA
        finite_B = is_finite_B & mixed_BA.isfinite().all(dim=-1) & confidence_B.isfinite()
        answers_B = finite_B & (confidence_B >= self.mixture.min_confidence)
        logits_BA = torch.where(answers_B[:, None], mixed_BA, global_BA) / self.mixture.temperature
        exists_B = logits_BA.isfinite().all(dim=-1)
        logits_BA = torch.where(exists_B[:, None], logits_BA, 0.0)
        fallback_B = torch.where(finite_B, int(Fallback.UNSURE), int(Fallback.NOT_FINITE))
        fallback_B = fallback_B.masked_fill(answers_B, Fallback.NONE).masked_fill(~exists_B, Fallback.EQUAL)
        return logits_BA, fallback_B.to(torch.int8)


def zeroed_nonfinite(obs_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Observations with 0 in place of numbers that are not finite, and which rows have none of those, bool (B,)."""
    finite_BF = obs_BF.isfinite()
    return torch.where(finite_BF, obs_BF, 0.0), finite_BF.all(dim=-1)


def fallback_counts(fallback_B: Tensor) -> dict[str, int]:
    """Rows by `Fallback`, in lower case: `{"none": 250, "unsure": 6, "not_finite": 0, "equal": 0}`."""
    counts = torch.bincount(fallback_B.flatten().long(), minlength=len(Fallback)).tolist()
    return {fallback.name.lower(): counts[fallback] for fallback in Fallback}
