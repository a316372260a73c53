"""The desk's policies outside RLlib: arrays in, actions out, as fast as a batched core can use them.

A `DeskActor` is built from settings and module states (what `RLModule.get_state()` returns, so a checkpoint or a
learner's weights) and needs neither Ray nor an environment. Equally shaped instrument networks run as one batched
matrix product; `evaluation.inference` asks for cheaper weights or remembered answers instead. Who took the decisions of
attention networks is counted and logged in `fallbacks`. Randomness is the caller's: without `noise` the actions are the
means, with standard normal `noise` they are samples, so that a draw can be a function of whatever the caller wants it
to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.policies.attention_policy import AttentionPolicy
from mtquant_rllib.policies.fallbacks import FallbackWatch
from mtquant_rllib.policies.inference import PRECISIONS, RememberingPolicy
from mtquant_rllib.policies.networks import GaussianPolicy, stack
from mtquant_rllib.policies.registry import build_policy, kind_of, network_configs

Array = NDArray[np.float32]
T = TypeVar("T")
ModuleState = Mapping[str, Any]

POLICY_PREFIX = "policy."
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Sample:
    """What a learner needs of a sampled decision. A = actions of the agent, leading axes as in the observation.

    raw
        The Gaussian's sample, (..., A); the environment gets it clipped to [-1, 1].
    log_prob
        Of `raw` under the policy, summed over actions, (...).
    inputs
        `[mean | log deviation]`, (..., 2A).
    """

    raw: Array
    log_prob: Array
    inputs: Array

    @property
    def actions(self) -> Array:
        return np.clip(self.raw, -1.0, 1.0)


class DeskActor:
    """The policies of a desk, or of the part of it whose states are given, or of an allocator.

    Observations are float32 arrays (B, n, width), of the n agents of a group in its order, or (B, width) for a group of
    one; actions come back with the same leading axes, clipped to [-1, 1].
    """

    def __init__(self, settings: Settings, states: Mapping[str, ModuleState]) -> None:
        policy_of, sharing = settings.universe.policy_of, settings.networks.sharing
        self._modules = {
            group.name: [policy_of(agent, sharing) for agent in group.agents] for group in agent_groups(settings)
        }
        self._configs = network_configs(settings)
        self._inference = settings.evaluation.inference
        self.fallbacks = FallbackWatch(settings.tracking.fallback_seconds)
        self.load(states)

    def load(self, states: Mapping[str, ModuleState]) -> None:
        """Take over new weights, module id -> state; parts that are not the policy are ignored.

        Raises
        ------
        RunError
            When a state lacks parameters, or they are of another shape than the settings say.
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
        """The policy as it is asked: listened to, and where configured remembered."""
        if not isinstance(policy, AttentionPolicy) or not self._inference.remembered_rows:
            self.fallbacks.attach(name, policy)
            return policy
        hear = partial(self.fallbacks.hear, name, policy.shape)
        return RememberingPolicy(policy, self._inference.remembered_rows, hear)

    def weight_bytes(self) -> int:
        """Memory of all weights that are asked, as they lie there."""
        asked = [[self._stacked[group]] if group in self._stacked else own for group, own in self._policies.items()]
        policies = {id(policy): policy for own in asked for policy in own}
        return sum(item.nbytes for policy in policies.values() for item in policy.state_dict().values())

    def act(self, group: str, obs: Array, noise: Array | None = None) -> Array:
        """Actions of a group's agents: means, or samples with standard normal `noise` of the actions' shape."""
        return _act(partial(self._ask, group), obs, noise)

    def sample(self, group: str, obs: Array, noise: Array) -> Sample:
        """The same with what a learner needs of it."""
        return _sample(partial(self._ask, group), obs, noise)

    def _ask(self, group: str, obs: Tensor) -> Tensor:
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


def _act(policy: Callable[[Tensor], Tensor], obs: Array, noise: Array | None) -> Array:
    with torch.inference_mode():
        mean, log_std = policy(_to_tensor(obs)).chunk(2, dim=-1)
        actions = mean if noise is None else mean + log_std.exp() * _to_tensor(noise)
        clipped: Array = actions.clamp(-1.0, 1.0).numpy()
    return clipped


def _sample(policy: Callable[[Tensor], Tensor], obs: Array, noise: Array) -> Sample:
    with torch.inference_mode():
        inputs = policy(_to_tensor(obs))
        mean, log_std = inputs.chunk(2, dim=-1)
        std = log_std.exp()
        raw = mean + std * _to_tensor(noise)
        # From the rounded sample and not from the noise: this is what the learner will recompute.
        log_prob = (-0.5 * ((raw - mean) / std).square() - log_std - HALF_LOG_TWO_PI).sum(-1)
    return Sample(raw.numpy(), log_prob.numpy(), inputs.numpy())
