"""The regime-aware attention network: section `networks.attention` of the settings (`configs/networks.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import NUMBER, Fraction, NonNegative, Positive, Section, ShareBelowOne, Width


class RegimeClassifierConfig(Section):
    """hidden: sizes between the pooled features and the regimes."""

    hidden: tuple[Width, ...] = Field(min_length=1)
    dropout: ShareBelowOne


class PolicyHeadsConfig(Section):
    """Each regime's head and the global one: one hidden layer."""

    hidden: Width
    dropout: ShareBelowOne


class RegimeMixtureConfig(Section):
    """How the heads become one answer.

    regime_share
        Weight of the regimes' heads; the global head has the rest.
    temperature
        Divides the mixed logits.
    min_confidence
        Below this largest class probability the global head answers alone.
    """

    regime_share: Fraction
    temperature: Positive
    min_confidence: Fraction


class AuxiliaryLossesConfig(Section):
    """Weights of the losses beside the agent's own, and what the last two pull toward (fractions)."""

    classifier: NonNegative
    diversity: NonNegative
    diversity_target: Fraction
    consistency: NonNegative
    consistency_target: Fraction


class AttentionConfig(Section):
    """See `configs/networks.yaml` for the values.

    width
        Of a group's token and of everything until the heads.
    feedforward
        Hidden width of a feed-forward block after each attention layer; null for none.
    dropout
        In the embedding, after each attention layer and after its feed-forward block.
    linear_skip
        A straight line from the observation to the logits, beside the mixture of heads.
    value
        What estimates the return beside an attention policy: `attention`, a trunk of the same kind, or `plain`.
    """

    width: Width
    layers: Annotated[int, Field(ge=1, le=1000), NUMBER]
    heads: Width
    feedforward: Width | None
    dropout: ShareBelowOne
    classifier: RegimeClassifierConfig
    policy_heads: PolicyHeadsConfig
    mixture: RegimeMixtureConfig
    losses: AuxiliaryLossesConfig
    linear_skip: bool
    value: Literal["attention", "plain"]

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> AttentionConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self
