"""The desk's policies outside RLlib: arrays in, actions out.

A `DeskActor` is built from settings and module states (as `RLModule.get_state()` returns, from a checkpoint or a
learner) and needs neither Ray nor an environment. Networks of one shape run as one batched matrix product;
`evaluation.inference` can select cheaper weights or cached outputs instead. Fall-backs of attention networks are
counted and logged in `fallbacks`. Noise is the caller's: without it actions are the means, with standard normal noise
they are samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.policies.attention.fallbacks import FallbackMonitor
from mtquant_rllib.policies.attention.policy import AttentionPolicy
from mtquant_rllib.policies.inference import PRECISIONS, CachedPolicy
from mtquant_rllib.policies.networks import GaussianPolicy, stack
from mtquant_rllib.policies.registry import build_policy, kind_of, network_configs

Array = NDArray[np.float32]
ModuleState = Mapping[str, Any]

POLICY_PREFIX = "policy."


class DeskActor:
    """The policies of a desk, or of the part of it whose states are given, or of an allocator.

    Observations are float32 arrays (B, n, width), of the n agents of a group in its order, or (B, width) for a group of
    one; actions come back with the same leading axes, clipped to [-1, 1].
    """

    def __init__(
        self, settings: Settings, states: Mapping[str, ModuleState], fallbacks: FallbackMonitor | None = None
    ) -> None:
        """fallbacks: a monitor that others share; None for one of its own."""
        policy_of, sharing = settings.universe.policy_of, settings.networks.sharing
        self._modules = {
            group.name: [policy_of(agent, sharing) for agent in group.agents] for group in agent_groups(settings)
        }
        self._configs = network_configs(settings)
        self._inference = settings.evaluation.inference
        self.fallbacks = fallbacks or FallbackMonitor(settings.tracking.fallback_seconds)
        self.load(states)

    def load(self, states: Mapping[str, ModuleState]) -> None:
        """Load weights, module id -> state; parts that are not the policy are ignored.

        Raises
        ------
        RunError
            When a state lacks parameters, or their shapes are not those of the settings.
        """
        policies = {name: self._loaded(name, states[name]) for name in self._configs if name in states}
        self._policies = {
            group: [policies[name] for name in names]
            for group, names in self._modules.items()
            if set(names) <= policies.keys()
        }
        self._stacked = {}
        for group, members in self._policies.items():
            stackable = all(kind_of(self._configs[name]).stackable for name in self._modules[group])
            if len(members) > 1 and stackable and self._inference.precision == "float32":
                self._stacked[group] = stack(members)

    def _loaded(self, name: str, state: ModuleState) -> nn.Module:
        policy = build_policy(self._configs[name])
        weights = {
            key.removeprefix(POLICY_PREFIX): item if isinstance(item, Tensor) else torch.tensor(item)
            for key, item in state.items()
            if key.startswith(POLICY_PREFIX)
        }
        try:
            policy.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise RunError(f"the state of {name} does not fit the network settings: {error}") from error
        return self._prepared(name, PRECISIONS[self._inference.precision](policy.eval().requires_grad_(False)))

    def _prepared(self, name: str, policy: GaussianPolicy) -> nn.Module:
        """The policy with its fall-backs recorded and, where configured, its outputs cached."""
        if not isinstance(policy, AttentionPolicy) or not self._inference.cached_rows:
            self.fallbacks.attach(name, policy)
            return policy
        record = partial(self.fallbacks.record, name, policy.shape)
        return CachedPolicy(policy, self._inference.cached_rows, record)

    def weight_bytes(self) -> int:
        """Bytes of the weights of all policies in use."""
        used = [[self._stacked[group]] if group in self._stacked else own for group, own in self._policies.items()]
        policies = {id(policy): policy for own in used for policy in own}
        return sum(item.nbytes for policy in policies.values() for item in policy.state_dict().values())

    def act(self, group: str, obs: Array, noise: Array | None = None) -> Array:
        """Actions of a group's agents: means, or samples with standard normal `noise` of the actions' shape."""
        with torch.inference_mode():
            mean, log_std = self._forward(group, _to_tensor(obs)).chunk(2, dim=-1)
            actions = mean if noise is None else mean + log_std.exp() * _to_tensor(noise)
            clipped: Array = actions.clamp(-1.0, 1.0).numpy()
        return clipped

    def _forward(self, group: str, obs: Tensor) -> Tensor:
        """(B, n, F) -> (B, n, 2A), or without n for a group of one."""
        if group not in self._policies:
            raise KeyError(f"no state was given for {group}")
        if obs.dim() == 2:
            (policy,) = self._policies[group]
            inputs: Tensor = policy(obs)
            return inputs
        if group in self._stacked:
            inputs = self._stacked[group](obs.transpose(0, 1)).transpose(0, 1)
            return inputs
        return torch.stack([policy(obs[:, i]) for i, policy in enumerate(self._policies[group])], dim=1)


def _to_tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
