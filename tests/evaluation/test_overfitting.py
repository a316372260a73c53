"""PBO against the definition, choice by choice, and on searches whose answer is known."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from mtquant_rllib.evaluation.statistics.overfitting import overfitting


def naive(returns: np.ndarray, n_blocks: int) -> np.ndarray:
    """Logits by the paper's steps, one choice at a time."""
    blocks = np.array_split(returns, n_blocks)
    logits = []
    for chosen in combinations(range(n_blocks), n_blocks // 2):
        inside = np.concatenate([blocks[b] for b in chosen])
        outside = np.concatenate([blocks[b] for b in range(n_blocks) if b not in chosen])
        best = np.argmax(inside.mean(axis=0) / inside.std(axis=0, ddof=1))
        sharpes = outside.mean(axis=0) / outside.std(axis=0, ddof=1)
        rank = 1 + (sharpes < sharpes[best]).sum()
        logits.append(np.log(rank / (len(sharpes) + 1 - rank)))
    return np.array(logits)


def test_every_choice_is_the_papers() -> None:
    returns = np.random.default_rng(0).standard_normal((240, 7))
    found = overfitting(returns, 6)
    assert len(found.logits) == comb(6, 3)
    np.testing.assert_allclose(found.logits, naive(returns, 6))
    assert found.probability == (naive(returns, 6) <= 0).mean()


def test_a_pencil_example() -> None:
    """Two blocks, two trials; each is good where the other is bad: whichever is chosen is the worse one after."""
    good, bad = [2.0, 1.0], [-2.0, -1.0]
    found = overfitting(np.array([good + bad, bad + good]).T, 2)
    assert found.probability == 1.0
    np.testing.assert_allclose(found.logits, np.log(1 / 2))
    assert found.probability_of_loss == 1.0


def test_luck_is_overfitted_about_half_of_the_time_and_skill_never() -> None:
    rng = np.random.default_rng(1)
    luck = [overfitting(rng.standard_normal((600, 10)), 8).probability for _ in range(60)]
    assert np.mean(luck) == pytest.approx(0.5, abs=0.08)
    skilled = rng.standard_normal((600, 10))
    skilled[:, 3] += 0.4
    assert overfitting(skilled, 8).probability == 0.0


def test_a_trial_that_never_moves_is_ranked_as_zero() -> None:
    returns = np.random.default_rng(2).standard_normal((100, 3)) - 1.0
    returns[:, 1] = 0.0
    assert overfitting(returns, 4).probability == 0.0


@pytest.mark.parametrize(("shape", "blocks"), [((100, 5), 5), ((100, 1), 4), ((7, 5), 4)])
def test_what_cannot_be_cut_is_refused(shape: tuple[int, int], blocks: int) -> None:
    with pytest.raises(ValueError, match="an even number of blocks"):
        overfitting(np.ones(shape), blocks)


def test_skfolio_makes_the_same_choices() -> None:
    selection = pytest.importorskip(
        "skfolio.model_selection", reason="skfolio is not installed: a second opinion, no dependency"
    )
    returns = np.random.default_rng(3).standard_normal((120, 5))
    folds = selection.CombinatorialPurgedCV(n_folds=6, n_test_folds=3, purged_size=0, embargo_size=0)
    pairs = {
        (returns[train].mean(axis=0) / returns[train].std(axis=0, ddof=1)).max().round(12)
        for train, _ in folds.split(returns)
    }
    assert pairs == set(overfitting(returns, 6).chosen_in.round(12))
