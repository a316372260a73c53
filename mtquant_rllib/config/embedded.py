"""Which synthetic paths serve for training, validation and test (`configs/embedded.yaml`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtquant_rllib.config.base import Count, Positive, Section


class PathsConfig(Section):
    """paths: independent histories; years: length of each, warm-up included."""

    paths: Count
    years: Positive


class EmbeddedConfig(Section):
    """seed: of the market alone, so that training seeds share their bars.

    variant
        Of `market.synthetic.synthesise`; or `leak`, the null market with a leak in an allocator's features.
    """

    variant: Literal["default", "planted", "null", "leak"]
    seed: int = Field(ge=0)
    train: PathsConfig
    validation: PathsConfig
    test: PathsConfig

    @property
    def bars(self) -> Literal["default", "planted", "null"]:
        """The variant that the bars are drawn from."""
        return "null" if self.variant == "leak" else self.variant

    def of(self, split: str) -> PathsConfig:
        return getattr(self, split)
