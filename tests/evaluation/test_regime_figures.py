"""Regimes counted with a pencil, and a book's result split between them without a rest."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from test_report import N, played

from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.regimes.figures import (
    NO_REGIME,
    find_spells,
    mean_by_regime,
    performance_by_regime,
    regime_figures,
    tracked_figures,
    weight_regime_correlation,
)
from mtquant_rllib.features.regimes import Regime

BULL, BEAR, VOLATILE, SIDEWAYS = Regime
LABELS = np.array(
    [
        [BULL, BULL, BULL, SIDEWAYS, SIDEWAYS, BULL],
        [SIDEWAYS, BEAR, BEAR, NO_REGIME, NO_REGIME, NO_REGIME],
    ]
)


def test_transitions_are_counted_within_a_history_and_not_past_its_end() -> None:
    figures = regime_figures(LABELS)
    expected = np.zeros((4, 4), dtype=int)
    expected[BULL, BULL], expected[BULL, SIDEWAYS] = 2, 1
    expected[SIDEWAYS, SIDEWAYS], expected[SIDEWAYS, BULL], expected[SIDEWAYS, BEAR] = 1, 1, 1
    expected[BEAR, BEAR] = 1
    np.testing.assert_array_equal(figures.transitions, expected)
    assert figures.n_changes == 3
    np.testing.assert_allclose(figures.frequencies[BULL], [2 / 3, 0, 0, 1 / 3])
    np.testing.assert_allclose(figures.destinations[SIDEWAYS], [0.5, 0.5, 0, 0])
    assert np.isnan(figures.destinations[BEAR]).all(), "bear never ended"


def test_shares_and_durations_follow_from_the_stretches() -> None:
    figures = regime_figures(LABELS)
    np.testing.assert_allclose(figures.shares, [4 / 9, 2 / 9, 0, 3 / 9])
    np.testing.assert_allclose(figures.mean_duration_bars, [2, 2, np.nan, 1.5])
    spells = find_spells(LABELS)
    assert list(zip(spells.env, spells.start, spells.bars, spells.regime)) == [
        (0, 0, 3, BULL),
        (0, 3, 2, SIDEWAYS),
        (0, 5, 1, BULL),
        (1, 0, 1, SIDEWAYS),
        (1, 1, 2, BEAR),
    ]


def test_one_history_can_be_given_without_its_axis() -> None:
    assert regime_figures(LABELS[0]).n_changes == 2
    with pytest.raises(ValueError, match="no bar has a regime"):
        regime_figures(np.full(3, NO_REGIME))


def test_confidence_is_the_mean_over_the_regimes_own_bars() -> None:
    confidence = np.array([[0.1, 0.2, 0.3, 0.5, 0.7, 0.4], [0.9, 0.6, 0.8, 9.0, 9.0, 9.0]])
    figures = regime_figures(LABELS, confidence)
    np.testing.assert_allclose(figures.confidence, [0.25, 0.7, np.nan, 0.7])
    assert figures.named(252)["regime_confidence"] == pytest.approx(4.5 / 9)


def test_what_a_tracker_gets_is_flat_finite_and_named_after_the_regimes() -> None:
    named = tracked_figures(LABELS, np.zeros(LABELS.shape), bars_per_year=90)
    assert named["regime_share_bull"] == pytest.approx(4 / 9)
    assert named["regime_transitions_per_year"] == pytest.approx(30)
    assert "regime_duration_bars_volatile" not in named
    assert all(np.isfinite(value) for value in named.values())


def split_in(n_bars: int, n_envs: int = 1) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 3, (n_envs, n_bars)).astype(np.int8)


def test_profits_by_regime_add_up_to_the_whole_return() -> None:
    record, labels = played(n_envs=3, drift=1e-4), split_in(120, 3)
    desk = performance_by_regime(record, labels)
    total = (record.equity_ccy[:, -1] / record.equity_start_ccy - 1).mean()
    assert desk.profit_frac[:-1].sum() == pytest.approx(total)
    assert desk.profit_frac[-1] == pytest.approx(total)
    assert desk.bars[:-1].sum() == desk.bars[-1] == record.played.sum()


def test_a_bankrupt_book_adds_up_too() -> None:
    record = played("hold_WTIUSD", shock=-3.06)
    desk = performance_by_regime(record, split_in(120))
    assert desk.profit_frac[-1] < -1
    assert desk.profit_frac[:-1].sum() == pytest.approx(desk.profit_frac[-1])


def test_a_regimes_figures_are_those_of_its_bars_alone() -> None:
    record, labels = played(), split_in(120)
    desk = performance_by_regime(record, labels)
    bear = record.returns[0][labels[0] == BEAR]
    assert desk.sharpe_ann[BEAR] == pytest.approx(np.sqrt(252) * bear.mean() / bear.std(ddof=1))
    assert desk.sharpe_error[BEAR] == pytest.approx(float(measures.sharpe_standard_error(bear, 252)))
    assert desk.win_rate[BEAR] == pytest.approx((bear > 0).sum() / (bear != 0).sum())
    curve = np.concatenate([[1], np.cumprod(1 + bear)])
    assert desk.max_drawdown_frac[BEAR] == pytest.approx((1 - curve / np.maximum.accumulate(curve)).max())
    assert desk.sharpe_ann[-1] == pytest.approx(float(measures.sharpe(record.returns[0], 252)))
    assert np.isnan(desk.sharpe_ann[SIDEWAYS]), "no bar was sideways"


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same"):
        performance_by_regime(played(), split_in(119))


def test_a_weights_correlation_with_a_regime_is_pearsons() -> None:
    record, labels = played(n_envs=2), split_in(120, 2)
    found = weight_regime_correlation(record.weights, labels)
    for i in (0, N - 1):
        for regime in (BULL, BEAR, VOLATILE):
            reference = stats.pearsonr(record.weights[..., i].ravel(), (labels == regime).ravel()).statistic
            assert found[i, regime] == pytest.approx(reference)
    assert np.isnan(found[:, SIDEWAYS]).all()


def test_a_book_that_is_long_in_bull_alone_correlates_with_it_fully() -> None:
    labels = np.array([[BULL, BEAR, BULL, SIDEWAYS]])
    weights = (labels == BULL)[..., None] * 0.3
    assert weight_regime_correlation(weights, labels)[0, BULL] == pytest.approx(1)
    np.testing.assert_allclose(mean_by_regime(weights, labels)[:, 0], [0.3, 0, np.nan, 0])
