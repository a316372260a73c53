"""What stands where in an action, and what it means: the counterpart of `features.layout` for what agents decide.

Names and words only. The arithmetic stands in `env.decisions`; the numbers in these words come from the settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtquant_rllib.config import Settings
from mtquant_rllib.features import layout
from mtquant_rllib.features.layout import Layout
from mtquant_rllib.universe import ALLOCATOR, META


@dataclass(frozen=True)
class ActionComponent:
    """One number of an action, in [-1, 1], and what the environment makes of it."""

    name: str
    meaning: str


def action_components(settings: Settings, agent: str) -> tuple[ActionComponent, ...]:
    """The components of an agent's action, in order.

    Raises
    ------
    KeyError
        When the settings have no such agent.
    """
    universe, decision = settings.universe, settings.desk.decision
    if agent not in universe.agent_ids:
        raise KeyError(f"no agent {agent!r}; there are {', '.join(universe.agent_ids)}")
    if settings.allocator is not None:
        assert agent == ALLOCATOR
        scale = settings.allocator.logit_scale
        meaning = f"logit of its weight: weights = softmax({scale:g} * actions), long only, summing to 1"
        return tuple(ActionComponent(f"logit_{symbol}", meaning) for symbol in universe.symbols)
    snapped = f"below {decision.snap_below:g} it is 0"
    if agent == META:
        share = (
            f"logit of the domain's share of capital: softmax({decision.logit_scale:g} * logits), at most "
            f"{decision.allocation_cap:g}, the excess stays in cash; {snapped}"
        )
        shares = tuple(ActionComponent(f"allocation_{domain.name}", share) for domain in universe.domains)
        return (*shares, ActionComponent("appetite", f"risk appetite in [0, 1]: (a + 1) / 2; {snapped}"))
    if agent in universe.specialists:
        view = f"logit of a view on the instrument: P = softmax({decision.logit_scale:g} * [buy, hold, sell])"
        domain = universe.domains[universe.specialists.index(agent)]
        logits = (
            ActionComponent(f"{symbol}.{side}", f"{view}; intent = P(buy) - P(sell)")
            for symbol in domain.symbols
            for side in ("buy", "hold", "sell")
        )
        blend = "(a + 1) / 2; conviction = confidence * intent + (1 - confidence) * the instrument's signal"
        return (*logits, ActionComponent("confidence", f"confidence in [0, 1]: {blend}"))
    low, high = decision.stop_atr_min, decision.stop_atr_max
    return (
        ActionComponent("signal", "signal in [-1, 1], short to long, as it is"),
        ActionComponent("urgency", "share of the way to the target weight that is traded now: (a + 1) / 2"),
        ActionComponent("stop", f"stop distance in ATRs: {low:g} + {high - low:g} * (a + 1) / 2"),
    )


def observation_layout(settings: Settings, agent: str) -> Layout:
    """The named blocks of an agent's observation."""
    universe = settings.universe
    if agent == ALLOCATOR:
        return layout.allocator_layout(universe.symbols)
    if agent == META:
        return layout.meta_layout(universe, settings.desk.observation.returns_days)
    if agent in universe.specialists:
        return layout.specialist_layout(universe.domains[universe.specialists.index(agent)])
    return layout.INSTRUMENT
