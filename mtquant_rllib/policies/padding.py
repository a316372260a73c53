"""Padding of networks to a common shape, so that they run as one stack.

Specialists differ only in the numbers of their instruments and domain features. In the common shape, that of the
largest, an absent feature is a column of zeros, and an absent instrument a block that nothing is read from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.policies.networks import LOGITS_PER_INSTRUMENT, SpecialistShape
from mtquant_rllib.policies.registry import kind_of, shape_of


@dataclass(frozen=True)
class ColumnMap:
    """The columns of the common shape that a network has.

    observation, actions
        Of its inputs and outputs, int64.
    parameters
        Of the last axis of each parameter that is narrower than in the common shape, by name.
    """

    observation: np.ndarray
    actions: np.ndarray
    parameters: Mapping[str, np.ndarray]


def common_config(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The configuration (as of `registry.network_configs`) into which all of these fit; None where there is none."""
    first = configs[0]
    if len(configs) == 1:
        return dict(first)
    if not kind_of(first).stackable or any(
        (config["network"], config["options"]) != (first["network"], first["options"]) for config in configs
    ):
        return None
    if all(config["shape"] == first["shape"] for config in configs):
        return dict(first)
    shapes = [shape_of(config) for config in configs]
    if not all(isinstance(shape, SpecialistShape) for shape in shapes):
        return None
    specialists = [shape for shape in shapes if isinstance(shape, SpecialistShape)]
    if len({(shape.block, shape.state) for shape in specialists}) > 1:
        return None
    largest = {key: max(getattr(shape, key) for shape in specialists) for key in ("domain", "n_instruments")}
    return {**first, "shape": {**first["shape"], **largest}}


def column_map(config: Mapping[str, Any], common: Mapping[str, Any]) -> ColumnMap:
    """The columns that a network has in a configuration from `common_config`."""
    own, common_shape = shape_of(config), shape_of(common)
    if own == common_shape:
        return ColumnMap(np.arange(own.observation), np.arange(own.actions), {})
    assert isinstance(own, SpecialistShape)
    assert isinstance(common_shape, SpecialistShape)
    state = common_shape.domain + common_shape.n_instruments * common_shape.block + np.arange(own.state)
    blocks = common_shape.domain + np.arange(own.n_instruments * own.block)
    observation = np.concatenate((np.arange(own.domain), blocks, state))
    logits = np.arange(LOGITS_PER_INSTRUMENT * own.n_instruments)
    actions = np.append(logits, LOGITS_PER_INSTRUMENT * common_shape.n_instruments)
    context = np.concatenate((np.arange(own.domain), common_shape.domain + np.arange(own.state)))
    parameters = {
        "policy.rho": actions,
        "policy.encoder.0.weight": context,
        "policy.skip_logits.weight": np.concatenate((np.arange(own.block), own.block + context)),
        "policy.skip_confidence.weight": context,
        "value.trunk.0.weight": observation,
    }
    return ColumnMap(observation, actions, parameters)


def instrument_weights(configs: Sequence[Mapping[str, Any]], common: Mapping[str, Any]) -> np.ndarray | None:
    """Weights of the instruments in each specialist's mean, (S, N); None where all have all."""
    common_shape = shape_of(common)
    if not isinstance(common_shape, SpecialistShape) or all(config["shape"] == common["shape"] for config in configs):
        return None
    counts = np.array([config["shape"]["n_instruments"] for config in configs])[:, None]
    weights: np.ndarray = (np.arange(common_shape.n_instruments) < counts) / counts
    return weights
