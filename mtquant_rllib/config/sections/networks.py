"""How the policy networks are built, beyond the sizes that `configs/agents.yaml` gives for meta and specialists."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import NonNegative, Positive, Section, Share, Width
from mtquant_rllib.config.sections.attention import AttentionConfig
from mtquant_rllib.universe import Sharing

Activation = Literal["tanh", "relu", "silu", "elu"]


class NetworkNames(Section):
    """Which entry of the registry of networks serves each level of the desk."""

    meta: str
    specialist: str
    instrument: str


class ValueHidden(Section):
    """Hidden sizes of the value trunks; `null` takes the sizes of the policy trunk of the same level."""

    meta: tuple[Width, ...] | None
    specialist: tuple[Width, ...] | None
    instrument: tuple[Width, ...] | None


class LinearSkip(Section):
    """Which levels add a linear path from the inputs to the means, beside the trunk."""

    meta: bool
    specialist: bool
    instrument: bool


class NetworksConfig(Section):
    names: NetworkNames
    sharing: Sharing
    """Which instrument agents share one module: `none`, `domain` (one per domain) or `all` (one for all)."""
    instrument_hidden: tuple[Width, ...] = Field(min_length=1)
    value_hidden: ValueHidden
    activation: Activation
    linear_skip: LinearSkip
    initial_std: Positive
    """Deviation of every action component before training; actions live in [-1, 1]."""
    min_std: NonNegative
    """Deviation below which training cannot push a component; approached smoothly."""
    initial_appetite: Share
    """Risk appetite that the meta-controller's mean begins with; allocations begin equal."""
    last_layer_scale: Positive
    """Gain of the last layer of every policy and value trunk: first actions and values lie near 0."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Of networks of one's own, by their name in `names`: what their options hold besides the common ones."""
    attention: AttentionConfig
    """Used by the levels whose name is `attention`."""

    @model_validator(mode="after")
    def _starts_above_min_std(self) -> NetworksConfig:
        if self.initial_std <= self.min_std:
            raise ValueError(f"initial_std {self.initial_std} must lie above min_std {self.min_std}")
        return self
