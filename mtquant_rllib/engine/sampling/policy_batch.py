"""The policies of one level as one function; policies of one shape run as one batched matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtquant_rllib.policies.networks import stack
from mtquant_rllib.policies.registry import kind_of


def can_stack(modules: Sequence[Any]) -> bool:
    """Whether the modules have one configuration, of a network that runs stacked."""
    first = modules[0].model_config
    return kind_of(first).stackable and all(module.model_config == first for module in modules)


class PolicyBatch:
    """The policies of a level's modules, with their present weights.

    members
        Index into `modules` of each of the level's agents.
    """

    def __init__(self, modules: Sequence[Any], members: np.ndarray) -> None:
        self._members = members
        policies = [module.policy for module in modules]
        self._device = next(policies[0].parameters()).device
        self._policies: Sequence[nn.Module] = policies
        self._stacked = stack(policies) if len(policies) > 1 and can_stack(modules) else None
        self._one_to_one = len(policies) == len(members)

    def __call__(self, observations: np.ndarray, acting: np.ndarray | None) -> np.ndarray:
        """`[mean | log deviation]` (B, n, 2A) for observations (B, n, F). acting: int (B, n) as `Level.acting`
        returns."""
        obs = torch.from_numpy(observations).to(self._device)
        if len(self._policies) == 1:
            inputs = self._policies[0](obs.flatten(0, 1)).unflatten(0, obs.shape[:2])
        elif self._stacked is not None and acting is None and self._one_to_one:
            inputs = self._stacked(obs.transpose(0, 1)).transpose(0, 1)
        elif self._stacked is not None and obs.shape[1] == 1 and acting is not None:
            # With few rows, all networks on all rows cost less than grouping rows by network.
            all_inputs = self._stacked(obs.transpose(0, 1).expand(len(self._policies), -1, -1))
            module_index = torch.from_numpy(self._members[acting[:, 0]])
            inputs = all_inputs[module_index, torch.arange(len(obs))][:, None]
        else:
            inputs = self._by_policy(obs, acting)
        return inputs.cpu().numpy()

    def _by_policy(self, obs: Tensor, acting: np.ndarray | None) -> Tensor:
        """Each policy on the rows that are its own."""
        agents = np.broadcast_to(np.arange(obs.shape[1]), obs.shape[:2]) if acting is None else acting
        module_index = torch.from_numpy(np.ascontiguousarray(self._members[agents])).to(self._device)
        masks = [(module_index == number, policy) for number, policy in enumerate(self._policies)]
        outputs = [(mask, policy(obs[mask])) for mask, policy in masks if mask.any()]
        inputs = obs.new_empty((*obs.shape[:2], outputs[0][1].shape[-1]))
        for mask, output in outputs:
            inputs[mask] = output
        return inputs
