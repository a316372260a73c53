"""One agent's policy as functions of arrays, for explanations and tracking: actions, attention, regime probabilities.

Shapes: N rows, F observation columns, A actions, L layers, H heads, G groups, R regimes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtquant_rllib.agents.action_maps import ACTION_MAPS
from mtquant_rllib.agents.groups import group_of, map_numbers
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.action_maps import apply_action_map
from mtquant_rllib.policies.actor import POLICY_PREFIX
from mtquant_rllib.policies.attention.losses import NO_LABEL, attention_metrics
from mtquant_rllib.policies.attention.policy import AttentionPolicy
from mtquant_rllib.policies.attention.regime_network import Fallback, fallback_counts
from mtquant_rllib.policies.registry import build_policy, network_configs

_BATCH_ROWS = 1024
"""Rows of one pass, so that tokens and hidden layers of a wide network take tens of megabytes."""


@dataclass(frozen=True)
class AttentionReadout:
    """The outputs of an attention policy for N observations, besides actions.

    Attributes
    ----------
    attention
        float32 (N, L, H, G, G): from the group that attends to the one attended to; rows sum to 1.
    probabilities
        float32 (N, R): of the regime classifier, in the order of `Regime`.
    fallback
        int8 (N,) of `Fallback`.
    """

    attention: np.ndarray
    probabilities: np.ndarray
    fallback: np.ndarray

    def metrics(self, labels: np.ndarray | None = None, env: np.ndarray | None = None) -> dict[str, float]:
        """Metrics for a tracker, all of them fractions: spread of attention
        (`policies.attention.losses.attention_metrics`), the classifier's confidence and regimes, fall-backs;
        with the detector's labels (N,), the classifier's agreement with them; with the history of each decision
        (N,), histories one after the other and in order of time, the share of decisions after which the
        classifier's regime changes.
        """
        spread = attention_metrics(torch.from_numpy(self.attention))
        predicted = self.probabilities.argmax(axis=1)
        named = {f"attention_{name}": value for name, value in spread.items()}
        named["classifier_confidence"] = float(self.probabilities.max(axis=1).mean())
        for regime in Regime:
            named[f"classifier_share_{regime.name.lower()}"] = float(np.mean(predicted == regime))
        counts = fallback_counts(torch.from_numpy(self.fallback))
        for name, count in counts.items():
            if name != Fallback.NONE.name.lower():
                named[f"fallback_{name}"] = count / len(self.fallback)
        if env is not None and (together := env[1:] == env[:-1]).any():
            named["classifier_transitions"] = float(np.mean((predicted[1:] != predicted[:-1])[together]))
        if labels is not None and (known := labels != NO_LABEL).any():
            named["classifier_agreement"] = float(np.mean(predicted[known] == labels[known]))
        return named


class AgentView:
    """One agent's policy as functions of arrays.

    Parameters
    ----------
    settings
        Those that the policy was trained with.
    agent
        An id of the universe.
    states
        Module id -> state, at least the module that serves the agent.

    Raises
    ------
    ConfigError
        When there is no such agent.
    RunError
        When its module's state is absent or does not fit the settings.
    """

    def __init__(self, settings: Settings, agent: str, states: Mapping[str, Mapping[str, Any]]) -> None:
        universe = settings.universe
        group = group_of(settings, agent)
        self.groups: dict[str, slice] = group.observation.slices
        module = universe.policy_of(agent, settings.networks.sharing)
        if module not in states:
            raise RunError(f"no state of {module} is at hand, so {agent} cannot be looked into")
        self._policy = build_policy(network_configs(settings)[module])
        weights = {
            key.removeprefix(POLICY_PREFIX): torch.as_tensor(np.array(item))
            for key, item in states[module].items()
            if key.startswith(POLICY_PREFIX)
        }
        try:
            self._policy.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise RunError(f"the state of {module} does not fit the network settings: {error}") from error
        self._policy.eval().requires_grad_(False)
        self._action_map, self._numbers = group.action_map, map_numbers(settings)

    @property
    def gives(self) -> str:
        """What its executed actions are, in words."""
        return ACTION_MAPS[self._action_map].gives

    @property
    def has_attention(self) -> bool:
        """Whether it is an attention policy."""
        return isinstance(self._policy, AttentionPolicy)

    def actions(self, obs: np.ndarray) -> np.ndarray:
        """Mean actions clipped to [-1, 1], (N, F) -> (N, A)."""
        return np.concatenate([self._policy.mean(part).clamp(-1.0, 1.0).numpy() for part in _parts(obs)])

    def executed(self, obs: np.ndarray) -> np.ndarray:
        """Executed actions of those means, (N, F) -> (N, W); `gives` says what they are."""
        return apply_action_map(self._action_map, torch.from_numpy(self.actions(obs)), self._numbers).numpy()

    def linear_skip_share(self, obs: np.ndarray) -> float | None:
        """Share of the linear skip in the variation of the logits: the standard deviation of its part over the sum of
        both parts'. None where there is no skip."""
        if not isinstance(self._policy, AttentionPolicy) or self._policy.skip is None:
            return None
        skip = torch.cat([self._policy.skip_output(part) for part in _parts(obs)])
        whole = torch.cat([self._policy.mean(part) for part in _parts(obs)])
        by_skip, by_network = (float(part.std(dim=0).mean()) for part in (skip, whole - skip))
        return by_skip / (by_skip + by_network) if by_skip + by_network > 0 else 0.0

    def attention_readout(self, obs: np.ndarray) -> AttentionReadout:
        """The readout of N observations (N, F); for attention policies only."""
        assert isinstance(self._policy, AttentionPolicy), "this policy has no attention"
        outputs = [self._policy.output(part, need_weights=True) for part in _parts(obs)]
        attention = [output.attention_BLHGG for output in outputs if output.attention_BLHGG is not None]
        return AttentionReadout(
            attention=torch.cat(attention).numpy(),
            probabilities=torch.cat([output.probabilities_BR for output in outputs]).numpy(),
            fallback=torch.cat([output.fallback_B for output in outputs]).numpy(),
        )


def _parts(obs: np.ndarray) -> list[Tensor]:
    rows = torch.from_numpy(np.ascontiguousarray(obs, dtype=np.float32))
    return list(rows.split(_BATCH_ROWS))
