"""Typed, frozen settings read from YAML. Values live in `configs/`; names and checks live here."""

from mtquant_rllib.config.settings import Settings

__all__ = ["Settings"]
