"""Module states as they are before anything was learned."""

from __future__ import annotations

import numpy as np
import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.policies.actor import POLICY_PREFIX
from mtquant_rllib.policies.registry import build_policy, network_configs


def initial_states(settings: Settings) -> dict[str, dict[str, np.ndarray]]:
    """Freshly initialised policies of every module, from `settings.seed`: module id -> arrays, without value
    networks."""
    configs = network_configs(settings)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return {
            module: {
                f"{POLICY_PREFIX}{name}": value.numpy() for name, value in build_policy(config).state_dict().items()
            }
            for module, config in configs.items()
        }
