"""How networks of unlike shapes run as one stack: which columns of a common shape each of them has.

Specialists differ in how many instruments and domain features they see, and in nothing else. In the shape of the
largest, an absent feature is a column that is always zero, an absent instrument a block that nothing is read from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.policies.networks import LOGITS_PER_INSTRUMENT, SpecialistShape
from mtquant_rllib.policies.registry import kind_of, shape_of


@dataclass(frozen=True)
class Fit:
    """Where a network's columns stand in those of the common shape.

    observation, actions
        Of what it reads and puts out, int64.
    parameters
        Of the last axis of each parameter that is narrower than the common one, by name.
    """

    observation: np.ndarray
    actions: np.ndarray
    parameters: Mapping[str, np.ndarray]


def joined(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One configuration, of `registry.network_configs`, that all of these fit into; None where there is none."""
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


def fit(config: Mapping[str, Any], common: Mapping[str, Any]) -> Fit:
    """How a network fits into a configuration that `joined` gave."""
    own, whole = shape_of(config), shape_of(common)
    if own == whole:
        return Fit(np.arange(own.observation), np.arange(own.actions), {})
    assert isinstance(own, SpecialistShape)
    assert isinstance(whole, SpecialistShape)
    state = whole.domain + whole.n_instruments * whole.block + np.arange(own.state)
    blocks = whole.domain + np.arange(own.n_instruments * own.block)
    observation = np.concatenate((np.arange(own.domain), blocks, state))
    logits = np.arange(LOGITS_PER_INSTRUMENT * own.n_instruments)
    actions = np.append(logits, LOGITS_PER_INSTRUMENT * whole.n_instruments)
    situation = np.concatenate((np.arange(own.domain), whole.domain + np.arange(own.state)))
    parameters = {
        "policy.rho": actions,
        "policy.encoder.0.weight": situation,
        "policy.skip_logits.weight": np.concatenate((np.arange(own.block), own.block + situation)),
        "policy.skip_confidence.weight": situation,
        "value.trunk.0.weight": observation,
    }
    return Fit(observation, actions, parameters)


def presence(configs: Sequence[Mapping[str, Any]], common: Mapping[str, Any]) -> np.ndarray | None:
    """Each instrument's share in a specialist's mean over its own, (S, N); None where all have all."""
    whole = shape_of(common)
    if not isinstance(whole, SpecialistShape) or all(config["shape"] == common["shape"] for config in configs):
        return None
    counts = np.array([config["shape"]["n_instruments"] for config in configs])[:, None]
    shares: np.ndarray = (np.arange(whole.n_instruments) < counts) / counts
    return shares
