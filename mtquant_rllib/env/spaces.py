"""Observation and action spaces of the agents, from the layout of named blocks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.features import layout
from mtquant_rllib.universe import ALLOCATOR, META


def observation_width(settings: Settings, agent: str) -> int:
    """Length of an agent's observation vector."""
    universe = settings.universe
    if agent == ALLOCATOR:
        return layout.allocator_layout(universe.symbols).width
    if agent == META:
        return layout.meta_layout(universe, settings.desk.observation.returns_days).width
    if agent in universe.specialists:
        return layout.specialist_layout(universe.domains[universe.specialists.index(agent)]).width
    return layout.INSTRUMENT.width


def action_width(settings: Settings, agent: str) -> int:
    """Length of an agent's raw action vector: allocations and appetite; three logits an instrument and confidence;
    signal, urgency and stop; or an allocator's logit of each asset."""
    universe = settings.universe
    if agent == ALLOCATOR:
        return universe.n_instruments
    if agent == META:
        return universe.n_domains + 1
    if agent in universe.specialists:
        return 3 * len(universe.domains[universe.specialists.index(agent)].symbols) + 1
    return 3


def spaces(settings: Settings) -> tuple[dict[Any, gym.Space[Any]], dict[Any, gym.Space[Any]]]:
    """Observation and action Box of every agent id. Actions are raw values in [-1, 1]."""
    bound = settings.desk.observation.clip
    observation: dict[Any, gym.Space[Any]] = {
        agent: gym.spaces.Box(-bound, bound, (observation_width(settings, agent),), np.float32)
        for agent in settings.universe.agent_ids
    }
    action: dict[Any, gym.Space[Any]] = {
        agent: gym.spaces.Box(-1.0, 1.0, (action_width(settings, agent),), np.float32)
        for agent in settings.universe.agent_ids
    }
    return observation, action
