"""The action maps (`agents.action_maps`) on tensors, for critics and for explanations.

The gradient is zero where the environment ignores a small change of the action: beyond a clip, above the cap, below the
snap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtquant_rllib.agents.action_maps import ACTION_MAPS, LOGITS_PER_INSTRUMENT


class TorchOperations:
    """The operations of an action map, for tensors."""

    def clip(self, raw: Tensor) -> Tensor:
        return raw.clamp(-1.0, 1.0)

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)

    def at_most(self, values: Tensor, bound: float) -> Tensor:
        return values.clamp(max=bound)

    def where(self, mask: Tensor, value: float, other: Tensor) -> Tensor:
        return torch.where(mask, value, other)

    def side_by_side(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=-1)

    def by_instrument(self, logits: Tensor) -> Tensor:
        return logits.unflatten(-1, (-1, LOGITS_PER_INSTRUMENT))


TORCH = TorchOperations()


def apply_action_map(action_map: str, raw: Tensor, numbers: Mapping[str, Any]) -> Tensor:
    """Executed actions (..., W) from raw actions (..., A), by the map of that name."""
    result: Tensor = ACTION_MAPS[action_map].make(raw, numbers, TORCH)
    return result
