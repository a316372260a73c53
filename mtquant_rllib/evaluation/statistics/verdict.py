"""A verdict in words on a book's net returns, by a rule that was written down before anything was run.

The rule (`evaluation.verdict`): a book *earns* where the probability that it has any skill, deflated for the number of
trials that it was chosen from, is at least 1 - significance. It *beats the rules* where besides every simple rule on
the same bars is worse, each at that significance after Holm's adjustment for all of them, and where the probability of
backtest overfitting, if the trials' returns are known, is at most `max_overfitting`. It *loses* where the probability
that its true Sharpe ratio is positive is at most the significance. Everything else *cannot be told from luck*. How
often the rule errs is measured (`mtquant audit verdict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from mtquant_rllib.config.sections.evaluation import VerdictConfig
from mtquant_rllib.evaluation.statistics.overfitting import overfitting
from mtquant_rllib.evaluation.statistics.paired_tests import compare_sharpes
from mtquant_rllib.evaluation.statistics.sharpe_tests import (
    expected_best_of,
    minimum_track_record,
    probabilistic_sharpe,
    sharpe_error,
    sharpe_influence,
)


class Outcome(StrEnum):
    """What the rule says of a book."""

    BEATS = "beats the rules"
    EARNS = "earns"
    LOSES = "loses"
    LUCK = "cannot be told from luck"


@dataclass(frozen=True)
class Verdict:
    """A verdict with the figures that it rests on.

    probabilistic, deflated
        Probability that the true Sharpe ratio is positive; the same, less what the best of so many trials has by luck.
    years, years_needed
        Of the record, and after which its Sharpe ratio would be told from that luck; infinite where it is not above it.
    better_than
        p-value of "not better" than each rule, adjusted for all.
    overfitting
        PBO of the trials; None where their returns are not known.
    """

    finding: Outcome
    sharpe_ann: float
    error_ann: float
    n_trials: int
    probabilistic: float
    deflated: float
    years: float
    years_needed: float
    better_than: Mapping[str, float]
    overfitting: float | None
    significance: float

    @property
    def words(self) -> str:
        """Two sentences for people."""
        chosen = "one trial" if self.n_trials == 1 else f"the best of {self.n_trials} trials"
        first = (
            f"{self.finding}: a net Sharpe of {self.sharpe_ann:.2f} ± {self.error_ann:.2f} over {self.years:.1f} "
            f"years, {chosen}; probability of skill {self.deflated:.0%}"
        )
        if self.finding is Outcome.BEATS:
            return f"{first}. Better than {', '.join(self.better_than)}"
        if self.finding is Outcome.EARNS:
            open_ = [name for name, p in self.better_than.items() if p > self.significance]
            doubt = f"Not shown to be better than {', '.join(open_)}" if open_ else "Its trials look overfitted"
            return f"{first}. {doubt}"
        if self.finding is Outcome.LUCK and np.isfinite(self.years_needed):
            return f"{first}. It would take {self.years_needed:.0f} years of the same to tell"
        return first


def judge_returns(
    returns: np.ndarray,
    rules: Mapping[str, np.ndarray],
    bars_per_year: float,
    config: VerdictConfig,
    *,
    n_trials: int = 1,
    trials: np.ndarray | None = None,
) -> Verdict | None:
    """The verdict on net returns (T,), beside those of the simple rules on the same bars; None for a book that never
    moves.

    Parameters
    ----------
    n_trials
        Trials that the book was chosen from; where more returns are given, as many as those. Of trials whose returns
        are not known the error of one Sharpe ratio stands for their deviation.
    trials
        Net returns of all trials, (N, T), the book's own among them. Their Sharpe ratios' deviation is what luck gives
        the best of them; trials that resemble each other deviate less than the error of one, and where they deviate
        more it is skill, or the want of it, and no luck: the error stands in.
    """
    psi, sharpe = (np.asarray(one) for one in sharpe_influence(returns))
    if not np.isfinite(sharpe):
        return None
    error, n_bars = float(sharpe_error(returns)), psi.shape[-1]
    spread = error
    if trials is not None and len(trials) > 1:
        if n_trials <= len(trials):
            spread = min(spread, float(np.nan_to_num(sharpe_influence(trials)[1]).std(ddof=1)))
        n_trials = max(n_trials, len(trials))
    luck = float(expected_best_of(n_trials, spread))
    probabilistic = float(probabilistic_sharpe(sharpe, 0.0, error))
    deflated = float(probabilistic_sharpe(sharpe, luck, error))
    better = {}
    if rules:
        better = dict(zip(rules, compare_sharpes(returns, np.stack(list(rules.values()))).adjusted.tolist()))
    overfitted = None
    if trials is not None and len(trials) > 1:
        overfitted = overfitting(np.asarray(trials).T, config.overfitting_blocks).probability
    needed = _bars_needed(float(sharpe), luck, error, n_bars, 1 - config.significance)
    scale = float(np.sqrt(bars_per_year))
    return Verdict(
        finding=_finding(probabilistic, deflated, better, overfitted, config),
        sharpe_ann=float(sharpe) * scale,
        error_ann=error * scale,
        n_trials=n_trials,
        probabilistic=probabilistic,
        deflated=deflated,
        years=n_bars / bars_per_year,
        years_needed=needed / bars_per_year,
        better_than=better,
        overfitting=overfitted,
        significance=config.significance,
    )


def _bars_needed(sharpe: float, luck: float, error: float, n_bars: int, confidence: float) -> float:
    """Bars after which a Sharpe ratio of this size would be told from luck: those of `minimum_track_record`, with the
    luck of the best trial falling as the error does, by the root of the bars.

        1 + (T - 1) ((Z(confidence) error + luck) / s)^2
    """
    one_trial = minimum_track_record(sharpe, 0.0, error**2 * (n_bars - 1), confidence)
    if luck == 0.0 or not np.isfinite(one_trial):
        return one_trial
    return float(1 + (n_bars - 1) * ((stats.norm.ppf(confidence) * error + luck) / sharpe) ** 2)


def _finding(
    probabilistic: float,
    deflated: float,
    better: Mapping[str, float],
    overfitted: float | None,
    config: VerdictConfig,
) -> Outcome:
    if deflated >= 1 - config.significance:
        sound = overfitted is None or overfitted <= config.max_overfitting
        beats = sound and all(p <= config.significance for p in better.values())
        return Outcome.BEATS if beats else Outcome.EARNS
    return Outcome.LOSES if probabilistic <= config.significance else Outcome.LUCK
