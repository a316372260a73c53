"""Observation and action spaces of the agents, from their rows."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config.settings import Settings


def spaces(settings: Settings) -> tuple[dict[Any, gym.Space[Any]], dict[Any, gym.Space[Any]]]:
    """Observation and action Box of every agent id. Actions are raw values in [-1, 1]."""
    bound = settings.desk.observation.clip
    observation: dict[Any, gym.Space[Any]] = {}
    action: dict[Any, gym.Space[Any]] = {}
    for group in agent_groups(settings):
        for agent in group.agents:
            observation[agent] = gym.spaces.Box(-bound, bound, (group.observation.width,), np.float32)
            action[agent] = gym.spaces.Box(-1.0, 1.0, (len(group.actions),), np.float32)
    return observation, action
