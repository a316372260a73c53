"""From a bar's returns to the twelve rewards: which term scores which agent in which phase."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env import rewards
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.portfolio.book import row_sums
from mtquant_rllib.portfolio.execution_data import ExecutionData

_LEAST_SHARE = 1e-6
"""Share of capital or appetite under which a book's scale does not fall, where nothing snaps to zero before."""


class DeskReward:
    """Rewards of B environments. Streams stand in the order of the agents: the portfolio's, each domain's, each
    instrument's, K = 1 + D + n.

    Attributes
    ----------
    sigma_target
        Bar volatility of a desk at its target: the unit of the joint phase's reward.
    """

    def __init__(self, settings: Settings, execution: ExecutionData, setup: EpisodeSetup) -> None:
        universe = settings.universe
        self._weights = settings.rewards
        self._snap = max(settings.desk.decision.snap_below, _LEAST_SHARE)
        self._setup = setup
        self._slices = universe.domain_slices
        self._domain_of = np.array(universe.domain_of)
        self._per_domain = np.array([len(universe.domains[d].symbols) for d in universe.domain_of], dtype=np.float64)
        target = settings.desk.decision.vol_target_ann
        self.sigma_target = target / np.sqrt(execution.bars_per_year)
        self._sigma_target_of = target / np.sqrt(execution.bars_per_year_of)

    def by_domain(self, of_instruments: np.ndarray) -> np.ndarray:
        """Sums over each domain's instruments, (B, n) -> (B, D)."""
        return np.stack([row_sums(of_instruments[:, part]) for part in self._slices], axis=1)

    def score(
        self,
        sharpe: rewards.DifferentialSharpe,
        drawdown: rewards.MaximumDrawdown,
        streams: np.ndarray,
        allocation: np.ndarray,
        appetite: np.ndarray,
        edited: np.ndarray,
        var_forecast: np.ndarray,
    ) -> np.ndarray:
        """Rewards (B, K) of one bar.

        Parameters
        ----------
        sharpe, drawdown
            What is remembered of each stream; the bar is added to it.
        streams
            Net returns as fractions of the whole equity, (B, K).
        allocation, appetite
            What the books were sized for, (B, D) and (B,).
        edited
            Absolute weight that risk took from each proposal, (B, n).
        var_forecast
            VaR that the rule used, fraction of equity, (B,).
        """
        drawdown_increment = drawdown.step(streams)
        differential_sharpe = sharpe.step(self._standardised(streams, allocation, appetite))
        if self._setup.phase != 3:
            return differential_sharpe
        return self._joint(streams, drawdown_increment, edited, var_forecast)

    def _standardised(self, streams: np.ndarray, allocation: np.ndarray, appetite: np.ndarray) -> np.ndarray:
        """Net returns in units of the volatility that each book was sized for, (B, K), clipped."""
        d = len(self._slices)
        # A book that has just been given nothing still winds down: its scale does not fall below the smallest share.
        share = np.maximum(allocation, self._snap) * np.maximum(appetite, self._snap)[:, None]
        scale = np.empty_like(streams)
        scale[:, 0] = self.sigma_target
        scale[:, 1 : 1 + d] = share * self.sigma_target
        scale[:, 1 + d :] = share[:, self._domain_of] / self._per_domain * self._sigma_target_of
        if self._setup.domain is not None:
            own = self._slices[self._setup.domain]
            scale[:, 1 + self._setup.domain] /= own.stop - own.start
        clip = self._weights.differential_sharpe.clip
        return np.clip(streams / scale, -clip, clip)

    def _joint(
        self, streams: np.ndarray, drawdown_increment: np.ndarray, edited: np.ndarray, var_forecast: np.ndarray
    ) -> np.ndarray:
        """Risk-adjusted performance in units of the target's bar volatility, own book and the team's, (B, K)."""
        weights = self._weights
        edits = np.concatenate((row_sums(edited)[:, None], self.by_domain(edited), edited), axis=1)
        score = streams - weights.drawdown * drawdown_increment - weights.edits * edits
        score[:, 0] -= weights.var_excess * rewards.var_excess(streams[:, 0], var_forecast)
        score /= self.sigma_target
        return (1.0 - weights.team_share) * score + weights.team_share * score[:, :1]
