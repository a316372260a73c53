"""Figures of attention networks in a validation: their attention weights and their guesses of the regime.

Looking costs a pass of its own, so each network is looked into on some whole stretches of the validation split and not
on all of it; whole ones, because changes from one decision to the next are among the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtquant_rllib.agents.groups import group_of
from mtquant_rllib.config import Settings
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.explain.decisions import DecisionLog
from mtquant_rllib.evaluation.regimes.figures import played_regimes, tracked_figures
from mtquant_rllib.policies.introspection import AgentView
from mtquant_rllib.policies.registry import ATTENTION, network_names


class TrackedDecisions:
    """Logs the observations of attention networks during a validation; an observer of `PolicyPlayer`.

    Parameters
    ----------
    modules
        The states that are validated; agents whose module is not among them are left alone.
    draws
        What is played, side by side.
    phase
        Of the policies: groups of later ones decide nothing yet.
    domain
        The one that plays, None where all do.
    """

    def __init__(
        self,
        settings: Settings,
        modules: Mapping[str, Mapping[str, Any]],
        draws: Sequence[EpisodeDraw],
        *,
        phase: int,
        domain: int | None,
    ) -> None:
        universe = settings.universe
        self._settings, self._modules, self._draws = settings, modules, draws
        self._logs: dict[str, tuple[DecisionLog, np.ndarray]] = {}
        bars = np.mean([draw.stop - draw.start for draw in draws])
        for agent in attending(settings):
            group = group_of(settings, agent)
            plays = group.first_phase <= phase and agent in group.agents_in(universe, domain)
            if plays and universe.policy_of(agent, settings.networks.sharing) in modules:
                count = settings.tracking.attention_rows * group.every_bars / bars
                chosen = np.linspace(0, len(draws) - 1, int(np.clip(count, 1, len(draws)))).round().astype(int)
                self._logs[agent] = (DecisionLog(agent), np.isin(np.arange(len(draws)), chosen))

    def __call__(self, agent: str, desk: Trading, obs: np.ndarray, decides: np.ndarray) -> None:
        if agent in self._logs:
            log, chosen = self._logs[agent]
            log(agent, desk, obs, decides & chosen)

    def figures(self, data: DeskData, record: Record) -> dict[str, float]:
        """Regimes of the bars played, and of every agent what `AttentionReadout.metrics` names, as `agent/name`; empty
        where no network attends."""
        if not self._logs:
            return {}
        figures = tracked_figures(*played_regimes(data, self._draws, record.played), record.bars_per_year)
        for agent, (log, _) in self._logs.items():
            kept = log.decisions()
            readout = AgentView(self._settings, agent, self._modules).attention_readout(kept.obs)
            figures |= {f"{agent}/{name}": value for name, value in readout.metrics(kept.regime, kept.env).items()}
        return figures


def attending(settings: Settings) -> list[str]:
    """Agents with an attention network; none where `tracking.attention_rows` is 0."""
    if not settings.tracking.attention_rows:
        return []
    return [agent for agent, network in network_names(settings).items() if network == ATTENTION]
