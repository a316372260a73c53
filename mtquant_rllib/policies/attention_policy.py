"""The regime-aware attention network as a policy of the desk, and the value network beside it.

`networks.names.meta: attention` gives it to the meta-controller, `instrument` and `specialist` to theirs; the groups
are those of the agent's layout. The mean of the Gaussian is the network's logits, without dropout, so that runner and
learner agree; a row that fell back to nothing has mean 0. The deviation is the plain policies'.

A policy loss alone does not teach the classifier what regimes are: the batched learners, of PPO and of SAC, add
`auxiliary_losses`, and give them the detector's labels of the rows (`FeatureTable.regime`), since no layout of the desk
carries them. Where a layout has the
four columns `regime_bull`, `regime_bear`, `regime_volatile`, `regime_sideways`, the label is the largest of them (-1
if none is positive), and labels given by the caller stand before it. (The classifier then reads its answer off its
input: a test of wiring, not of insight.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mtquant_rllib.config.attention import AttentionConfig
from mtquant_rllib.policies.attention import RELU_GAIN, AttentionEncoder, dropped
from mtquant_rllib.policies.attention_losses import NO_LABEL, auxiliary_losses
from mtquant_rllib.policies.networks import (
    Dense,
    GaussianPolicy,
    GroupedShape,
    NetworkOptions,
    ValueFunction,
    ValueNetwork,
    straight_line,
)
from mtquant_rllib.policies.regime_network import Fallback, RegimeAnswer, RegimeNetwork, cleaned


@dataclass(frozen=True)
class AttentionOptions(NetworkOptions):
    """`attention` may be given as the plain dictionary that travels in a module's config."""

    attention: AttentionConfig

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention", AttentionConfig.model_validate(self.attention))


class AttentionPolicy(GaussianPolicy):
    """`hidden` of the options is not used: the sizes are those of `networks.attention`."""

    shape: GroupedShape

    def __init__(self, shape: GroupedShape, options: AttentionOptions):
        super().__init__(shape, options)
        self.config = options.attention
        self.network = RegimeNetwork(shape, options.attention, options.last_layer_scale)
        if options.initial_mean:
            # Every head begins with it, and so does any mixture of them.
            self.network.heads.bias_PA.data[:] = (
                torch.tensor(options.initial_mean) * options.attention.mixture.temperature
            )
        self.skip = straight_line(shape, options)

    def mean(self, obs_BF: Tensor) -> Tensor:
        return self.answer(obs_BF).logits_BA

    def answer(self, obs_BF: Tensor, look: bool = False) -> RegimeAnswer:
        """The policy's pass with everything it says besides the mean (`logits_BA`): fall-backs, regimes and, to look
        at, attention."""
        answer: RegimeAnswer = self.network(obs_BF, look=look)
        if self.skip is None:
            return answer
        line_BA = self.line(obs_BF)
        exists_B = (answer.fallback_B != Fallback.EQUAL) & line_BA.isfinite().all(dim=-1)
        return answer._replace(
            logits_BA=torch.where(exists_B[:, None], answer.logits_BA + line_BA, 0.0),
            fallback_B=answer.fallback_B.masked_fill(~exists_B, Fallback.EQUAL),
        )

    def line(self, obs_BF: Tensor) -> Tensor:
        """What the straight line beside the network adds to its logits, (B, A)."""
        assert self.skip is not None
        clean_BF, _ = cleaned(obs_BF)
        line_BA: Tensor = self.skip(clean_BF)
        return line_BA

    @property
    def teaches(self) -> bool:
        weights = self.config.losses
        return max(weights.classifier, weights.diversity, weights.consistency) > 0

    def auxiliary_losses(self, obs_BF: Tensor, labels_B: Tensor | None = None) -> dict[str, Tensor]:
        labels_B = self.observed_labels(obs_BF) if labels_B is None else labels_B
        return auxiliary_losses(self.network(obs_BF, drop=True, look=True), labels_B, self.config.losses)

    def observed_labels(self, obs_BF: Tensor) -> Tensor | None:
        """The detector's labels that the observation carries, (B,), or None."""
        if not self.shape.regime_columns:
            return None
        columns_BR = obs_BF[:, list(self.shape.regime_columns)]
        return columns_BR.argmax(dim=-1).masked_fill(~(columns_BR > 0).any(dim=-1), NO_LABEL)


class AttentionValue(ValueFunction):
    """An attention trunk of its own with one head, shaped like a policy's: Linear, ReLU, Dropout, Linear."""

    def __init__(self, shape: GroupedShape, options: AttentionOptions):
        super().__init__()
        config = options.attention
        self.dropout = config.policy_heads.dropout
        self.encoder = AttentionEncoder(shape.widths, config)
        self.hidden = Dense(config.width, config.policy_heads.hidden, gain=RELU_GAIN)
        self.head = Dense(config.policy_heads.hidden, 1, gain=options.last_layer_scale)

    def features(self, obs_BF: Tensor, drop: bool = False) -> Tensor:
        clean_BF, _ = cleaned(obs_BF)
        pooled_BE, _ = self.encoder(clean_BF, drop)
        return dropped(functional.relu(self.hidden(pooled_BE)), self.dropout, drop)


def attention_value(shape: Any, options: AttentionOptions) -> ValueFunction:
    """The value network that `networks.attention.value` asks for."""
    return (AttentionValue if options.attention.value == "attention" else ValueNetwork)(shape, options)
