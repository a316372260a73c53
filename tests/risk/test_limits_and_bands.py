"""Loads, forced closes, price bands and legs, with a pencil."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.risk.pretrade import Failure, failures, held, increase, margin_room, within_price_band
from mtquant_rllib.risk.repair.limits import forced_close, margin_rates, margin_used, sector_gross, shrink_to_limit


def test_margin_is_the_dearer_of_the_configured_rate_and_the_leverage_cap() -> None:
    rows = Settings.load().symbols
    eur, oil = rows["EURUSD"], rows["WTIUSD"]
    assert margin_rates([eur])[0] == pytest.approx(1 / 30)  # 3.33% configured is a little less
    assert margin_rates([oil.model_copy(update={"leverage": 5.0})])[0] == pytest.approx(0.2)
    assert margin_used(np.array([[0.6, -0.5]]), np.array([0.1, 0.2]))[0] == pytest.approx(0.16)


def test_sectors_add_absolute_weights() -> None:
    assert sector_gross(np.array([[0.5, -0.25, 0.1]]), [0, 0, 1], 2).tolist() == [[0.75, 0.1]]


def test_shrinking_leaves_room_for_what_cannot_move() -> None:
    free, fixed = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.5, 3.0, 3.0])
    assert shrink_to_limit(free, fixed, 1.2).tolist() == [1.0, 0.7, 0.0, 1.0]


def test_the_largest_margin_user_is_closed_when_equity_is_under_half_of_used_margin() -> None:
    notional = np.array([[100_000.0, -30_000.0]] * 3)
    rates = np.array([0.05, 0.20])  # margins of 5,000 and 6,000: half of them is 5,500
    equity = np.array([5_500.0, 5_499.0, 5_499.0])
    tradable = np.array([[True, True], [True, True], [True, False]])
    assert forced_close(notional, equity, rates, 0.5, tradable).tolist() == [-1, 1, 0]
    assert forced_close(np.zeros((1, 2)), np.array([-1.0]), rates, 0.5, tradable[:1]).tolist() == [-1]


def test_the_price_band_is_two_sided_needs_a_fresh_reference_and_survives_negative_prices() -> None:
    price = np.array([103.0, 103.1, 96.9, 150.0, 150.0, -14.0, -38.0])
    reference = np.array([100.0, 100.0, 100.0, 100.0, np.nan, -37.63, -37.63])
    age = np.array([1, 1, 1, 4, 1, 1, 1])
    ok = within_price_band(price, reference, age, np.full(7, 0.03), 3)
    assert ok.tolist() == [True, False, False, True, True, False, True]


def test_only_the_leg_away_from_zero_counts_as_an_increase() -> None:
    proposed = np.array([0.5, 0.1, 0.0, -0.3, 0.3])
    current = np.array([0.2, 0.2, 0.2, 0.2, 0.0])
    assert held(proposed, current).tolist() == [0.2, 0.2, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(increase(proposed, current), [0.3, 0, 0, 0.3, 0.3])


def test_closing_legs_release_their_margin_to_the_orders_beside_them() -> None:
    margin = np.array([0.5, 0.5])
    current = np.array([[1.6, 0.0]])
    solvent = np.array([1.0])
    assert margin_room(np.array([[1.6, 0.5]]), current, solvent, margin)[0] == pytest.approx(0.2)
    assert margin_room(np.array([[0.6, 0.5]]), current, solvent, margin)[0] == pytest.approx(0.7)
    assert margin_room(np.array([[-1.0, 0.5]]), current, solvent, margin)[0] == 1.0
    assert margin_room(np.array([[0.0, 0.5]]), current, np.array([-1.0]), margin)[0] == 0.0


def test_every_failure_of_an_order_is_reported_and_a_good_order_has_none() -> None:
    no = np.zeros((1, 2), dtype=bool)
    bits = failures(
        np.array([[4.0, 0.1]]),
        np.array([[0.0, 0.2]]),
        np.array([1e6]),
        tradable=no,
        price_band_ok=no,
        opening_allowed=no,
        no_long=np.array([True, True]),
        no_short=np.array([False, False]),
        max_order_ccy=np.array([1e6, 1e6]),
        margin_per_notional=np.array([0.5, 0.5]),
    )[0]
    everything = ~Failure.NONE
    assert Failure(int(bits[0])) == everything
    assert Failure(int(bits[1])) == Failure.UNTRADABLE  # a reduction, on a day without a bar
