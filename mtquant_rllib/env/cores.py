"""Which core plays the settings: the desk of twelve agents, or the allocator."""

from __future__ import annotations

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.allocator import Allocator
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.data import DeskData
from mtquant_rllib.env.overseer import Overseer
from mtquant_rllib.env.scene import Scene
from mtquant_rllib.env.trading import Trading


def core_for(settings: Settings, data: DeskData, n_envs: int, scene: Scene, *, limited: bool = True) -> Trading:
    """B environments of the settings' own kind. limited: under the risk manager."""
    kind = Desk if settings.allocator is None else Allocator
    oversight = Overseer(settings, n_envs, scene) if limited else None
    return kind(settings, data.tape, data.features, n_envs, scene, oversight)
