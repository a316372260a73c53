"""An order is a value that refuses to be wrong, and survives JSON unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib import strict_json
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.orders import Order, lot_steps, order_id


def an_order(**changes: Any) -> Order:
    fields: dict[str, Any] = {
        "id": "d1.EURUSD",
        "symbol": "EURUSD",
        "side": "buy",
        "lots": 0.03,
        "units": 3000.0,
        "type": "market_on_open",
        "limit_low": 1.05,
        "limit_high": 1.15,
        "stop": 1.08,
        "reason": "the desk wants 12 % of equity and holds 9 %",
        "decision_id": "d1",
        "created": "2022-12-30T00:00:00Z",
    }
    return Order(**(fields | changes))


PRICES = st.floats(allow_nan=False, allow_infinity=False)
SIZES = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@given(lots=SIZES, units=SIZES, stop=st.none() | PRICES, band=st.none() | st.tuples(PRICES, PRICES))
def test_an_order_survives_json_to_the_last_digit(
    lots: float, units: float, stop: float | None, band: tuple[float, float] | None
) -> None:
    low, high = (None, None) if band is None else sorted(band)
    order = an_order(lots=lots, units=units, stop=stop, limit_low=low, limit_high=high)
    assert Order.from_dict(json.loads(strict_json.dumps(order.to_dict()))) == order


def test_the_id_of_an_order_is_its_decision_and_its_symbol() -> None:
    assert order_id("d1", "EURUSD") == order_id("d1", "EURUSD") == "d1.EURUSD"
    assert order_id("d1", "EURUSD") != order_id("d1", "GBPUSD") != order_id("d2", "GBPUSD")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"side": "long"}, "side = 'long': expected buy or sell"),
        ({"type": "limit"}, "type = 'limit'"),
        ({"lots": 0.0}, "lots = 0.0: expected a finite number above 0"),
        ({"units": float("inf")}, "units = inf"),
        ({"limit_low": None}, "both or neither"),
        ({"limit_low": 1.2}, "limit_low = 1.2 is above limit_high = 1.15"),
        ({"stop": float("nan")}, "stop = nan"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(MtquantError, match=named):
        an_order(**changes)


def test_unknown_and_missing_keys_are_named() -> None:
    with pytest.raises(MtquantError, match="not an order"):
        Order.from_dict(an_order().to_dict() | {"venue": "x"})


def test_a_size_is_a_whole_number_of_lot_steps() -> None:
    """.07 / .01 is 7.000000000000001 in binary, and seven steps all the same."""
    assert lot_steps(0.07, 0.01) == 7
    with pytest.raises(MtquantError, match=r"lots = 0.075: expected a whole number of steps of 0.01 lots"):
        lot_steps(0.075, 0.01)
