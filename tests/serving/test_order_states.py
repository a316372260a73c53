"""States of orders: the table, and whatever order of events hypothesis finds against it."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trading import BEGUN, MONDAY, order

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.execution.journal import Journal, prepare
from mtquant_rllib.serving.execution.order_states import (
    TERMINAL,
    TRANSITIONS,
    ChildOrder,
    OrderEvent,
    OrderState,
    OrderStateError,
)
from mtquant_rllib.serving.execution.trading_state import TradingState, fold

CHILD = ChildOrder("d1.EURUSD.one.1", "d1.EURUSD", "one", "EURUSD", "buy", 10)
ENDED = {"filled", "cancelled", "rejected", "expired"}


def test_four_states_are_terminal_and_every_state_is_in_the_table() -> None:
    assert set(TERMINAL) == ENDED
    assert set(TRANSITIONS) == set(OrderState)


def test_every_state_can_be_reached_from_new_and_reaches_an_end() -> None:
    def reached(state: OrderState) -> set[OrderState]:
        seen, waiting = {state}, [state]
        while waiting:
            for after in TRANSITIONS[waiting.pop()].values():
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return seen

    assert reached(OrderState.NEW) == set(OrderState)
    for state in OrderState:
        assert reached(state) & TERMINAL


def test_an_order_is_sent_acknowledged_filled_in_parts_and_over() -> None:
    child = CHILD.after(OrderEvent.SEND).after(OrderEvent.ACKNOWLEDGE).after_fill(4)
    assert (child.state, child.filled_steps, child.remaining_steps) == (OrderState.PARTIALLY_FILLED, 4, 6)
    assert child.after_fill(6).state is OrderState.FILLED
    ended = child.after(OrderEvent.REQUEST_CANCEL).after_fill(1).after(OrderEvent.CANCEL)
    assert (ended.state, ended.filled_steps, ended.remaining_steps) == (OrderState.CANCELLED, 5, 0)


@pytest.mark.parametrize("lot_steps", [0, -1, 11])
def test_a_fill_is_between_one_step_and_what_remains(lot_steps: int) -> None:
    with pytest.raises(OrderStateError, match="of which 10 remain"):
        CHILD.after(OrderEvent.SEND).after_fill(lot_steps)


def test_an_order_that_is_only_on_its_way_is_not_cancelled() -> None:
    """It could arrive after the cancellation was taken for done."""
    with pytest.raises(OrderStateError, match="is sent and cannot request_cancel; expected acknowledge, "):
        CHILD.after(OrderEvent.SEND).after(OrderEvent.REQUEST_CANCEL)


EVENTS = {
    "sent": OrderEvent.SEND,
    "connection_lost": OrderEvent.LOSE_CONNECTION,
    "not_found": OrderEvent.NOT_FOUND,
    "cancel_requested": OrderEvent.REQUEST_CANCEL,
}
REPORTS = {
    "acknowledged": OrderEvent.ACKNOWLEDGE,
    "rejected": OrderEvent.REJECT,
    "requoted": OrderEvent.REJECT,
    "cancelled": OrderEvent.CANCEL,
    "cancel_refused": OrderEvent.REFUSE_CANCEL,
    "expired": OrderEvent.EXPIRE,
}


class OrdersOfADesk(RuleBasedStateMachine):
    """Any events in any order. A model of a few lines says which of them are possible; the state has to agree."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        prepare(self.connection)
        self.journal = Journal(self.connection, "hypothesis", contextlib.ExitStack())
        self.state = TradingState()
        self.ordered: dict[str, int] = {}
        self.filled: dict[str, int] = {}
        self.signs: dict[str, int] = {}
        self.states: dict[str, str] = {}
        self.numbers = {"one": 0, "two": 0}
        self.try_event(*BEGUN, possible=True)

    def try_event(self, kind: str, body: dict[str, Any], possible: bool) -> bool:
        """Write an event that is possible; one that is not changes nothing."""
        events, before = self.journal.draft([(kind, body)], MONDAY), self.state.to_json()
        if not possible:
            with pytest.raises(MtquantError):
                self.state.apply(events[0])
            assert self.state.to_json() == before
            return False
        self.state.apply(events[0])
        self.journal.write(events)
        return True

    @rule(
        parts=st.lists(st.integers(0, 9), min_size=1, max_size=2), off=st.sampled_from([0, 0, 0, 1]), sell=st.booleans()
    )
    def order_comes_in(self, parts: list[int], off: int, sell: bool) -> None:
        name = f"d{len(self.ordered)}"
        desk = order(decision=name, lots=0.01, side="sell" if sell else "buy")
        children = [
            {"id": f"{desk.id}.{broker}.1", "broker": broker, "lot_steps": steps}
            for broker, steps in zip(self.numbers, parts)
        ]
        body = {"order": desk.to_dict(), "lot_steps": sum(parts) + off, "children": children}
        if self.try_event("order", body, possible=off == 0 and min(parts) > 0):
            for child in children:
                id = str(child["id"])
                self.ordered[id], self.filled[id], self.states[id] = int(str(child["lot_steps"])), 0, "new"
                self.signs[id] = -1 if sell else 1

    @precondition(lambda self: self.ordered)
    @rule(data=st.data(), kind=st.sampled_from(sorted(EVENTS)))
    def something_happens(self, data: st.DataObject, kind: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.ordered)))
        leads = TRANSITIONS[OrderState(self.states[id])]
        if self.try_event(kind, {"id": id, "why": "drawn"}, possible=EVENTS[kind] in leads):
            self.states[id] = leads[EVENTS[kind]]

    @precondition(lambda self: self.ordered)
    @rule(data=st.data(), kind=st.sampled_from(sorted(REPORTS)), skip=st.sampled_from([1, 1, 1, 0, 2]))
    def broker_reports(self, data: st.DataObject, kind: str, skip: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.ordered)))
        broker, leads = id.split(".")[2], TRANSITIONS[OrderState(self.states[id])]
        over = self.states[id] in ENDED and kind not in ("acknowledged", "requoted")
        body = {"broker": broker, "number": self.numbers[broker] + skip, "id": id, "report": kind}
        if self.try_event("report", body, possible=skip == 1 and (REPORTS[kind] in leads or over)):
            self.numbers[broker] += 1
            self.states[id] = self.states[id] if over else leads[REPORTS[kind]]

    @precondition(lambda self: self.ordered)
    @rule(data=st.data(), lot_steps=st.integers(-1, 10))
    def broker_fills(self, data: st.DataObject, lot_steps: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.ordered)))
        broker, left = id.split(".")[2], self.ordered[id] - self.filled[id]
        event = OrderEvent.FILL_REST if lot_steps == left else OrderEvent.FILL_PART
        leads = TRANSITIONS[OrderState(self.states[id])]
        body = {
            "broker": broker, "number": self.numbers[broker] + 1, "id": id, "report": "filled", "lot_steps": lot_steps,
            "units": 1000.0 * lot_steps, "price": 2.0, "commission_ccy": 0.5,
        }  # fmt: skip
        if self.try_event("report", body, possible=event in leads and 1 <= lot_steps <= left):
            self.numbers[broker] += 1
            self.filled[id] += lot_steps
            self.states[id] = leads[event]

    @rule(kind=st.sampled_from(["decision", "report", "sent", "nonsense", "order", "retry"]))
    def an_event_without_a_body_comes(self, kind: str) -> None:
        self.try_event(kind, {}, possible=False)

    @invariant()
    def filled_never_exceeds_ordered_and_states_are_the_models(self) -> None:
        for id, child in self.state.children.items():
            assert 0 <= child.filled_steps == self.filled[id] <= child.lot_steps == self.ordered[id]
            assert child.state == self.states[id]
            assert (child.state == "filled") == (child.filled_steps == child.lot_steps)

    @invariant()
    def positions_and_cash_are_the_sums_of_fills(self) -> None:
        for broker in self.numbers:
            steps = sum(self.signs[id] * n for id, n in self.filled.items() if id.split(".")[2] == broker)
            assert self.state.positions.get(broker, {}) == ({"EURUSD": steps} if steps else {})
            assert self.state.cash_quote.get(broker, {}).get("EURUSD", 0.0) == -2000.0 * steps

    @invariant()
    def open_orders_are_those_that_have_not_ended(self) -> None:
        assert {child.id for child in self.state.open_orders()} == {
            id for id, state in self.states.items() if state not in ENDED
        }

    def teardown(self) -> None:
        """Whoever reads the journal has the state that was held, to the byte."""
        again = Journal(self.connection, "hypothesis", contextlib.ExitStack())
        assert fold(again.events).to_json() == self.state.to_json()
        self.connection.close()


TestOrdersOfADesk = OrdersOfADesk.TestCase
TestOrdersOfADesk.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
