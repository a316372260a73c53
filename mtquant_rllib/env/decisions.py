"""From raw actions to proposed weights: the arithmetic of the three levels, with no state and no market.

What a raw action means is written in `agents.action_maps`; here its scalars get their range, and the levels meet:

    conviction = clip(c * s + (1 - c) * g, -1, 1)        confidence c is how far the specialist overrules the agent
    target     = conviction * (allocation_d / n_d) * size * vol_target / vol      size: appetite times the risk scale
    proposed   = weight + u * (target - weight)
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.agents.action_maps import NUMPY, allocation, bounded, simplex, views
from mtquant_rllib.config.sections.desk import DecisionConfig


def unit_interval(raw: np.ndarray) -> np.ndarray:
    """[-1, 1] to [0, 1]."""
    return (raw + 1.0) * 0.5


def meta_decision(raw: np.ndarray, config: DecisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Allocations (B, D) and risk appetite (B,) in [0, 1] from raw actions (B, D + 1)."""
    numbers = {name: getattr(config, name) for name in ("logit_scale", "dead_band", "allocation_cap")}
    executed = allocation(raw, numbers, NUMPY)
    return executed[:, :-1], unit_interval(executed[:, -1])


def meta_actions(exposure: np.ndarray, config: DecisionConfig) -> np.ndarray:
    """Raw actions (B, D + 1) whose allocation times appetite is this exposure (B, D), as far as dead band, cap and the
    bounds of actions let it: the inverse of `meta_decision`.

    Where shares must not add up to one, the largest domain's goes beyond the cap, and that part stays in cash. An
    exposure that is too large for full appetite is scaled down, all domains alike.
    """
    cap, tiny = config.allocation_cap, np.finfo(np.float64).tiny
    largest, total = exposure.max(axis=-1), exposure.sum(axis=-1)
    appetite = np.maximum(largest / cap, total)
    allocation = exposure / np.maximum(appetite, tiny)[:, None]
    left = np.maximum(1.0 - allocation.sum(axis=-1), 0.0)
    shares = allocation + np.where(np.arange(exposure.shape[1]) == exposure.argmax(axis=-1)[:, None], left[:, None], 0)
    logits = allocator_actions(shares, config.logit_scale)
    return np.concatenate((logits, 2.0 * np.minimum(appetite, 1.0)[:, None] - 1.0), axis=-1)


def specialist_decision(raw: np.ndarray, config: DecisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Intents (B, n_d) in [-1, 1] and confidence (B,) in [0, 1] from raw actions (B, 3 n_d + 1)."""
    executed = views(raw, {"logit_scale": config.logit_scale}, NUMPY)
    return executed[:, :-1], unit_interval(executed[:, -1])


def instrument_decision(raw: np.ndarray, config: DecisionConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signal in [-1, 1], urgency in [0, 1] and stop distance in ATRs, each (B, n), from raw actions (B, n, 3)."""
    raw = bounded(raw, {}, NUMPY)
    span = config.stop_atr_max - config.stop_atr_min
    return raw[..., 0], unit_interval(raw[..., 1]), config.stop_atr_min + span * unit_interval(raw[..., 2])


def allocator_weights(raw: np.ndarray, logit_scale: float) -> np.ndarray:
    """Long-only weights (B, n) that sum to 1, from an allocator's raw actions (B, n)."""
    weights: np.ndarray = simplex(raw, {"logit_scale": logit_scale}, NUMPY)
    return weights


def allocator_actions(weights: np.ndarray, logit_scale: float) -> np.ndarray:
    """Raw actions (B, n) whose weights are nearest to these: the inverse of `allocator_weights`, as far as the bounds
    of actions let it go. The largest weight stands at 1."""
    share = np.maximum(weights, np.finfo(np.float64).tiny) / weights.max(axis=-1, keepdims=True)
    return np.clip(1.0 + np.log(share) / logit_scale, -1.0, 1.0)


def conviction(intent: np.ndarray, confidence: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Blend of the specialist's intent and the agent's own signal, (B, n)."""
    return np.clip(confidence * intent + (1.0 - confidence) * signal, -1.0, 1.0)


def target_weight(
    conviction: np.ndarray,
    allocation_per_instrument: np.ndarray,
    size: np.ndarray,
    vol_ann: np.ndarray,
    config: DecisionConfig,
) -> np.ndarray:
    """Signed weights (B, n) that give each instrument its share of the volatility target; size: (B,)."""
    return conviction * allocation_per_instrument * size[:, None] * (config.vol_target_ann / vol_ann)
