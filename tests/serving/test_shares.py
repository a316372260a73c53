"""Sharing of a desk's orders among brokers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtquant_rllib.serving.execution.brokers.shares import Unshareable, apportion, share_order

ONES = {"a": 1, "b": 1, "c": 1}


def share(
    order: int,
    held: Mapping[str, int],
    shares: Mapping[str, float],
    granules: Mapping[str, int] = ONES,
    smallest: int = 1,
) -> dict[str, int]:
    return share_order(order, held, shares, granules, {name: max(granules[name], smallest) for name in shares})


def test_ten_steps_by_sixty_and_forty_are_six_and_four() -> None:
    assert share(10, {"a": 0, "b": 0}, {"a": 0.6, "b": 0.4}) == {"a": 6, "b": 4}
    assert share(-10, {"a": 0, "b": 0}, {"a": 0.6, "b": 0.4}) == {"a": -6, "b": -4}


def test_the_remainder_goes_to_the_largest_fraction_and_the_first_of_equals() -> None:
    """5 x .7 = 3.5 and 5 x .3 = 1.5: equal remainders, and `a` stands first. 7 x .25 = 1.75 is nearer to two."""
    assert apportion(5, {"a": 0.7, "b": 0.3}, ONES) == {"a": 4, "b": 1}
    assert apportion(7, {"a": 0.75, "b": 0.25}, ONES) == {"a": 5, "b": 2}
    assert apportion(-1, {"b": 0.5, "a": 0.5}, ONES) == {"b": -1, "a": 0}


def test_seats_of_the_textbook_are_apportioned_alike() -> None:
    """Hamilton's apportionment of the first House of Representatives (census of 1790, 120 seats), as it stands in
    Balinski and Young, Fair Representation (1982), for the four largest and the two smallest states."""
    census = {
        "Connecticut": 236841.0, "Delaware": 55540.0, "Georgia": 70835.0, "Kentucky": 68705.0, "Maryland": 278514.0,
        "Massachusetts": 475327.0, "New Hampshire": 141822.0, "New Jersey": 179570.0, "New York": 331589.0,
        "North Carolina": 353523.0, "Pennsylvania": 432879.0, "Rhode Island": 68446.0, "South Carolina": 206236.0,
        "Vermont": 85533.0, "Virginia": 630560.0,
    }  # fmt: skip
    seats = apportion(120, census, dict.fromkeys(census, 1))
    assert sum(seats.values()) == 120
    known = {"Virginia": 21, "Massachusetts": 16, "Pennsylvania": 14, "North Carolina": 12, "Georgia": 2, "Delaware": 2}
    assert {state: seats[state] for state in known} == known


def test_a_desk_that_goes_flat_step_by_step_is_flat_at_every_broker() -> None:
    """By shares of each order alone, three sales of one step would leave one broker short and the other long."""
    held = {"a": 2, "b": 1}
    for _ in range(3):
        for name, part in share(-1, held, {"a": 0.6, "b": 0.4}).items():
            held[name] += part
    assert held == {"a": 0, "b": 0}


def test_a_broker_that_holds_more_than_its_share_gets_no_order_on_the_other_side() -> None:
    assert share(4, {"a": 10, "b": 0}, {"a": 0.5, "b": 0.5}) == {"b": 4}


def test_a_coarse_broker_gets_whole_steps_of_its_own_and_the_fine_one_the_rest() -> None:
    assert share(13, {"a": 0, "b": 0}, {"a": 0.5, "b": 0.5}, {"a": 1, "b": 5}) == {"a": 8, "b": 5}
    with pytest.raises(Unshareable, match="13 lot steps are no whole number of the steps of b"):
        share(13, {"b": 0}, {"b": 1.0}, {"b": 5})


def test_a_part_below_a_brokers_smallest_order_goes_to_the_others() -> None:
    assert share(4, {"a": 0, "b": 0}, {"a": 0.75, "b": 0.25}, smallest=2) == {"a": 4}
    with pytest.raises(Unshareable, match="no broker of a, b takes an order of this size"):
        share(1, {"a": 0, "b": 0}, {"a": 0.5, "b": 0.5}, smallest=2)


@settings(deadline=None)
@given(
    st.lists(st.integers(-200, 200).filter(bool), min_size=1, max_size=12),
    st.lists(st.integers(1, 20), min_size=3, max_size=3),
)
def test_parts_add_up_have_the_orders_side_and_a_flat_desk_is_flat_everywhere(
    orders: list[int], weights: list[int]
) -> None:
    shares, held = dict(zip(ONES, map(float, weights))), dict.fromkeys(ONES, 0)
    for order in [*orders, -sum(orders)]:
        if order:
            parts = share(order, held, shares)
            assert sum(parts.values()) == order
            assert all(part * order > 0 for part in parts.values())
            held = {name: held[name] + parts.get(name, 0) for name in held}
    assert set(held.values()) == {0}
