"""`Order`: what a desk asks a broker to do at the next bar, in whole lots.

An order is a value: it says everything that a broker needs and nothing of what has become of it. Its id is its
decision's with the symbol behind it, so the same decision has the same orders wherever and whenever it is taken again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from mtquant_rllib.errors import MtquantError

Side = Literal["buy", "sell"]
OrderType = Literal["market_on_open", "market_on_close"]

_LOT_TOLERANCE = 1e-6
"""How far from a whole number of lot steps a size may be, in lot steps: sizes are decimal fractions in binary."""


def order_id(decision_id: str, symbol: str) -> str:
    """The id of the order of one decision in one instrument: a decision has at most one for each."""
    return f"{decision_id}.{symbol}"


def lot_steps(lots: float, lot_step: float, *, what: str = "lots") -> int:
    """How many lot steps a size is. Raises MtquantError when it is no whole number of them, naming `what`."""
    steps = lots / lot_step
    if not math.isfinite(steps) or abs(steps - round(steps)) > _LOT_TOLERANCE:
        raise MtquantError(f"{what} = {lots}: expected a whole number of steps of {lot_step} lots")
    return round(steps)


@dataclass(frozen=True)
class Order:
    """One order for the bar after a decision.

    Attributes
    ----------
    id
        `order_id(decision_id, symbol)`.
    symbol
        Name of the instrument in the settings, not the broker's.
    side
        `buy` or `sell`: of the order, whatever is held.
    lots
        Size, above 0: a whole number of the instrument's lot steps, one at least.
    units
        The same size in units of the base: lots times the instrument's `contract`.
    type
        `market_on_open` fills at the next bar's open; `market_on_close` at its close, where the open is not tradable.
    limit_low, limit_high
        Price band in quote currency, both or neither. The part of the order that opens or enlarges a position does not
        fill at a price outside; the part that reduces one always fills. None where nothing is opened, or where no close
        is recent enough to measure from.
    stop
        Level of the protective stop of the position that the order leaves, quote currency, were it filled at the last
        close; None where it leaves none, or none that sets a stop.
    reason
        Why, in plain words.
    decision_id
        The decision that it belongs to.
    created
        Close at which it was decided, UTC, ISO 8601: the timestamp of the bar just closed, not of a clock.
    """

    id: str
    symbol: str
    side: Side
    lots: float
    units: float
    type: OrderType
    limit_low: float | None
    limit_high: float | None
    stop: float | None
    reason: str
    decision_id: str
    created: str

    def __post_init__(self) -> None:
        if self.side not in get_args(Side):
            raise MtquantError(f"order {self.id}: side = {self.side!r}: expected {' or '.join(get_args(Side))}")
        if self.type not in get_args(OrderType):
            raise MtquantError(f"order {self.id}: type = {self.type!r}: expected {' or '.join(get_args(OrderType))}")
        for name in ("lots", "units"):
            size = getattr(self, name)
            if not (math.isfinite(size) and size > 0):
                raise MtquantError(f"order {self.id}: {name} = {size}: expected a finite number above 0")
        if (self.limit_low is None) != (self.limit_high is None):
            raise MtquantError(
                f"order {self.id}: limit_low = {self.limit_low}, limit_high = {self.limit_high}: both or neither"
            )
        for name in ("limit_low", "limit_high", "stop"):
            price = getattr(self, name)
            if price is not None and not math.isfinite(price):
                raise MtquantError(f"order {self.id}: {name} = {price}: expected a finite price, or none")
        if self.limit_low is not None and self.limit_high is not None and self.limit_low > self.limit_high:
            raise MtquantError(f"order {self.id}: limit_low = {self.limit_low} is above limit_high = {self.limit_high}")

    @property
    def sign(self) -> int:
        """+1 for a purchase, -1 for a sale."""
        return 1 if self.side == "buy" else -1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The order that `to_dict` wrote, equal to it.

        Raises
        ------
        MtquantError
            When keys are missing or unknown, or a value is none that an order has.
        """
        expected = {field.name for field in fields(cls)}
        if set(data) != expected:
            raise MtquantError(
                f"not an order: it has {', '.join(sorted(data))}; expected {', '.join(sorted(expected))}"
            )
        return cls(**data)
