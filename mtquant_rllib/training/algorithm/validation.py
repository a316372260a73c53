"""Validation: the Sharpe ratio of policies on bars that they did not learn from, which decides which are kept.

The validation split is played without exploration by the same core, costs and risk rules; what counts is the unshaped
net return. A trial of one domain is judged on that domain's book alone, at the allocation the desk has after phase 1:
an equal share for every domain and full appetite. The split is played in pieces of an episode's length, side by side,
which takes a few hundred steps however long it is. Of attention networks it also says where they look (`tracked`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.env.prepared.source import open_market
from mtquant_rllib.evaluation.backtest.rollout import pieces, play, policy_player, pooled_figures
from mtquant_rllib.training.algorithm.attention_tracking import TrackedDecisions
from mtquant_rllib.training.records.module_states import ModuleState
from mtquant_rllib.training.result_keys import SHARPE

Validator = Callable[[Mapping[str, ModuleState]], Mapping[str, float]]
"""Module states in, unshaped figures of a deterministic rollout out; `sharpe`, net and annualised, decides."""


def make_validator(env_config: Mapping[str, Any]) -> Validator:
    """A function from module states to figures; `sharpe` is pooled over all pieces, net and annual.

    env_config: an environment's, which names settings, market and phase, and the domain that is judged; without one it
    is the whole desk.
    """
    environment = EnvironmentConfig.of(env_config)
    tree, index, phase = environment.settings, environment.domain_index, environment.phase
    market = open_market(environment, "validation")
    draws = pieces(market.segments, tree.desk.episode.bars)

    def validate(modules: Mapping[str, ModuleState]) -> Mapping[str, float]:
        tracked = TrackedDecisions(tree, modules, draws, phase=phase, domain=index)
        player = policy_player(tree, modules, domain=index, equal_allocation=phase == 1, on_decision=tracked)
        record = play(tree, market, player, draws, name="validation")
        figures = {**pooled_figures(record), **tracked.figures(market, record)}
        # A book that never moved has no Sharpe ratio; for the choice of the best it is worth nothing, not everything.
        figures[SHARPE] = float(np.nan_to_num(figures[SHARPE]))
        return figures

    return validate
