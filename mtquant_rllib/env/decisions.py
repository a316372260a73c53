"""From raw actions to proposed weights: the arithmetic of the three levels, with no state and no market.

Raw actions are clipped to [-1, 1] first, so that a Gaussian policy's tails mean "all the way".

    conviction = clip(c * s + (1 - c) * g, -1, 1)        confidence c is how far the specialist overrules the agent
    target     = conviction * (allocation_d / n_d) * appetite * vol_target / vol
    proposed   = weight + u * (target - weight)
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.desk import DecisionConfig


def softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis. Logits are bounded by the decision's scale, so nothing overflows."""
    powers = np.exp(logits)
    # A sum over a handful of columns is several times faster as additions than as a reduction.
    total = sum(powers[..., k] for k in range(1, powers.shape[-1])) + powers[..., 0]
    return powers / total[..., None]


def unit_interval(raw: np.ndarray) -> np.ndarray:
    """[-1, 1] to [0, 1]."""
    return (raw + 1.0) * 0.5


def meta_decision(raw: np.ndarray, config: DecisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Allocations (B, D) and risk appetite (B,) from raw actions (B, D + 1).

    A share is capped, not renormalised: what exceeds the cap stays in cash.
    """
    raw = np.clip(raw, -1.0, 1.0)
    shares = softmax(raw[:, :-1] * config.logit_scale)
    shares = np.where(shares < config.snap_below, 0.0, np.minimum(shares, config.allocation_cap))
    appetite = unit_interval(raw[:, -1])
    return shares, np.where(appetite < config.snap_below, 0.0, appetite)


def specialist_decision(raw: np.ndarray, config: DecisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Intents (B, n_d) in [-1, 1] and confidence (B,) in [0, 1] from raw actions (B, 3 n_d + 1).

    Per instrument three logits give P(buy), P(hold), P(sell); the intent is P(buy) - P(sell).
    """
    raw = np.clip(raw, -1.0, 1.0)
    probability = softmax(raw[:, :-1].reshape(len(raw), -1, 3) * config.logit_scale)
    return probability[:, :, 0] - probability[:, :, 2], unit_interval(raw[:, -1])


def instrument_decision(raw: np.ndarray, config: DecisionConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signal in [-1, 1], urgency in [0, 1] and stop distance in ATRs, each (B, n), from raw actions (B, n, 3)."""
    raw = np.clip(raw, -1.0, 1.0)
    span = config.stop_atr_max - config.stop_atr_min
    return raw[..., 0], unit_interval(raw[..., 1]), config.stop_atr_min + span * unit_interval(raw[..., 2])


def allocator_weights(raw: np.ndarray, logit_scale: float) -> np.ndarray:
    """Long-only weights (B, n) that sum to 1, from an allocator's raw actions (B, n)."""
    return softmax(np.clip(raw, -1.0, 1.0) * logit_scale)


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
    appetite: np.ndarray,
    vol_ann: np.ndarray,
    config: DecisionConfig,
) -> np.ndarray:
    """Signed weights (B, n) that give each instrument its share of the volatility target."""
    return conviction * allocation_per_instrument * appetite[:, None] * (config.vol_target_ann / vol_ann)
