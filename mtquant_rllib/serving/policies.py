"""The policies that decide, with all else that a decision hangs on, and nothing of where they were trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation.backtest.rollout import DecisionObserver, PolicyPlayer
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.actor import POLICY_PREFIX, DeskActor
from mtquant_rllib.policies.ensemble import EnsembleActor
from mtquant_rllib.policies.introspection import AgentView
from mtquant_rllib.serving.closes import Calendar

ModuleStates = Mapping[str, Mapping[str, Any]]

_DIGITS = 12
"""Hexadecimal digits of a fingerprint: enough to tell any two runs of one desk apart."""


@dataclass(frozen=True)
class DecidingPolicies:
    """Policies after a phase of a run, or of the members of an ensemble.

    Attributes
    ----------
    settings
        Those of the run: features and their means, actions, risk, costs, account.
    members
        Module states of each member; of a single run those of its one desk or allocator.
    equal_allocation
        There is no meta-controller yet: every domain gets the same share of capital, at full appetite.
    calendar
        How often the market trades.
    source
        Where they come from, as plain values: run, phase, seeds, market.
    known_as
        The fingerprint that they were exported with; None to compute it.
    """

    settings: Settings
    members: tuple[ModuleStates, ...]
    equal_allocation: bool
    calendar: Calendar
    source: Mapping[str, Any] = field(default_factory=dict)
    known_as: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the policies' parameters and of the settings: equal for a run and for the folder exported from it."""
        if self.known_as is not None:
            return self.known_as
        digest = hashlib.sha256()
        tree = self.settings.model_dump(mode="json")
        digest.update(strict_json.dumps([tree, vars(self.calendar), self.equal_allocation], sort_keys=True).encode())
        for number, states in enumerate(self.members):
            for module in sorted(self.modules):
                for key, array in sorted(_acting(states[module]).items()):
                    digest.update(f"{number}|{module}|{key}|{array.dtype.str}|{array.shape}|".encode())
                    digest.update(array.tobytes())
        return digest.hexdigest()[:_DIGITS]

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Modules of the universe that every member has."""
        known = self.settings.universe.policies(self.settings.networks.sharing)
        return tuple(name for name in known if all(name in states for states in self.members))

    def player(self, on_decision: DecisionObserver | None = None) -> PolicyPlayer:
        """The policies, acting by their means: as an evaluation plays them."""
        settings = self.settings
        equal = self.equal_allocation and not settings.universe.allocates
        if len(self.members) == 1:
            return PolicyPlayer.of(settings, self.members[0], equal_allocation=equal, on_decision=on_decision)
        actor = EnsembleActor(settings, self.members)
        return PolicyPlayer(actor, equal_allocation=equal, on_decision=on_decision)


def _acting(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.ascontiguousarray(item) for key, item in state.items() if key.startswith(POLICY_PREFIX)}


class AttentionOfAgents:
    """Attention and regime probabilities of the agents whose networks attend, at their last decision.

    It asks the networks once more, with their attention, for what they were shown last; of an ensemble it gives the
    mean over the members.
    """

    def __init__(self, policies: DecidingPolicies) -> None:
        settings = policies.settings
        self._views: dict[str, list[AgentView]] = {}
        for group in agent_groups(settings):
            for agent in group.agents:
                module = settings.universe.policy_of(agent, settings.networks.sharing)
                if module not in policies.modules:
                    continue
                views = [AgentView(settings, agent, states) for states in policies.members]
                if not views[0].has_attention:
                    break
                self._views[agent] = views
        self._seen: dict[str, np.ndarray] = {}

    def observe(self, agent: str, desk: Any, obs: np.ndarray, decides: np.ndarray) -> None:
        """Keep what an agent is shown at a decision; a `DecisionObserver`."""
        if agent in self._views:
            self._seen[agent] = obs.copy()

    def read(
        self,
    ) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, dict[str, float]]]:
        """By agent: the attention of each group of columns on each, a mean over layers and heads, and the regimes'
        probabilities; of those that have decided since the last call."""
        attention, regimes = {}, {}
        for agent, obs in self._seen.items():
            readouts = [view.attention_readout(obs) for view in self._views[agent]]
            matrix = np.mean([one.attention[0] for one in readouts], axis=0).mean(axis=(0, 1))
            names = list(self._views[agent][0].groups)
            attention[agent] = {
                name: dict(zip(names, map(float, row))) for name, row in zip(names, matrix, strict=True)
            }
            probabilities = np.mean([one.probabilities[0] for one in readouts], axis=0)
            regimes[agent] = {regime.name.lower(): float(probabilities[regime]) for regime in Regime}
        self._seen.clear()
        return attention, regimes


def member_disagreement(actor: DeskActor | EnsembleActor) -> dict[str, float]:
    """Group -> mean deviation of the members' last actions; empty for a single desk."""
    if not isinstance(actor, EnsembleActor):
        return {}
    return {group: float(values.mean()) for group, values in actor.disagreement.items()}
