"""The core for given settings: the desk of twelve agents, or the allocator."""

from __future__ import annotations

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.allocator import Allocator
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.trading import Trading


def core_for(settings: Settings, data: DeskData, n_envs: int, setup: EpisodeSetup, *, limited: bool = True) -> Trading:
    """A core of B environments. limited: with the risk manager."""
    kind = Desk if settings.allocator is None else Allocator
    risk = RiskLayer(settings, n_envs, setup) if limited else None
    return kind(settings, data.execution, data.features, n_envs, setup, risk)
