"""What choosing the best of several configurations is worth, by the bars that all of them were judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.evaluation import VerdictConfig
from mtquant_rllib.evaluation.statistics.sharpe_tests import sharpe_influence
from mtquant_rllib.evaluation.statistics.verdict import judge_returns


@dataclass(frozen=True)
class Selection:
    """The configuration with the highest Sharpe ratio of the mean return of its seeds, as the best of all.

    n_trials
        That it is judged as the best of: the configurations, or as many different trainings as the ledger counts on
        these bars, where those are more.
    deflated
        Probability that it has any skill (the deflated Sharpe ratio of Bailey and Lopez de Prado).
    overfitting
        Probability that the best on one half of the bars is below the median on the other half (CSCV).
    """

    name: str
    n_configurations: int
    n_trials: int
    deflated: float
    overfitting: float

    @property
    def words(self) -> str:
        """A sentence for people."""
        more = f" and of {self.n_trials} trainings on these bars" if self.n_trials > self.n_configurations else ""
        return (
            f"{self.name} is the best of {self.n_configurations} configurations{more}: probability of skill "
            f"{self.deflated:.0%} (deflated Sharpe ratio), probability of backtest overfitting {self.overfitting:.0%} "
            "(CSCV)."
        )


def selection(
    names: Sequence[str], returns: np.ndarray, bars_per_year: float, config: VerdictConfig, *, n_trials: int = 1
) -> Selection | None:
    """Judge the best of N configurations by their net returns, finite (N, T).

    n_trials: trainings that there were, where those are more than the configurations.

    Returns None for fewer than two configurations that trade, or for too few bars.
    """
    moving = np.flatnonzero(np.ptp(returns, axis=1) > 0)
    if len(moving) < 2 or returns.shape[1] < 2 * config.overfitting_blocks:
        return None
    trials = returns[moving]
    best = int(np.argmax(sharpe_influence(trials)[1]))
    verdict = judge_returns(trials[best], {}, bars_per_year, config, n_trials=n_trials, trials=trials)
    assert verdict is not None
    assert verdict.overfitting is not None
    return Selection(names[moving[best]], len(trials), verdict.n_trials, verdict.deflated, verdict.overfitting)
