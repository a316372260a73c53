"""Twelve RLlib policies trade eight instruments as one desk, with risk having the last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtquant_rllib.version import VERSION as __version__

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings
    from mtquant_rllib.serving.system import TradingSystem
    from mtquant_rllib.system import HierarchicalTradingSystem
    from mtquant_rllib.training.environments import env_config

__all__ = ["HierarchicalTradingSystem", "Settings", "TradingSystem", "__version__", "env_config"]


def __getattr__(name: str) -> Any:
    """The names most people need, imported when they are asked for: torch and Ray stay out until then."""
    if name == "Settings":
        from mtquant_rllib.config import Settings

        return Settings
    if name == "HierarchicalTradingSystem":
        from mtquant_rllib.system import HierarchicalTradingSystem

        return HierarchicalTradingSystem
    if name == "TradingSystem":
        from mtquant_rllib.serving.system import TradingSystem

        return TradingSystem
    if name == "env_config":
        from mtquant_rllib.training.environments import env_config

        return env_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
