"""The states of an order at a broker, as a table: which event leads from which state to which. Whatever is not in the
table is refused.

A desk's order (`serving.orders.Order`, the parent) is worked as one *child order* at each broker that takes a part of
it; states are those of child orders. Quantities are whole numbers of the desk's lot steps, so that they add up exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.orders import Side


class OrderStateError(MtquantError):
    """An event that an order in this state cannot have."""


class OrderState(StrEnum):
    NEW = "new"
    """In the journal, and not given to the broker (or found not to have reached it)."""
    SENT = "sent"
    """Given to the broker, without an answer."""
    UNKNOWN = "unknown"
    """The connection broke while it was given: it has reached the broker or not."""
    ACKNOWLEDGED = "acknowledged"
    PARTIALLY_FILLED = "partially_filled"
    CANCEL_REQUESTED = "cancel_requested"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"


class OrderEvent(StrEnum):
    SEND = "send"
    LOSE_CONNECTION = "lose_connection"
    NOT_FOUND = "not_found"
    """The broker says that it has no such order."""
    ACKNOWLEDGE = "acknowledge"
    FILL_PART = "fill_part"
    FILL_REST = "fill_rest"
    REQUEST_CANCEL = "request_cancel"
    REFUSE_CANCEL = "refuse_cancel"
    CANCEL = "cancel"
    REJECT = "reject"
    EXPIRE = "expire"


_S, _E = OrderState, OrderEvent
_ANSWERS = {
    _E.ACKNOWLEDGE: _S.ACKNOWLEDGED,
    _E.FILL_PART: _S.PARTIALLY_FILLED,
    _E.FILL_REST: _S.FILLED,
    _E.CANCEL: _S.CANCELLED,
    _E.REJECT: _S.REJECTED,
    _E.EXPIRE: _S.EXPIRED,
}
"""What a broker may say of an order that it has not answered yet."""

TRANSITIONS: Mapping[OrderState, Mapping[OrderEvent, OrderState]] = MappingProxyType(
    {
        _S.NEW: {_E.SEND: _S.SENT, _E.CANCEL: _S.CANCELLED, _E.EXPIRE: _S.EXPIRED},
        _S.SENT: {**_ANSWERS, _E.LOSE_CONNECTION: _S.UNKNOWN, _E.NOT_FOUND: _S.NEW},
        _S.UNKNOWN: {**_ANSWERS, _E.NOT_FOUND: _S.NEW},
        _S.ACKNOWLEDGED: {
            _E.FILL_PART: _S.PARTIALLY_FILLED,
            _E.FILL_REST: _S.FILLED,
            _E.REQUEST_CANCEL: _S.CANCEL_REQUESTED,
            _E.CANCEL: _S.CANCELLED,
            _E.REJECT: _S.REJECTED,
            _E.EXPIRE: _S.EXPIRED,
        },
        _S.PARTIALLY_FILLED: {
            _E.FILL_PART: _S.PARTIALLY_FILLED,
            _E.FILL_REST: _S.FILLED,
            _E.REQUEST_CANCEL: _S.CANCEL_REQUESTED,
            _E.CANCEL: _S.CANCELLED,
            _E.EXPIRE: _S.EXPIRED,
        },
        _S.CANCEL_REQUESTED: {
            _E.FILL_PART: _S.CANCEL_REQUESTED,
            _E.FILL_REST: _S.FILLED,
            _E.REQUEST_CANCEL: _S.CANCEL_REQUESTED,
            _E.REFUSE_CANCEL: _S.CANCEL_REQUESTED,
            _E.CANCEL: _S.CANCELLED,
            _E.REJECT: _S.REJECTED,
            _E.EXPIRE: _S.EXPIRED,
        },
        _S.FILLED: {},
        _S.CANCELLED: {},
        _S.REJECTED: {},
        _S.EXPIRED: {},
    }
)
"""state -> event -> state. A cancellation is asked for only where the broker is known to have the order: one that is
still on its way could arrive after it was taken for cancelled."""

TERMINAL = frozenset(state for state, leads in TRANSITIONS.items() if not leads)
UNANSWERED = frozenset({OrderState.SENT, OrderState.UNKNOWN})


@dataclass(frozen=True)
class ChildOrder:
    """The part of a desk's order that one broker takes, and what has become of it.

    Attributes
    ----------
    id
        The client order id, by which the broker knows it: the parent's, the broker's name and the number of the
        attempt (a requote is answered by another attempt).
    parent_id
        Id of the desk's order.
    broker, symbol, side
        Name of the broker in the settings; symbol of the desk, not of the broker.
    lot_steps, filled_steps
        Ordered and filled size, in the desk's lot steps: 0 <= filled_steps <= lot_steps, lot_steps >= 1.
    accept_price
        The requoted price that this attempt accepts, quote currency.
    asked_utc
        When the broker was last asked to take or to cancel it, ISO 8601.
    """

    id: str
    parent_id: str
    broker: str
    symbol: str
    side: Side
    lot_steps: int
    filled_steps: int = 0
    state: OrderState = OrderState.NEW
    accept_price: float | None = None
    asked_utc: str | None = None

    @property
    def sign(self) -> int:
        """+1 for a purchase, -1 for a sale."""
        return 1 if self.side == "buy" else -1

    @property
    def is_open(self) -> bool:
        return self.state not in TERMINAL

    @property
    def remaining_steps(self) -> int:
        """Lot steps that can still fill: none once the order has ended."""
        return self.lot_steps - self.filled_steps if self.is_open else 0

    def after(self, event: OrderEvent) -> ChildOrder:
        """The order after an event that fills nothing.

        Raises
        ------
        OrderStateError
            When the table has no such event in this state.
        """
        if event in (OrderEvent.FILL_PART, OrderEvent.FILL_REST):
            raise OrderStateError(f"order {self.id}: a fill needs its size")
        return replace(self, state=self._next(event))

    def after_fill(self, lot_steps: int) -> ChildOrder:
        """The order after a fill of so many lot steps.

        Raises
        ------
        OrderStateError
            When the table has no fill in this state, or the fill is not between one step and what remains.
        """
        remaining = self.lot_steps - self.filled_steps
        event = OrderEvent.FILL_REST if lot_steps == remaining else OrderEvent.FILL_PART
        state = self._next(event)
        if not 1 <= lot_steps <= remaining:
            raise OrderStateError(f"order {self.id}: a fill of {lot_steps} lot steps, of which {remaining} remain")
        return replace(self, state=state, filled_steps=self.filled_steps + lot_steps)

    def _next(self, event: OrderEvent) -> OrderState:
        leads = TRANSITIONS[self.state]
        if event not in leads:
            expected = ", ".join(leads) or "nothing: it has ended"
            raise OrderStateError(f"order {self.id} is {self.state} and cannot {event}; expected {expected}")
        return leads[event]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**self.__dict__, "state": str(self.state)}
