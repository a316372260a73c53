"""The book and what trading costs, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtquant_rllib.portfolio.book import Book
from mtquant_rllib.portfolio.costs import night_cost, trade_cost


def book(*units: float) -> Book:
    one = Book(1, np.ones(len(units) or 1), 1000.0)
    one.units[:] = units or 0.0
    return one


def filled(one: Book, target: float, price: float) -> tuple[float, float]:
    one.fill(np.array([[target]]), np.array([[price]]))
    return float(one.units[0, 0]), float(one.entry[0, 0])


def test_entry_prices_average_over_additions_stay_through_reductions_and_start_afresh_on_a_flip():
    one = book()
    assert filled(one, 10, 100.0) == (10, 100.0)
    assert filled(one, 30, 106.0) == (30, 104.0)
    assert filled(one, 15, 120.0) == (15, 104.0)
    one.bars_held[:] = 7
    assert filled(one, -5, 90.0) == (-5, 90.0)
    assert one.bars_held[0, 0] == 0
    assert filled(one, -10, 80.0) == (-10, 85.0)
    assert filled(one, 0, 70.0) == (0, 0.0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["settle", "charge", "finance"]), st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3)
        ),
        max_size=30,
    )
)
def test_equity_changes_by_exactly_what_is_itemised(bookings):
    one = book(0, 0, 0)
    one.begin_bar()
    for kind, amounts in bookings:
        getattr(one, kind)(np.array([amounts]))
    total = (one.pnl_ccy - one.cost_ccy - one.financing_ccy).sum()
    assert one.equity[0] - 1000.0 == pytest.approx(total, abs=1e-6)


def test_a_new_account_holds_cash_only_and_leaves_its_neighbours_alone():
    two = Book(2, np.ones(1), 1000.0)
    two.fill(np.array([[5.0], [5.0]]), np.array([[10.0], [10.0]]))
    two.stop[:] = 9.0
    two.equity[:] = -50.0
    two.reset(np.array([1]))
    assert two.units[:, 0].tolist() == [5.0, 0.0]
    assert two.equity.tolist() == [-50.0, 1000.0]
    assert np.isnan(two.stop[1, 0])
    assert two.stop[0, 0] == 9.0


def test_lots_are_cut_toward_zero_on_either_side():
    one = Book(1, np.array([1000.0, 0.1, 1.0]), 1000.0)
    np.testing.assert_allclose(one.whole_lots(np.array([[1999.0, 0.19, 0.99]])), [[1000.0, 0.1, 0.0]])
    np.testing.assert_allclose(one.whole_lots(np.array([[-1999.0, -0.19, -0.99]])), [[-1000.0, -0.1, 0.0]])
    np.testing.assert_allclose(one.whole_lots(np.array([[3000.0 * (1 - 1e-15), 0.3, 0.0]])), [[3000.0, 0.3, 0.0]])


def test_a_trade_pays_its_fraction_and_impact_above_a_share_of_daily_volume():
    """10,000 at 2 bp is 2; a million of an ADV of 100 million is 1%, so impact adds .1 * 2% * sqrt(.01) = 2 bp."""
    cost = trade_cost(
        np.array([[1e4, 1e6]]), np.array([[2e-4, 2e-4]]), np.array([[0.02, 0.02]]), np.array([1e8, 1e8]), 0.1, 1e-3
    )
    np.testing.assert_allclose(cost, [[2.0, 200.0 + 200.0]])


@settings(deadline=None)
@given(st.floats(1.0, 1e9), st.floats(1.0, 4.0))
def test_impact_makes_large_trades_dearer_per_unit(size, factor):
    def per_unit(traded):
        args = np.array([[1e-4]]), np.array([[0.01]]), np.array([1e9]), 0.1, 1e-4
        return trade_cost(np.array([[traded]]), *args)[0, 0] / traded

    assert per_unit(size * factor) >= per_unit(size) * (1 - 1e-9) >= 1e-4 * (1 - 2e-9)


def test_a_night_is_paid_on_the_notional_whatever_its_sign():
    units, value = np.array([[10.0, -10.0, 0.0, 10.0]]), np.array([[100.0, 100.0, 100.0, -37.0]])
    cost = night_cost(units, value, np.full((1, 4), 2e-4), np.full((1, 4), -1e-4))
    np.testing.assert_allclose(cost, [[0.2, -0.1, 0.0, 10 * 37 * 2e-4]])
