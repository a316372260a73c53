"""What the environment makes of raw actions, as torch sees it: the critics of an off-policy learner read this, and
whoever asks what a decision rests on.

Many logits are one portfolio, and everything beyond a bound is the bound. A critic that reads logits has to find that
out; one that reads weights is told. The formulas are those of `env.decisions`, and a test holds the two together.
Gradients flow where the environment answers to a small change, and not where it does not: beyond a clip, above the cap,
below the snap.

Scalars that the environment maps from [-1, 1] to their range stay in [-1, 1], which is the better scale to learn from.

Shape suffixes: any leading axes; A raw actions, W executed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtquant_rllib.config import Settings
from mtquant_rllib.policies.networks import LOGITS_PER_INSTRUMENT
from mtquant_rllib.universe import META, Universe


def allocation(raw_A: Tensor, numbers: Mapping[str, Any]) -> Tensor:
    """Allocation logits and appetite -> allocations, what is capped staying in cash, and appetite."""
    raw_A = raw_A.clamp(-1.0, 1.0)
    shares = (raw_A[..., :-1] * numbers["logit_scale"]).softmax(dim=-1)
    shares = torch.where(shares < numbers["snap_below"], 0.0, shares.clamp(max=numbers["allocation_cap"]))
    appetite = raw_A[..., -1:]
    off = (appetite + 1.0) * 0.5 < numbers["snap_below"]
    return torch.cat((shares, torch.where(off, -1.0, appetite)), dim=-1)


def views(raw_A: Tensor, numbers: Mapping[str, Any]) -> Tensor:
    """(buy, hold, sell) logits of each instrument and confidence -> intents P(buy) - P(sell), and confidence."""
    raw_A = raw_A.clamp(-1.0, 1.0)
    logits = raw_A[..., :-1].unflatten(-1, (-1, LOGITS_PER_INSTRUMENT)) * numbers["logit_scale"]
    probability = logits.softmax(dim=-1)
    return torch.cat((probability[..., 0] - probability[..., 2], raw_A[..., -1:]), dim=-1)


def simplex(raw_A: Tensor, numbers: Mapping[str, Any]) -> Tensor:
    """An allocator's logits -> weights."""
    return (raw_A.clamp(-1.0, 1.0) * numbers["logit_scale"]).softmax(dim=-1)


def bounded(raw_A: Tensor, numbers: Mapping[str, Any]) -> Tensor:
    """Signal, urgency and stop, each as far as its bound."""
    return raw_A.clamp(-1.0, 1.0)


def _same(actions: int) -> int:
    return actions


def _per_instrument(actions: int) -> int:
    return (actions - 1) // LOGITS_PER_INSTRUMENT + 1


@dataclass(frozen=True)
class Execution:
    """One level's map, its width by that of the raw action, and what it gives in words."""

    make: Callable[[Tensor, Mapping[str, Any]], Tensor]
    width: Callable[[int], int]
    gives: str

    def columns(self, actions: int, common: int) -> np.ndarray:
        """Where those of a network with so many raw actions stand beside those of one with `common` (`joining`): what
        is absent lies before the last column."""
        own, whole = self.width(actions), self.width(common)
        return np.append(np.arange(own - 1), whole - 1)


EXECUTIONS: dict[str, Execution] = {
    "allocation": Execution(allocation, _same, "allocations and risk appetite"),
    "views": Execution(views, _per_instrument, "intents and confidence"),
    "bounded": Execution(bounded, _same, "signal, urgency and stop"),
    "simplex": Execution(simplex, _same, "weights"),
}


def execution_of(module: str, universe: Universe) -> str:
    """The key of a module's map."""
    if universe.allocates:
        return "simplex"
    return "allocation" if module == META else "views" if module in universe.specialists else "bounded"


def numbers_of(settings: Settings) -> dict[str, float]:
    """The numbers that the maps need, as a plain dictionary."""
    if settings.allocator is not None:
        return {"logit_scale": settings.allocator.logit_scale}
    config = settings.desk.decision
    return {name: getattr(config, name) for name in ("logit_scale", "snap_below", "allocation_cap")}
