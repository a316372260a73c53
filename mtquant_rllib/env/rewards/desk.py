"""The rewards of the desk's agents from a bar's returns."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.rewards import terms as rewards
from mtquant_rllib.env.rewards.custom_terms import RewardBar, custom_terms, term_values
from mtquant_rllib.portfolio.execution_data import ExecutionData

_LEAST_SHARE = 1e-6
"""Smallest share of capital or appetite in a book's scale, where `decision.dead_band` is not larger."""


class DeskReward:
    """Rewards of B environments. Streams are in the order of the agents: the portfolio's, each domain's, each
    instrument's, K = 1 + D + n.

    Attributes
    ----------
    sigma_target
        Bar volatility of a desk at its target: the unit of the rewards.
    terms
        Each named term of the last bar for the portfolio, (B,), fractions of equity: those of the risk-adjusted reward,
        and custom ones.
    """

    def __init__(self, settings: Settings, execution: ExecutionData, setup: EpisodeSetup) -> None:
        universe = settings.universe
        self._weights = settings.rewards
        self._least_share = max(settings.desk.decision.dead_band, _LEAST_SHARE)
        self._setup = setup
        self._slices = universe.domain_slices
        self._domain_of = np.array(universe.domain_of)
        self._per_domain = np.array([len(universe.domains[d].symbols) for d in universe.domain_of], dtype=np.float64)
        target = settings.desk.decision.vol_target_ann
        self.sigma_target = target / np.sqrt(execution.bars_per_year)
        self._sigma_target_of = target / np.sqrt(execution.bars_per_year_of)
        self._custom = custom_terms(settings) if setup.custom_terms else []
        self.terms: dict[str, np.ndarray] = {}

    def score(
        self,
        sharpe: rewards.DifferentialSharpe,
        drawdown: rewards.MaximumDrawdown,
        day_excess: rewards.DayExcess,
        bar: RewardBar,
    ) -> np.ndarray:
        """Rewards (B, K) of one bar. sharpe, drawdown, day_excess: state of the streams and of the day's loss, updated
        with the bar."""
        drawdown_increment = drawdown.step(bar.streams)
        reward = sharpe.step(self._standardised(bar.streams, bar.allocation, bar.appetite))
        self.terms = {}
        if self._setup.reward == "risk_adjusted":
            excess = day_excess.step(bar.streams[:, 0], bar.var_forecast, bar.opens_day)
            reward = self._risk_adjusted(bar, drawdown_increment, excess)
        copy = bar.read_only_copy() if self._custom else None
        for own in self._custom:
            assert copy is not None
            values = term_values(own, copy)
            reward = reward + values / self.sigma_target
            self.terms[own.term.name] = values[:, 0]
        return reward

    def _standardised(self, streams: np.ndarray, allocation: np.ndarray, appetite: np.ndarray) -> np.ndarray:
        """Net returns in units of the volatility that each book was sized for, (B, K), clipped."""
        d = len(self._slices)
        # A book whose allocation has just become zero still winds down: its scale has a lower bound.
        share = np.maximum(allocation, self._least_share) * np.maximum(appetite, self._least_share)[:, None]
        scale = np.empty_like(streams)
        scale[:, 0] = self.sigma_target
        scale[:, 1 : 1 + d] = share * self.sigma_target
        scale[:, 1 + d :] = share[:, self._domain_of] / self._per_domain * self._sigma_target_of
        if self._setup.domain is not None:
            own = self._slices[self._setup.domain]
            scale[:, 1 + self._setup.domain] /= own.stop - own.start
        clip = self._weights.differential_sharpe.clip
        return np.clip(streams / scale, -clip, clip)

    def _risk_adjusted(self, bar: RewardBar, drawdown_increment: np.ndarray, excess: np.ndarray) -> np.ndarray:
        """Return less weighted drawdown, risk's edits and losses beyond the VaR, in units of the target's bar
        volatility, each agent's own mixed with the portfolio's, (B, K).

        excess: by how much more the day's loss has gone beyond its VaR forecast, (B,).
        """
        weights, streams, edits = self._weights, bar.streams, bar.of_agents(bar.edited)
        score = streams - weights.drawdown * drawdown_increment - weights.edits * edits
        beyond = weights.var_excess * excess
        score[:, 0] -= beyond
        self.terms = {
            "return": streams[:, 0],
            "drawdown": -weights.drawdown * drawdown_increment[:, 0],
            "edits": -weights.edits * edits[:, 0],
            "var_excess": -beyond,
        }
        score /= self.sigma_target
        return (1.0 - weights.team_share) * score + weights.team_share * score[:, :1]
