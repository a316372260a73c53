"""What choosing the best of several configurations is worth, by the bars that all of them were judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.evaluation import VerdictConfig
from mtquant_rllib.evaluation.statistics.sharpe_tests import sharpe_influence
from mtquant_rllib.evaluation.statistics.verdict import judge_returns


@dataclass(frozen=True)
class Selection:
    """The configuration with the highest Sharpe ratio of the mean return of its seeds, as the best of all.

    deflated
        Probability that it has any skill (the deflated Sharpe ratio of Bailey and Lopez de Prado).
    overfitting
        Probability that the best on one half of the bars is below the median on the other half (CSCV).
    """

    name: str
    n_configurations: int
    deflated: float
    overfitting: float

    @property
    def words(self) -> str:
        """A sentence for people."""
        return (
            f"{self.name} is the best of {self.n_configurations} configurations: probability of skill "
            f"{self.deflated:.0%} (deflated Sharpe ratio), probability of backtest overfitting {self.overfitting:.0%} "
            "(CSCV)."
        )


def selection(
    names: Sequence[str], returns: np.ndarray, bars_per_year: float, config: VerdictConfig
) -> Selection | None:
    """Judge the best of N configurations by their net returns, finite (N, T).

    Returns None for fewer than two configurations that trade, or for too few bars.
    """
    moving = np.flatnonzero(np.ptp(returns, axis=1) > 0)
    if len(moving) < 2 or returns.shape[1] < 2 * config.overfitting_blocks:
        return None
    trials = returns[moving]
    best = int(np.argmax(sharpe_influence(trials)[1]))
    verdict = judge_returns(trials[best], {}, bars_per_year, config, trials=trials)
    assert verdict is not None
    assert verdict.overfitting is not None
    return Selection(names[moving[best]], len(trials), verdict.deflated, verdict.overfitting)
