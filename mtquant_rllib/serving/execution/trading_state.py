"""The state of a trading process: what the events of its journal add up to, and nothing else.

`fold` is a pure function of the events. A running process holds the same state and moves it with the same function,
event by event, after each is in the journal; so a process that starts again from the journal stands where the last one
did.

| kind | body |
|---|---|
| `begun` | account currency, balance, positions by broker that the desk begins with |
| `decision` | id, bar, and whatever explains it |
| `order` | a desk's order, and the child orders that brokers take of it |
| `order_refused` | a desk's order that no broker takes, and why |
| `retry` | another attempt for what a requoted child order left |
| `sent`, `connection_lost`, `not_found`, `cancel_requested` | the child order's id |
| `withdrawn` | a child order that is not sent any more: `cancelled` or `expired`, and why |
| `report` | what a broker said of a child order, with its number |
| `account`, `breakers`, `capital_stage` | the newest of each, as the trading process states it |
| `reconciled` | what a reconciliation settled |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.execution.journal_file import DamagedJournal, Event, canonical
from mtquant_rllib.serving.execution.order_states import ChildOrder, OrderEvent, OrderState
from mtquant_rllib.serving.orders import Order

Change = Callable[[], None]

REPORT_KINDS = ("acknowledged", "filled", "rejected", "requoted", "cancelled", "cancel_refused", "expired")
_ENDINGS = {
    "rejected": OrderEvent.REJECT,
    "requoted": OrderEvent.REJECT,
    "cancelled": OrderEvent.CANCEL,
    "expired": OrderEvent.EXPIRE,
}
_WITHDRAWALS = {"cancelled": OrderEvent.CANCEL, "expired": OrderEvent.EXPIRE}


class ImpossibleEvent(MtquantError):
    """An event that cannot come at this place, or a body that such an event does not have."""


@dataclass
class TradingState:
    """What the events so far add up to. Only `apply` changes it.

    Attributes
    ----------
    positions
        broker -> symbol -> lot steps held there, negative when short; no zeros.
    cash_quote
        broker -> symbol -> what fills have paid (negative) and brought in (positive), in the symbol's quote currency,
        without commissions.
    commission_ccy
        broker -> commissions paid, account currency.
    parents, refused
        Desk's orders by id, as plain values; reasons of those that no broker takes.
    children
        Child orders by client order id.
    cursors
        broker -> number of its last report that is in the journal.
    account, breakers, capital_stage
        Bodies of the newest events of these kinds; None before the first.
    """

    number: int = 0
    currency: str | None = None
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    cash_quote: dict[str, dict[str, float]] = field(default_factory=dict)
    commission_ccy: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    parents: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    children: dict[str, ChildOrder] = field(default_factory=dict)
    open_ids: dict[str, None] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    account: Mapping[str, Any] | None = None
    breakers: Mapping[str, Any] | None = None
    capital_stage: Mapping[str, Any] | None = None

    def open_orders(self, broker: str | None = None) -> list[ChildOrder]:
        """Child orders that have not ended, oldest first; of one broker, or of all."""
        children = [self.children[id] for id in self.open_ids]
        return [child for child in children if broker in (None, child.broker)]

    def position_steps(self, symbol: str) -> int:
        """Lot steps of a symbol that the desk holds at all brokers together."""
        return sum(held.get(symbol, 0) for held in self.positions.values())

    def committed_steps(self, broker: str, symbol: str) -> int:
        """Lot steps held at a broker were all its open orders filled."""
        held = self.positions.get(broker, {}).get(symbol, 0)
        return held + sum(c.sign * c.remaining_steps for c in self.open_orders(broker) if c.symbol == symbol)

    def to_json(self) -> str:
        """The one text of this state: equal states have equal bytes."""
        children = {id: child.to_dict() for id, child in self.children.items()}
        return canonical({**self.__dict__, "children": children, "open_ids": list(self.open_ids)})

    def apply(self, event: Event) -> None:
        """Move on by one event.

        Raises
        ------
        ImpossibleEvent
            When the event cannot come now, or its body lacks something; the state is as before.
        OrderStateError
            When an order's state has no such event; the state is as before.
        """
        if event.kind not in _KINDS:
            raise ImpossibleEvent(f"event {event.kind!r}: expected one of {', '.join(_KINDS)}")
        if (self.currency is None) != (event.kind == "begun"):
            raise ImpossibleEvent(f"event {event.kind!r}: a journal begins with `begun`, once")
        try:
            change = _KINDS[event.kind](self, event.body, event.time_utc)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ImpossibleEvent(f"event {event.kind!r}: its body is not one of this kind ({error!r})") from error
        change()
        self.number = event.number

    def _begun(self, body: Mapping[str, Any], time_utc: str) -> Change:
        currency, balance = str(body["currency"]), float(body["balance_ccy"])
        positions = {
            str(broker): {str(symbol): _integer(steps) for symbol, steps in held.items() if steps}
            for broker, held in body["positions"].items()
        }

        def change() -> None:
            self.currency, self.positions = currency, positions
            self.account = {"balance_ccy": balance}

        return change

    def _decision(self, body: Mapping[str, Any], time_utc: str) -> Change:
        id = _text(body["id"])
        if id in self.decisions:
            raise ImpossibleEvent(f"decision {id} stands in the journal already")
        return lambda: self.decisions.update({id: body})

    def _order(self, body: Mapping[str, Any], time_utc: str) -> Change:
        order = self._new_order(body["order"])
        children = [
            ChildOrder(_text(p["id"]), order.id, _text(p["broker"]), order.symbol, order.side, _integer(p["lot_steps"]))
            for p in body["children"]
        ]
        total, expected = sum(child.lot_steps for child in children), _integer(body["lot_steps"])
        if total != expected or any(child.lot_steps < 1 for child in children):
            raise ImpossibleEvent(f"order {order.id}: its parts add up to {total} lot steps, not {expected}")
        self._expect_new(children)

        def change() -> None:
            self.parents[order.id] = body["order"]
            for child in children:
                self._set(child)

        return change

    def _order_refused(self, body: Mapping[str, Any], time_utc: str) -> Change:
        order, reason = self._new_order(body["order"]), _text(body["reason"])

        def change() -> None:
            self.parents[order.id] = body["order"]
            self.refused[order.id] = reason

        return change

    def _retry(self, body: Mapping[str, Any], time_utc: str) -> Change:
        before = self._child(body["after"])
        if before.state is not OrderState.REJECTED:
            raise ImpossibleEvent(f"order {before.id} is {before.state}: only a requoted order is tried again")
        left = before.lot_steps - before.filled_steps
        child = ChildOrder(
            _text(body["id"]), before.parent_id, before.broker, before.symbol, before.side, left,
            accept_price=float(body["accept_price"]),
        )  # fmt: skip
        self._expect_new([child])
        return lambda: self._set(child)

    def _sent(self, body: Mapping[str, Any], time_utc: str) -> Change:
        child = replace(self._child(body["id"]).after(OrderEvent.SEND), asked_utc=time_utc)
        return lambda: self._set(child)

    def _connection_lost(self, body: Mapping[str, Any], time_utc: str) -> Change:
        return self._moved(body, OrderEvent.LOSE_CONNECTION)

    def _not_found(self, body: Mapping[str, Any], time_utc: str) -> Change:
        return self._moved(body, OrderEvent.NOT_FOUND)

    def _cancel_requested(self, body: Mapping[str, Any], time_utc: str) -> Change:
        child = replace(self._child(body["id"]).after(OrderEvent.REQUEST_CANCEL), asked_utc=time_utc)
        return lambda: self._set(child)

    def _withdrawn(self, body: Mapping[str, Any], time_utc: str) -> Change:
        if self._child(body["id"]).state is not OrderState.NEW:
            raise ImpossibleEvent(f"order {body['id']} has been sent: it is cancelled, not withdrawn")
        return self._moved(body, _WITHDRAWALS[body["as"]])

    def _report(self, body: Mapping[str, Any], time_utc: str) -> Change:
        broker, number, child = _text(body["broker"]), _integer(body["number"]), self._child(body["id"])
        expected = self.cursors.get(broker, 0) + 1
        if number != expected or child.broker != broker:
            raise ImpossibleEvent(f"report {number} of {broker} on {child.id}: expected report {expected} of its own")
        said, steps = body["report"], 0
        if said not in REPORT_KINDS:
            raise ImpossibleEvent(f"report {number} of {broker} = {said!r}: expected one of {', '.join(REPORT_KINDS)}")
        if said == "filled":
            steps, price = _integer(body["lot_steps"]), float(body["price"])
            units, commission_ccy = float(body["units"]), float(body["commission_ccy"])
            after = child.after_fill(steps)
        elif said == "acknowledged":
            after = child.after(OrderEvent.ACKNOWLEDGE)
        elif not child.is_open and said != "requoted":
            # An order that has ended is said once more to have ended: nothing follows.
            after = child
        elif said == "cancel_refused":
            after = child.after(OrderEvent.REFUSE_CANCEL)
        else:
            after = child.after(_ENDINGS[said])

        def change() -> None:
            self.cursors[broker] = number
            self._set(after)
            if steps:
                self._book(after, steps, -after.sign * units * price, commission_ccy)

        return change

    def _book(self, child: ChildOrder, steps: int, cash_quote: float, commission_ccy: float) -> None:
        held = self.positions.setdefault(child.broker, {})
        position = held.pop(child.symbol, 0) + child.sign * steps
        if position:
            held[child.symbol] = position
        cash = self.cash_quote.setdefault(child.broker, {})
        cash[child.symbol] = cash.get(child.symbol, 0.0) + cash_quote
        self.commission_ccy[child.broker] = self.commission_ccy.get(child.broker, 0.0) + commission_ccy

    def _newest(self, name: str) -> Callable[[Mapping[str, Any]], Change]:
        return lambda body: lambda: setattr(self, name, body)

    def _account(self, body: Mapping[str, Any], time_utc: str) -> Change:
        return self._newest("account")(body)

    def _breakers(self, body: Mapping[str, Any], time_utc: str) -> Change:
        return self._newest("breakers")(body)

    def _capital_stage(self, body: Mapping[str, Any], time_utc: str) -> Change:
        return self._newest("capital_stage")(body)

    def _reconciled(self, body: Mapping[str, Any], time_utc: str) -> Change:
        return lambda: None

    def _moved(self, body: Mapping[str, Any], event: OrderEvent) -> Change:
        child = self._child(body["id"]).after(event)
        return lambda: self._set(child)

    def _set(self, child: ChildOrder) -> None:
        self.children[child.id] = child
        if child.is_open:
            self.open_ids[child.id] = None
        else:
            self.open_ids.pop(child.id, None)

    def _child(self, id: str) -> ChildOrder:
        if id not in self.children:
            raise ImpossibleEvent(f"order {id}: no such order")
        return self.children[id]

    def _new_order(self, given: Mapping[str, Any]) -> Order:
        order = Order.from_dict(given)
        if order.id in self.parents:
            raise ImpossibleEvent(f"order {order.id} stands in the journal already")
        return order

    def _expect_new(self, children: list[ChildOrder]) -> None:
        ids = [child.id for child in children]
        if known := [id for id in ids if id in self.children or ids.count(id) > 1]:
            raise ImpossibleEvent(f"order {known[0]} stands in the journal already")


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no name")
    return value


_KINDS: Mapping[str, Callable[[TradingState, Mapping[str, Any], str], Change]] = {
    name: getattr(TradingState, f"_{name}")
    for name in (
        "begun", "decision", "order", "order_refused", "retry", "sent", "connection_lost", "not_found",
        "cancel_requested", "withdrawn", "report", "account", "breakers", "capital_stage", "reconciled",
    )
}  # fmt: skip
KINDS = tuple(_KINDS)


def fold(events: Iterable[Event]) -> TradingState:
    """The state that these events add up to.

    Raises
    ------
    DamagedJournal
        Naming the first event that cannot come where it stands.
    """
    state = TradingState()
    for event in events:
        try:
            state.apply(event)
        except MtquantError as error:
            raise DamagedJournal(f"event {event.number}: {error}") from error
    return state
