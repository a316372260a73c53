"""From policies to orders: a decision for an account at every close, without Ray.

What most people need is here; it is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtquant_rllib.serving.account import BarResult, Portfolio, Position
    from mtquant_rllib.serving.closes import PreparedBars
    from mtquant_rllib.serving.decision import Decision
    from mtquant_rllib.serving.history import BarHistory
    from mtquant_rllib.serving.orders import Order
    from mtquant_rllib.serving.simulated_account import SimulatedAccount
    from mtquant_rllib.serving.state import SystemState
    from mtquant_rllib.serving.system import TradingSystem

_PLACES = {
    "BarHistory": "history",
    "BarResult": "account",
    "Decision": "decision",
    "Order": "orders",
    "Portfolio": "account",
    "Position": "account",
    "PreparedBars": "closes",
    "SimulatedAccount": "simulated_account",
    "SystemState": "state",
    "TradingSystem": "system",
}

__all__ = [
    "BarHistory",
    "BarResult",
    "Decision",
    "Order",
    "Portfolio",
    "Position",
    "PreparedBars",
    "SimulatedAccount",
    "SystemState",
    "TradingSystem",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
