"""The regime-aware attention network as a policy of the desk, and the value network beside it.

`networks.names.meta: attention` gives it to the meta-controller, `instrument` and `specialist` to theirs; the groups
are those of the agent's layout. The mean of the Gaussian is the network's logits, without dropout, so that runner and
learner agree; it is 0 where no head was finite. The deviation is that of the plain policies.

The policy loss alone does not train the regime classifier: the batched learners add `auxiliary_losses`, with the
detector's labels of the rows (`FeatureTable.regime`). Where a layout has the columns `regime_bull`, `regime_bear`,
`regime_volatile`, `regime_sideways`, and the caller gives no labels, the label is the largest of them (-1 if none is
positive); no layout of the desk has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mtquant_rllib.config.sections.attention import AttentionConfig
from mtquant_rllib.policies.attention.losses import NO_LABEL, auxiliary_losses
from mtquant_rllib.policies.attention.regime_network import Fallback, RegimeNetwork, RegimeOutput, zeroed_nonfinite
from mtquant_rllib.policies.attention.self_attention import RELU_GAIN, AttentionEncoder, dropout
from mtquant_rllib.policies.networks import (
    Dense,
    GaussianPolicy,
    GroupedShape,
    NetworkOptions,
    ValueFunction,
    ValueNetwork,
    linear_skip_layer,
)


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(NetworkOptions):
    """`attention` may be the plain dictionary of a module's config."""

    attention: AttentionConfig

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention", AttentionConfig.model_validate(self.attention))


class AttentionPolicy(GaussianPolicy):
    """Sizes are those of `networks.attention`; `hidden` of the options is not used."""

    shape: GroupedShape

    def __init__(self, shape: GroupedShape, options: AttentionOptions):
        super().__init__(shape, options)
        self.config = options.attention
        self.network = RegimeNetwork(shape, options.attention, options.last_layer_scale)
        if options.initial_mean and self.reference is None:
            # As the bias of every head, and so of any mixture of them.
            self.network.heads.bias_PA.data[:] = (
                torch.tensor(options.initial_mean) * options.attention.mixture.temperature
            )
        self.skip = linear_skip_layer(shape, options)

    def mean(self, obs_BF: Tensor) -> Tensor:
        return self.output(obs_BF).logits_BA

    def output(self, obs_BF: Tensor, need_weights: bool = False) -> RegimeOutput:
        """The policy's pass with all outputs: mean (`logits_BA`), fall-backs, regimes and where asked for attention.

        Where no head was finite the mean is the reference policy's."""
        output = self._departure(obs_BF, need_weights)
        if self.reference is None:
            return output
        clean_BF, _ = zeroed_nonfinite(obs_BF)
        return output._replace(logits_BA=self.from_reference(output.logits_BA, clean_BF))

    def _departure(self, obs_BF: Tensor, need_weights: bool) -> RegimeOutput:
        output: RegimeOutput = self.network(obs_BF, need_weights=need_weights)
        if self.skip is None:
            return output
        skip_BA = self.skip_output(obs_BF)
        exists_B = (output.fallback_B != Fallback.EQUAL) & skip_BA.isfinite().all(dim=-1)
        return output._replace(
            logits_BA=torch.where(exists_B[:, None], output.logits_BA + skip_BA, 0.0),
            fallback_B=output.fallback_B.masked_fill(~exists_B, Fallback.EQUAL),
        )

    def skip_output(self, obs_BF: Tensor) -> Tensor:
        """What the linear skip adds to the network's logits, (B, A)."""
        assert self.skip is not None
        clean_BF, _ = zeroed_nonfinite(obs_BF)
        skip_BA: Tensor = self.skip(clean_BF)
        return skip_BA

    @property
    def has_auxiliary_losses(self) -> bool:
        weights = self.config.losses
        return max(weights.classifier, weights.diversity, weights.consistency) > 0

    def auxiliary_losses(self, obs_BF: Tensor, labels_B: Tensor | None = None) -> dict[str, Tensor]:
        labels_B = self.observed_labels(obs_BF) if labels_B is None else labels_B
        return auxiliary_losses(self.network(obs_BF, drop=True, need_weights=True), labels_B, self.config.losses)

    def observed_labels(self, obs_BF: Tensor) -> Tensor | None:
        """The detector's labels in the observation, (B,); None where it has none."""
        if not self.shape.regime_columns:
            return None
        columns_BR = obs_BF[:, list(self.shape.regime_columns)]
        return columns_BR.argmax(dim=-1).masked_fill(~(columns_BR > 0).any(dim=-1), NO_LABEL)


class AttentionValue(ValueFunction):
    """An attention encoder and one head of the shape of a policy's: Linear, ReLU, Dropout, Linear."""

    def __init__(self, shape: GroupedShape, options: AttentionOptions):
        super().__init__()
        config = options.attention
        self.dropout = config.policy_heads.dropout
        self.encoder = AttentionEncoder(shape.widths, config)
        self.hidden = Dense(config.width, config.policy_heads.hidden, gain=RELU_GAIN)
        self.head = Dense(config.policy_heads.hidden, 1, gain=options.last_layer_scale)

    def features(self, obs_BF: Tensor, drop: bool = False) -> Tensor:
        clean_BF, _ = zeroed_nonfinite(obs_BF)
        pooled_BE, _ = self.encoder(clean_BF, drop)
        return dropout(functional.relu(self.hidden(pooled_BE)), self.dropout, drop)


def attention_value(shape: Any, options: AttentionOptions) -> ValueFunction:
    """The value network of `networks.attention.value`."""
    return (AttentionValue if options.attention.value == "attention" else ValueNetwork)(shape, options)
