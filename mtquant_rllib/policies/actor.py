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

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.policies.attention_policy import AttentionPolicy
from mtquant_rllib.policies.fallbacks import FallbackWatch
from mtquant_rllib.policies.inference import PRECISIONS, RememberingPolicy
from mtquant_rllib.policies.networks import GaussianPolicy, stack
from mtquant_rllib.policies.registry import DeskWidths, build_policy, kind_of, network_configs
from mtquant_rllib.universe import ALLOCATOR, META, Universe

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

    Observations are float32 arrays (B, width), of instruments (B, n_instruments, width) in the order of the universe;
    actions come back with the same leading axes, clipped to [-1, 1].
    """

    def __init__(
        self, universe: Universe, widths: DeskWidths, settings: Settings, states: Mapping[str, ModuleState]
    ) -> None:
        self._universe = universe
        self._sharing = settings.networks.sharing
        self._configs = network_configs(universe, widths, settings)
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
        self._meta = policies.get(META)
        self._specialists = [policies.get(name) for name in self._universe.specialists]
        self._allocator = policies.get(ALLOCATOR)
        self._instruments: list[nn.Module] | None = None
        self._stacked = None
        if self._universe.allocates:
            return
        ids = [self._universe.policy_of(symbol, self._sharing) for symbol in self._universe.symbols]
        self._instruments = [policies[name] for name in ids] if set(ids) <= set(policies) else None
        stackable = all(kind_of(self._configs[name]).stackable for name in ids)
        stacks = stackable and self._inference.precision == "float32"
        self._stacked = stack(self._instruments) if self._instruments is not None and stacks else None

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
        instruments = [self._stacked] if self._stacked is not None else list(self._instruments or ())
        policies = {
            id(policy): policy for policy in (self._allocator, self._meta, *self._specialists, *instruments) if policy
        }
        return sum(item.nbytes for policy in policies.values() for item in policy.state_dict().values())

    def act_allocator(self, obs: Array, noise: Array | None = None) -> Array:
        """A logit of each asset, (B, n_instruments)."""
        return _act(_present(self._allocator, ALLOCATOR), obs, noise)

    def act_meta(self, obs: Array, noise: Array | None = None) -> Array:
        """Allocation logits and risk appetite, (B, n_domains + 1)."""
        return _act(_present(self._meta, META), obs, noise)

    def act_specialist(self, d: int, obs: Array, noise: Array | None = None) -> Array:
        """(buy, hold, sell) logits per instrument of domain `d`, then confidence, (B, 3 * n_d + 1)."""
        return _act(_present(self._specialists[d], self._universe.specialists[d]), obs, noise)

    def act_instruments(self, obs: Array, noise: Array | None = None) -> Array:
        """Signal, urgency and stop distance of every instrument, (B, n_instruments, 3)."""
        return _act(self._instrument_policy, obs, noise)

    def sample_meta(self, obs: Array, noise: Array) -> Sample:
        return _sample(_present(self._meta, META), obs, noise)

    def sample_specialist(self, d: int, obs: Array, noise: Array) -> Sample:
        return _sample(_present(self._specialists[d], self._universe.specialists[d]), obs, noise)

    def sample_instruments(self, obs: Array, noise: Array) -> Sample:
        return _sample(self._instrument_policy, obs, noise)

    def _instrument_policy(self, obs: Tensor) -> Tensor:
        """(B, n_instruments, F) -> (B, n_instruments, 2A)."""
        if self._stacked is not None:
            inputs: Tensor = self._stacked(obs.transpose(0, 1)).transpose(0, 1)
            return inputs
        policies = _present(self._instruments, "the instruments")
        return torch.stack([policy(obs[:, i]) for i, policy in enumerate(policies)], dim=1)


def _present(item: T | None, name: str) -> T:
    if item is None:
        raise KeyError(f"no state was given for {name}")
    return item


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
