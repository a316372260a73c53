"""The policies of one level as one function: where shapes agree, all of them in one batched matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtquant_rllib.policies.networks import stack
from mtquant_rllib.policies.registry import kind_of


def can_stack(modules: Sequence[Any]) -> bool:
    """Whether the modules are built alike, of a kind that runs stacked."""
    first = modules[0].model_config
    return kind_of(first).stackable and all(module.model_config == first for module in modules)


class PolicyBatch:
    """Policies of a level's modules, with the weights of the moment.

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

    def __call__(self, observations: np.ndarray, seats: np.ndarray | None) -> np.ndarray:
        """Distribution inputs (B, n, 2A) for observations (B, n, F); `seats` (B, n) as in `Level.seats`."""
        obs = torch.from_numpy(observations).to(self._device)
        if len(self._policies) == 1:
            inputs = self._policies[0](obs.flatten(0, 1)).unflatten(0, obs.shape[:2])
        elif self._stacked is not None and seats is None and self._one_to_one:
            inputs = self._stacked(obs.transpose(0, 1)).transpose(0, 1)
        elif self._stacked is not None and obs.shape[1] == 1 and seats is not None:
            # A few rows: all networks on all of them cost less than sorting rows by network.
            everyone = self._stacked(obs.transpose(0, 1).expand(len(self._policies), -1, -1))
            who = torch.from_numpy(self._members[seats[:, 0]])
            inputs = everyone[who, torch.arange(len(obs))][:, None]
        else:
            inputs = self._sorted(obs, seats)
        return inputs.cpu().numpy()

    def _sorted(self, obs: Tensor, seats: np.ndarray | None) -> Tensor:
        sitting = np.broadcast_to(np.arange(obs.shape[1]), obs.shape[:2]) if seats is None else seats
        who = torch.from_numpy(np.ascontiguousarray(self._members[sitting])).to(self._device)
        parts = [(who == number, policy) for number, policy in enumerate(self._policies)]
        answers = [(mine, policy(obs[mine])) for mine, policy in parts if mine.any()]
        inputs = obs.new_empty((*obs.shape[:2], answers[0][1].shape[-1]))
        for mine, answer in answers:
            inputs[mine] = answer
        return inputs
