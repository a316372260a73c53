"""How good are these policies on bars that they did not learn from: the figure that decides which are kept.

The validation split is played without exploration by the same core, costs and risk rules; what counts is the unshaped
net return. A trial of one domain is judged on that domain's book alone, at the allocation the desk has after phase 1:
an equal share for every domain and full appetite. The split is played in pieces of an episode's length, side by side,
which takes a few hundred steps however long it is. Of attention networks it also says where they look (`tracked`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtquant_rllib.training.desk_algorithm import SHARPE, Validator
from mtquant_rllib.training.records.states import ModuleState


def make_validator(context: Mapping[str, Any], domain: str | None) -> Validator:
    """A function from module states to figures; `sharpe` is pooled over all pieces, net and annual.

    context: an environment's configuration, which names settings, market and phase; domain: the only one that is
    judged, None for the whole desk.
    """
    # This function travels in the configuration of every runner, and none of them calls it: what it needs waits until
    # then.
    import numpy as np

    from mtquant_rllib.config import Settings
    from mtquant_rllib.env.market_source import open_market
    from mtquant_rllib.evaluation.rollout import pieces, play, policy_player, pooled_figures
    from mtquant_rllib.training.tracked import TrackedDecisions

    tree, phase = Settings.model_validate(context["settings"]), context["phase"]
    universe = tree.universe
    held = open_market(context, "validation")
    index = None if domain is None or universe.allocates else universe.domains.index(universe.domain_named(domain))
    draws = pieces(held.stretches, tree.desk.episode.bars)

    def validate(modules: Mapping[str, ModuleState]) -> Mapping[str, float]:
        tracked = TrackedDecisions(tree, modules, draws, domain=index, without_meta=phase == 1)
        player = policy_player(tree, modules, domain=index, equal_allocation=phase == 1, on_decision=tracked)
        record = play(tree, held, player, draws, name="validation")
        figures = {**pooled_figures(record), **tracked.figures(held, record)}
        # A book that never moved has no Sharpe ratio; for the choice of the best it is worth nothing, not everything.
        figures[SHARPE] = float(np.nan_to_num(figures[SHARPE]))
        return figures

    return validate
