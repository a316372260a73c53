"""Looking inside one agent's policy with arrays alone: its answers, what it attends to, which regime it believes in.

For whoever explains or tracks a policy after the fact. Learning and deciding do not come through here.

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
from mtquant_rllib.policies.action_maps import executed
from mtquant_rllib.policies.actor import POLICY_PREFIX
from mtquant_rllib.policies.attention_losses import NO_LABEL, attention_metrics
from mtquant_rllib.policies.attention_policy import AttentionPolicy
from mtquant_rllib.policies.regime_network import Fallback, fallback_counts
from mtquant_rllib.policies.registry import build_policy, network_configs

_BATCH_ROWS = 1024
"""Rows asked at once: tokens and hidden layers of a wide network then stay within tens of megabytes."""


@dataclass(frozen=True)
class Look:
    """What an attention policy says of N observations besides its actions.

    Attributes
    ----------
    attention
        float32 (N, L, H, G, G): the reading group before the one read; rows sum to 1.
    probabilities
        float32 (N, R): the classifier's, in the order of `Regime`.
    fallback
        int8 (N,) of `Fallback`: who answered.
    """

    attention: np.ndarray
    probabilities: np.ndarray
    fallback: np.ndarray

    def figures(self, labels: np.ndarray | None = None, env: np.ndarray | None = None) -> dict[str, float]:
        """Named figures for a tracker, fractions all: how attention is spread (`attention_losses.attention_metrics`),
        what the classifier believes, who answered; with the detector's labels (N,), how often both agree; with the
        history of each decision (N,), histories after each other and each in order of time, after what share of
        decisions the classifier believes in another regime.
        """
        spread = attention_metrics(torch.from_numpy(self.attention))
        believed = self.probabilities.argmax(axis=1)
        named = {f"attention_{name}": value for name, value in spread.items()}
        named["classifier_confidence"] = float(self.probabilities.max(axis=1).mean())
        for regime in Regime:
            named[f"classifier_share_{regime.name.lower()}"] = float(np.mean(believed == regime))
        counts = fallback_counts(torch.from_numpy(self.fallback))
        for name, count in counts.items():
            if name != Fallback.NONE.name.lower():
                named[f"fallback_{name}"] = count / len(self.fallback)
        if env is not None and (together := env[1:] == env[:-1]).any():
            named["classifier_transitions"] = float(np.mean((believed[1:] != believed[:-1])[together]))
        if labels is not None and (known := labels != NO_LABEL).any():
            named["classifier_agreement"] = float(np.mean(believed[known] == labels[known]))
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
        When its module's state is absent, or does not fit the settings.
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
        """What its decisions are."""
        return ACTION_MAPS[self._action_map].gives

    @property
    def attends(self) -> bool:
        """Whether the network has attention to look at."""
        return isinstance(self._policy, AttentionPolicy)

    def actions(self, obs: np.ndarray) -> np.ndarray:
        """Means as the desk gets them, clipped to [-1, 1]: (N, F) -> (N, A)."""
        return np.concatenate([self._policy.mean(part).clamp(-1.0, 1.0).numpy() for part in _parts(obs)])

    def executed(self, obs: np.ndarray) -> np.ndarray:
        """What the environment makes of those means, (N, F) -> (N, W), in words `gives`. Logits that move together move
        none of it."""
        return executed(self._action_map, torch.from_numpy(self.actions(obs)), self._numbers).numpy()

    def line_share(self, obs: np.ndarray) -> float | None:
        """Share of a straight line beside the network in what moves the logits: the deviation of its part over the sum
        of both parts' deviations. None where there is no such line."""
        if not isinstance(self._policy, AttentionPolicy) or self._policy.skip is None:
            return None
        lines = torch.cat([self._policy.line(part) for part in _parts(obs)])
        whole = torch.cat([self._policy.mean(part) for part in _parts(obs)])
        moved, beside = (float(part.std(dim=0).mean()) for part in (lines, whole - lines))
        return moved / (moved + beside) if moved + beside > 0 else 0.0

    def look(self, obs: np.ndarray) -> Look:
        """(N, F) -> `Look`. For attention policies only."""
        assert isinstance(self._policy, AttentionPolicy), "this policy has no attention"
        answers = [self._policy.answer(part, look=True) for part in _parts(obs)]
        attention = [answer.attention_BLHGG for answer in answers if answer.attention_BLHGG is not None]
        return Look(
            attention=torch.cat(attention).numpy(),
            probabilities=torch.cat([answer.probabilities_BR for answer in answers]).numpy(),
            fallback=torch.cat([answer.fallback_B for answer in answers]).numpy(),
        )


def _parts(obs: np.ndarray) -> list[Tensor]:
    rows = torch.from_numpy(np.ascontiguousarray(obs, dtype=np.float32))
    return list(rows.split(_BATCH_ROWS))
