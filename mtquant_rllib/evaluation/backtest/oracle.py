"""Oracles: players that know the planted mean and act by the desk's or the allocator's own actions.

The desk's oracle reads the exact conditional mean of the next bar, which no observation shows, and puts out raw actions
of the three levels, so that it is subject to the same core, costs and risk rules as the agents and its Sharpe is one
that they could reach. It is not the best that could be done with that knowledge: conviction is proportional to the
forecast and trades part of the gap, two numbers tuned on paths of their own.

An allocator's oracle solves the long-only quadratic programme on the same mean at every row and trades part of the gap.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.allocator import AllocatorOracleConfig
from mtquant_rllib.evaluation.backtest.long_only_optimiser import best_weights
from mtquant_rllib.risk.repair.packed import PackedIndex


def oracle_targets(mu: np.ndarray, sigma: np.ndarray, slope: float) -> np.ndarray:
    """Conviction in [-1, 1] of each row: clip(slope * z, -1, 1), z the forecast in units of its own size.

    Parameters
    ----------
    mu, sigma
        Conditional mean of the next return and trailing volatility, both (N, n). z is mu / sigma over its root mean
        square over all rows and instruments. Where nothing is planted the conviction is 0.
    """
    ratio = mu / sigma
    size = float(np.sqrt(np.mean(ratio**2)))
    return np.clip(slope * ratio / size, -1.0, 1.0) if size > 0 else np.zeros_like(ratio)


def oracle_actions(conviction: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
    """The desk's raw actions that carry convictions of shape (B, n) unaltered to the orders: group -> (B, n, A).

    Equal allocations at full appetite; specialists of no confidence, so that an instrument's own signal is its
    conviction; every gap traded by the share `urgency`; stops as far away as they go.
    """
    urgency = np.full_like(conviction, 2.0 * settings.synthetic.oracle.urgency - 1.0)
    same: dict[str, Any] = {"appetite": 1.0, "confidence": -1.0, "stop": 1.0}
    scalars = same | {"signal": conviction, "urgency": urgency}
    actions = {}
    for group in agent_groups(settings):
        raw = np.zeros((len(conviction), len(group.agents), len(group.actions)))
        for number, component in enumerate(group.actions):
            raw[:, :, number] = scalars.get(component.name, 0.0)
        actions[group.name] = raw
    return actions


def allocator_targets(
    mu: np.ndarray, sigma: np.ndarray, covariance: np.ndarray, config: AllocatorOracleConfig
) -> np.ndarray:
    """Best long-only weights (N, n) at each row for a conditional mean and a trailing volatility, (N, n) each, and
    packed covariances of the same bar, (N, n(n+1)/2).

    Aversion goes with the size of the forecast, so that a weaker one leads to the same kind of book.
    """
    index = PackedIndex(mu.shape[1])
    aversion = config.risk_aversion * float(np.sqrt(np.mean((mu / sigma) ** 2)))
    return np.concatenate(
        [
            best_weights(mu[part], index.matrices(np.asarray(covariance[part])), aversion)
            for part in (slice(start, start + _CHUNK_ROWS) for start in range(0, len(mu), _CHUNK_ROWS))
        ]
    )


_CHUNK_ROWS = 20_000
