"""What the environment makes of raw actions, written once for arrays and for tensors.

    allocation    logits of the domains and appetite    -> shares of capital, what is capped staying in cash; appetite
    views         (buy, hold, sell) logits of each instrument and confidence -> intents P(buy) - P(sell); confidence
    bounded       signal, urgency, stop                 -> the same, as far as their bounds
    simplex       a logit of each asset                 -> weights that sum to 1

Raw actions are clipped to [-1, 1] first, so that a Gaussian policy's tails mean "all the way". Scalars that the
environment maps from [-1, 1] to their range stay in [-1, 1] here: the better scale to learn from, and one line away
from the range (`env.decisions`). Logits that differ by a constant are one portfolio: critics read weights, so that they
need not learn it.

Shapes: any leading axes, then raw actions, then what is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

LOGITS_PER_INSTRUMENT = 3


class Operations(Protocol):
    """The few operations that a map is made of, for one kind of array."""

    def clip(self, raw: Any) -> Any:
        """To [-1, 1]."""

    def softmax(self, logits: Any) -> Any:
        """Along the last axis."""

    def at_most(self, values: Any, bound: float) -> Any: ...

    def where(self, mask: Any, value: float, other: Any) -> Any: ...

    def side_by_side(self, *parts: Any) -> Any:
        """Along the last axis."""

    def by_instrument(self, logits: Any) -> Any:
        """(..., 3 n) -> (..., n, 3)."""


class NumpyOperations:
    """For arrays."""

    def clip(self, raw: np.ndarray) -> np.ndarray:
        return np.clip(raw, -1.0, 1.0)

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Logits are bounded by the decision's scale, so nothing overflows."""
        powers = np.exp(logits)
        # A sum over a handful of columns is several times faster as additions than as a reduction.
        total = sum(powers[..., k] for k in range(1, powers.shape[-1])) + powers[..., 0]
        shares: np.ndarray = powers / total[..., None]
        return shares

    def at_most(self, values: np.ndarray, bound: float) -> np.ndarray:
        return np.minimum(values, bound)

    def where(self, mask: np.ndarray, value: float, other: np.ndarray) -> np.ndarray:
        return np.where(mask, value, other)

    def side_by_side(self, *parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts, axis=-1)

    def by_instrument(self, logits: np.ndarray) -> np.ndarray:
        return logits.reshape(*logits.shape[:-1], -1, LOGITS_PER_INSTRUMENT)


NUMPY = NumpyOperations()


def allocation(raw: Any, numbers: Mapping[str, Any], ops: Operations) -> Any:
    """Shares of capital (..., D) and appetite. A share is capped, not renormalised; small ones snap to 0."""
    raw = ops.clip(raw)
    shares = ops.softmax(raw[..., :-1] * numbers["logit_scale"])
    shares = ops.where(shares < numbers["dead_band"], 0.0, ops.at_most(shares, numbers["allocation_cap"]))
    appetite = raw[..., -1:]
    off = (appetite + 1.0) * 0.5 < numbers["dead_band"]
    return ops.side_by_side(shares, ops.where(off, -1.0, appetite))


def views(raw: Any, numbers: Mapping[str, Any], ops: Operations) -> Any:
    """Intents (..., n) in [-1, 1] and confidence."""
    raw = ops.clip(raw)
    probability = ops.softmax(ops.by_instrument(raw[..., :-1]) * numbers["logit_scale"])
    return ops.side_by_side(probability[..., 0] - probability[..., 2], raw[..., -1:])


def simplex(raw: Any, numbers: Mapping[str, Any], ops: Operations) -> Any:
    """Long-only weights (..., n) that sum to 1."""
    return ops.softmax(ops.clip(raw) * numbers["logit_scale"])


def bounded(raw: Any, numbers: Mapping[str, Any], ops: Operations) -> Any:
    """Signal, urgency and stop, each as far as its bound."""
    return ops.clip(raw)


def _same(actions: int) -> int:
    return actions


def _per_instrument(actions: int) -> int:
    return (actions - 1) // LOGITS_PER_INSTRUMENT + 1


@dataclass(frozen=True)
class ActionMap:
    """One kind of agent's map, its width by that of the raw action, and what it gives in words."""

    make: Callable[[Any, Mapping[str, Any], Operations], Any]
    width: Callable[[int], int]
    gives: str

    def columns(self, actions: int, common: int) -> np.ndarray:
        """Where those of a network with so many raw actions stand beside those of one with `common`: what is absent
        lies before the last column."""
        own, whole = self.width(actions), self.width(common)
        return np.append(np.arange(own - 1), whole - 1)


ACTION_MAPS: dict[str, ActionMap] = {
    "allocation": ActionMap(allocation, _same, "allocations and risk appetite"),
    "views": ActionMap(views, _per_instrument, "intents and confidence"),
    "bounded": ActionMap(bounded, _same, "signal, urgency and stop"),
    "simplex": ActionMap(simplex, _same, "weights"),
}
