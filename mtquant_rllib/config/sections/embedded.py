"""Which synthetic paths serve for training, validation and test (`configs/embedded.yaml`)."""

from __future__ import annotations

from typing import Literal

from mtquant_rllib.config.base import Section, Seed, Window, Years


class PathsConfig(Section):
    """paths: independent histories; years: length of each, warm-up included."""

    paths: Window
    years: Years


class EmbeddedConfig(Section):
    """seed: of the market alone, so that training seeds share their bars.

    variant
        Of `market.synthetic.synthesise`; or `leak`, the null market with a leak in an allocator's features.
    """

    variant: Literal["default", "planted", "null", "leak"]
    seed: Seed
    train: PathsConfig
    validation: PathsConfig
    test: PathsConfig

    @property
    def bars(self) -> Literal["default", "planted", "null"]:
        """The variant that the bars are drawn from."""
        return "null" if self.variant == "leak" else self.variant

    def of(self, split: str) -> PathsConfig:
        return getattr(self, split)
