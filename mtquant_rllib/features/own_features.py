"""Features of one's own, named in the settings (`features.own`): columns of the market table like any other.

Only whoever builds a table needs their code: what reads it knows a column by its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mtquant_rllib.config.sections.features import FeaturesConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import code_hash, extension
from mtquant_rllib.features.layout import OWN
from mtquant_rllib.features.registry import Feature

ENTRY_POINTS = "mtquant_rllib.features"
"""Group of the entry points by which an installed package offers features by name."""


def own_features(key: str, named: Mapping[str, str]) -> dict[str, Feature]:
    """Features by column, in their order. key: where they stand below `features.own`; named: column -> function's name.

    Raises
    ------
    ConfigError
        When a function cannot be found or is none; and, once it is called, when it fails or returns another shape.
    """
    return {name: _feature(f"features.own.{key}.{name}", name, target) for name, target in named.items()}


def _feature(setting: str, name: str, target: str) -> Feature:
    compute = extension(setting, target, ENTRY_POINTS)
    if not callable(compute):
        raise ConfigError(f"{setting}: {target} is no function")
    says = (inspect.getdoc(compute) or target).partition("\n")[0]
    return Feature(name, OWN, says, partial(_checked, setting, compute))


def _checked(setting: str, compute: Callable[[Any], Any], seen: Any) -> np.ndarray:
    """What the function makes of own bars or of a domain's view: numbers of their shape, NaN where it knows nothing."""
    try:
        values = np.asarray(compute(seen), dtype=np.float64)
    except Exception as error:
        raise ConfigError(f"{setting} fails: {type(error).__name__}: {error}") from error
    if values.shape != seen.shape:
        raise ConfigError(f"{setting} returns an array of shape {values.shape}; expected {seen.shape}")
    if np.isinf(values).any():
        raise ConfigError(f"{setting} returns an infinite number")
    return values


def own_code(config: FeaturesConfig) -> dict[str, str]:
    """Hash of the file that each function stands in, by its name: a changed function makes another table."""
    named = {"instrument": config.own.instrument} | {f"domains.{d}": own for d, own in config.own.domains.items()}
    return {
        target: code_hash(extension(f"features.own.{key}.{name}", target, ENTRY_POINTS))
        for key, own in named.items()
        for name, target in own.items()
    }
