"""Baselines: what they ask for on a market small enough for a pencil, and that none of them sees the future."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation.backtest.baselines import (
    EqualWeight,
    Hold,
    InverseVolatility,
    LongAll,
    MarketView,
    Momentum,
    past_move,
    uniform_of_rows,
    weight_rules,
)

SETTINGS = Settings.load()
RULES = weight_rules(SETTINGS)


def view(closes, vol=0.2, weights=None, n_paths=1, n_envs=1):
    closes = np.asarray(closes, dtype=float)
    vol_ann = np.broadcast_to(np.asarray(vol, dtype=float), closes.shape)
    held = np.zeros((n_envs, closes.shape[1])) if weights is None else np.asarray(weights, dtype=float)
    return MarketView(closes, vol_ann, held, len(closes) // n_paths)


def walk(n_rows, n=8, seed=0):
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, (n_rows, n)), axis=0))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_does_not_see_the_future(name):
    rows = np.array([260, 280, 299])
    rng = np.random.default_rng(1)
    closes, vol = walk(400), rng.uniform(0.05, 0.4, (400, 8))
    held = rng.normal(0, 0.1, (3, 8))
    changed_closes, changed_vol = closes.copy(), vol.copy()
    changed_closes[300:] *= rng.uniform(-2, 2, (100, 8))
    changed_vol[300:] *= 3
    now = RULES[name](rows, view(closes, vol, held))
    then = RULES[name](rows, view(changed_closes, changed_vol, held))
    assert now.shape == (3, 8)
    assert np.isfinite(now).all()
    np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_treats_each_environment_alone(name):
    rows = np.array([299, 260, 280])
    rng = np.random.default_rng(2)
    closes, held = walk(400), rng.normal(0, 0.1, (3, 8))
    together = RULES[name](rows, view(closes, weights=held))
    for b in range(3):
        alone = RULES[name](rows[b : b + 1], view(closes, weights=held[b : b + 1]))
        np.testing.assert_array_equal(together[b], alone[0])


def test_the_table_has_every_baseline_and_each_instrument_held():
    assert list(RULES)[:7] == [
        "flat", "equal_weight", "inverse_volatility", "momentum_60", "momentum_12_1", "long_all", "random",
    ]  # fmt: skip
    assert list(RULES)[7:] == [f"hold_{symbol}" for symbol in SETTINGS.universe.symbols]


def test_flat_asks_for_nothing_and_equal_weight_for_an_eighth_each():
    market = view(walk(5))
    assert not RULES["flat"](np.array([3]), market).any()
    np.testing.assert_allclose(RULES["equal_weight"](np.array([3]), market), 1 / 8)


def test_inverse_volatility_holds_twice_as_much_of_what_moves_half_as_much():
    target = InverseVolatility(no_trade_band=0.0)(np.array([1]), view([[1, 1, 1]] * 2, vol=[0.1, 0.2, 0.2]))
    np.testing.assert_allclose(target, [[0.5, 0.25, 0.25]])


def test_long_all_holds_the_risk_share_over_volatility():
    # 20% a year over three domains and three instruments: 2.22% of risk each; at 10% volatility a weight of .222.
    target = RULES["long_all"](np.array([1]), view(walk(3), vol=0.1))
    np.testing.assert_allclose(target[0, 0], 0.2 / 3 / 3 / 0.1)
    np.testing.assert_allclose(target[0, 3], 0.2 / 3 / 2 / 0.1)


def test_momentum_takes_the_sign_of_the_window_without_its_skipped_end():
    rises_then_falls = np.array([[1.0], [2.0], [3.0], [2.5], [2.0]])
    market = view(rises_then_falls)
    last = np.array([4])
    assert Momentum(4, 2, (0.02,), 0.0)(last, market)[0, 0] == pytest.approx(0.1)
    assert Momentum(2, 0, (0.02,), 0.0)(last, market)[0, 0] == pytest.approx(-0.1)


def test_past_move_sums_clipped_returns_and_survives_a_negative_price():
    prices = np.array([[20.0], [18.0], [-36.0], [10.0]])  # -10%, then -300% and +128%, both clipped to 50%
    assert past_move(np.array([3]), view(prices), 3, 0)[0, 0] == pytest.approx(-0.1 - 0.5 + 0.5)
    assert past_move(np.array([3]), view(prices), 3, 1)[0, 0] == pytest.approx(-0.1 - 0.5)


def test_momentum_does_not_reach_into_the_path_before():
    market = view(np.concatenate([walk(10, 1), walk(10, 1, seed=1)]), n_paths=2)
    assert past_move(np.array([12]), market, 5, 0)[0, 0] == 0
    assert past_move(np.array([16]), market, 5, 0)[0, 0] != 0


def test_random_is_a_function_of_seed_row_and_instrument_alone():
    rows = np.arange(20_000)
    draws = uniform_of_rows(0, rows, 8)
    np.testing.assert_array_equal(draws[[5, 3]], uniform_of_rows(0, np.array([5, 3]), 8))
    assert not np.array_equal(draws, uniform_of_rows(1, rows, 8))
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.005)
    assert draws.std() == pytest.approx(12**-0.5, abs=0.005)
    assert abs(np.corrcoef(draws[1:].ravel(), draws[:-1].ravel())[0, 1]) < 0.01
    assert np.abs(np.corrcoef(draws.T) - np.eye(8)).max() < 0.03


def test_a_position_near_its_target_is_left_alone_and_one_beyond_the_band_is_not():
    rule = EqualWeight(no_trade_band=0.02)
    held = np.array([[0.26, 0.23, 0.20, 0.31]])
    np.testing.assert_allclose(rule(np.array([0]), view(np.ones((1, 4)), weights=held)), [[0.26, 0.23, 0.25, 0.25]])


def test_a_small_remainder_is_closed_whole():
    rule = LongAll((0.0,), no_trade_band=0.02)
    assert rule(np.array([0]), view([[1.0]], weights=[[0.01]]))[0, 0] == 0


def test_nothing_is_traded_on_a_price_that_is_not_positive():
    held = np.array([[-0.4]])  # long oil at -37.63: a negative weight
    assert EqualWeight(0.02)(np.array([0]), view([[-37.63]], weights=held))[0, 0] == -0.4


def test_a_holder_lets_the_weight_drift_up_never_sells_and_buys_back_what_was_sold_for_it():
    rule = Hold(instrument=1, held_weight=1.0, no_trade_band=0.02)
    held = np.array([[0.0, 0.0], [0.0, 1.2], [0.0, 0.99], [0.0, 0.5]])
    asked = rule(np.zeros(4, dtype=np.int64), view(np.ones((1, 2)), weights=held))
    np.testing.assert_allclose(asked, [[0, 1.0], [0, 1.2], [0, 0.99], [0, 1.0]])


def test_unknown_volatility_means_no_position():
    target = RULES["long_all"](np.array([0]), view(np.ones((1, 8)), vol=np.nan))
    assert not target.any()
