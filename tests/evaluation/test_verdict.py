"""The rule of the verdict, case by case, and its words."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.config.sections.evaluation import VerdictConfig
from mtquant_rllib.evaluation.statistics.sharpe_tests import (
    deflated_sharpe,
    expected_best_of,
    probabilistic_sharpe,
    sharpe_error,
    sharpe_influence,
)
from mtquant_rllib.evaluation.statistics.verdict import Outcome, judge_returns

YEAR = 252
RULE = VerdictConfig(significance=0.05, max_overfitting=0.5, overfitting_blocks=10)


def book(sharpe: float, seed: int, years: int = 6) -> np.ndarray:
    """Returns whose Sharpe ratio in the sample is exactly this one."""
    shocks = np.random.default_rng(seed).standard_normal(years * YEAR)
    shocks = (shocks - shocks.mean()) / shocks.std()
    return np.asarray(0.01 * (shocks + sharpe / np.sqrt(YEAR)))


def finding(sharpe: float, rules: dict[str, np.ndarray], **how: object) -> Outcome:
    verdict = judge_returns(book(sharpe, 0), rules, YEAR, RULE, **how)  # type: ignore[arg-type]
    assert verdict is not None
    return verdict.finding


def test_what_the_rule_says() -> None:
    weak, strong = {"flat": book(0.0, 1)}, {"market": book(1.4, 2)}
    assert finding(1.5, weak) is Outcome.BEATS
    assert finding(1.5, {**weak, **strong}) is Outcome.EARNS, "it earns, and the market earned as much"
    assert finding(0.4, weak) is Outcome.LUCK
    assert finding(-1.0, weak) is Outcome.LOSES
    assert finding(1.5, {}) is Outcome.BEATS, "there is no rule to beat"


def test_the_best_of_many_trials_needs_more() -> None:
    assert finding(1.0, {}) is Outcome.BEATS
    assert finding(1.0, {}, n_trials=50) is Outcome.LUCK


def test_trials_at_hand_are_counted_and_searched_for_overfitting() -> None:
    trials = np.stack([book(2.5, 0), *(book(sharpe, 9 + k) for k, sharpe in enumerate(np.linspace(-0.5, 0.5, 9)))])
    verdict = judge_returns(trials[0], {}, YEAR, RULE, n_trials=1, trials=trials)
    assert verdict is not None
    assert (verdict.finding, verdict.n_trials) == (Outcome.BEATS, 10)
    assert verdict.overfitting == 0.0
    assert "the best of 10 trials" in verdict.words
    assert verdict.deflated == pytest.approx(deflated_sharpe(trials[0], 10)), "nine bad trials are no luck"


def test_trials_that_resemble_each_other_are_less_luck() -> None:
    alike = np.stack([book(sharpe, 0) for sharpe in (1.1, 1.0, 0.9, 0.8)])
    verdict = judge_returns(alike[0], {}, YEAR, RULE, trials=alike)
    assert verdict is not None
    per_bar = np.array([1.1, 1.0, 0.9, 0.8]) / np.sqrt(YEAR)
    assert verdict.deflated == pytest.approx(deflated_sharpe(alike[0], 4, float(per_bar.std(ddof=1))))
    assert verdict.deflated > deflated_sharpe(alike[0], 4)


def test_the_words_name_what_is_open_and_how_long_it_takes() -> None:
    earns = judge_returns(book(1.5, 0), {"flat": book(0.0, 1), "market": book(1.4, 2)}, YEAR, RULE)
    assert earns is not None
    assert "a net Sharpe of 1.50 ± 0.4" in earns.words
    assert earns.words.endswith("Not shown to be better than market")
    luck = judge_returns(book(0.4, 0), {}, YEAR, RULE)
    assert luck is not None
    assert luck.words.endswith("It would take 17 years of the same to tell"), "1.645^2 / 0.4^2"
    assert np.isinf(judge_returns(book(-0.1, 0), {}, YEAR, RULE).years_needed)  # type: ignore[union-attr]


def test_the_years_that_it_takes_are_those_after_which_the_best_of_many_is_told_from_luck() -> None:
    """The luck of the best of twenty falls with the error as the record grows: the formula, read back."""
    returns = book(0.6, 0)
    verdict = judge_returns(returns, {}, YEAR, RULE, n_trials=20)
    assert verdict is not None
    assert verdict.finding is Outcome.LUCK
    assert np.isfinite(verdict.years_needed), "twenty trials' luck at this length is above its Sharpe ratio"
    n_bars = verdict.years_needed * YEAR
    error = float(sharpe_error(returns)) * np.sqrt((len(returns) - 1) / (n_bars - 1))
    sharpe = float(sharpe_influence(returns)[1])
    assert deflated_at(sharpe, error, 20) == pytest.approx(1 - RULE.significance)


def deflated_at(sharpe: float, error: float, n_trials: int) -> float:
    return float(probabilistic_sharpe(sharpe, float(expected_best_of(n_trials, error)), error))


def test_a_book_that_never_moves_gets_none() -> None:
    assert judge_returns(np.zeros(300), {"market": book(1.0, 1)[:300]}, YEAR, RULE) is None
