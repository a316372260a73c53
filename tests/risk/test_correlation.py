"""Correlation concentration: the measure on paper, and repairs that stop where they must."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.risk.repair.correlation import (
    correlation_concentration,
    diversifying_factors,
    largest_root_below_one,
)

PAIR = np.array([[1.0, 0.85], [0.85, 1.0]])
LIMIT, FLOOR, ROUNDS, TOLERANCE = 0.7, 0.75, 8, 1e-10


def repaired(weights: list[float], correlation: np.ndarray, tradable: list[bool] | None = None) -> np.ndarray:
    book = np.array([weights])
    hollow = (correlation * (1 - np.eye(len(weights))))[None]
    mask = None if tradable is None else np.array([tradable])
    return (book * diversifying_factors(book, hollow, mask, LIMIT, FLOOR, ROUNDS, TOLERANCE))[0]


def test_two_longs_measure_their_correlation_a_hedge_its_negative_and_one_position_nothing() -> None:
    assert correlation_concentration(np.array([0.5, 0.5]), PAIR) == pytest.approx(0.85)
    assert correlation_concentration(np.array([0.5, -0.5]), PAIR) == pytest.approx(-0.85)
    assert correlation_concentration(np.array([0.5, 0.0]), PAIR) == 0.0
    assert correlation_concentration(np.zeros(2), PAIR) == 0.0


def test_weights_count_by_their_product() -> None:
    correlation = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
    weights = np.array([0.6, 0.3, -0.2])
    by_hand = (0.18 * 0.9 - 0.12 * 0.1 - 0.06 * 0.2) / (0.18 + 0.12 + 0.06)
    assert correlation_concentration(weights, correlation) == pytest.approx(by_hand)


def test_a_book_that_passes_is_left_alone() -> None:
    assert repaired([0.6, -0.6], PAIR).tolist() == [0.6, -0.6]


def test_two_longs_shrink_together_to_the_floor_and_never_to_one_naked_index() -> None:
    book = repaired([0.9, 0.6], PAIR)
    assert np.abs(book).sum() == pytest.approx(FLOOR)
    assert book[0] / book[1] == pytest.approx(1.5)


def test_contributors_shrink_by_the_largest_factor_that_passes() -> None:
    # The short of the third is uncorrelated: only the first two contribute.
    correlation = np.array([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 1.0]])
    before = [1.0, 1.0, -0.1]
    book = repaired(before, correlation)
    assert book[2] == -0.1
    assert book[:2].tolist() == pytest.approx([0.56, 0.56])
    assert correlation_concentration(book, correlation) == pytest.approx(LIMIT)
    slightly_larger = np.array([book[0] * 1.001, book[1] * 1.001, -0.1])
    assert correlation_concentration(slightly_larger, correlation) > LIMIT


def test_contributors_shrink_no_further_than_the_floor_of_gross() -> None:
    correlation = np.array([[1.0, 0.85, 0.0], [0.85, 1.0, 0.0], [0.0, 0.0, 1.0]])
    book = repaired([0.9, 0.6, -0.01], correlation)
    assert book[2] == -0.01
    assert np.abs(book).sum() == pytest.approx(FLOOR)


def test_untradable_positions_stay_and_the_others_give_way() -> None:
    correlation = np.full((3, 3), 0.9) + 0.1 * np.eye(3)
    book = repaired([0.5, 0.6, 0.6], correlation, [False, True, True])
    assert book[0] == 0.5
    assert np.abs(book).sum() == pytest.approx(FLOOR)
    stuck = repaired([0.5, 0.6, 0.6], correlation, [False, False, True])
    assert stuck.tolist() == [0.5, 0.6, 0.0]


def test_roots_match_numpy() -> None:
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(200, 3))
    ours = largest_root_below_one(*coefficients.T.copy())
    for row, root in zip(coefficients, ours):
        real = [r.real for r in np.roots(row) if abs(r.imag) < 1e-12 and 0 < r.real < 1]
        assert root == pytest.approx(max(real)) if real else np.isnan(root)
