"""From a desk's orders to brokers' fills, and back to a journal that knows everything after a kill."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from trading import MONDAY, ONE, Desk, order, settings

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MtquantError
from mtquant_rllib.serving.execution.brokers.broker import Broker, BrokerUnavailable, KnownOrder, Report, Snapshot
from mtquant_rllib.serving.execution.brokers.instruments import broker_instruments
from mtquant_rllib.serving.execution.journal_file import JournalError
from mtquant_rllib.serving.execution.order_execution import OrderExecution
from mtquant_rllib.serving.execution.order_states import OrderState, OrderStateError
from mtquant_rllib.serving.execution.reconciliation import ReconciliationFailed
from mtquant_rllib.serving.execution.trading_state import fold

TWO = """{
  one: {kind: simulated, share: 0.6, orders_accepted: always},
  two: {kind: simulated, share: 0.4, orders_accepted: always,
        symbols: {EURUSD: {name: EUR/USD, contract: 10000, lot_step: 0.1}, XAUUSD: null}}}"""
ID = "d1.EURUSD.one.1"


@pytest.fixture(scope="module")
def one() -> Settings:
    return settings(ONE)


@pytest.fixture
def desk(tmp_path: Path, one: Settings) -> Desk:
    return Desk(tmp_path / "desk.journal", one)


class Wrapped:
    """A broker that says something else than the simulated one behind it, or nothing."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.send, self.cancel, self.poll, self.snapshot = broker.send, broker.cancel, broker.poll, broker.snapshot


def kinds(execution: OrderExecution) -> list[str]:
    return [event.kind for event in execution._journal.events]


def test_an_order_fills_at_the_next_open_and_is_in_the_position(desk: Desk) -> None:
    execution = desk.start()
    execution.submit({"id": "d1"}, [order(lots=0.03)])
    assert execution.state.children[ID].state is OrderState.SENT
    desk.after(execution, 1)
    assert execution.state.children[ID].state is OrderState.ACKNOWLEDGED
    desk.after(execution, 3600)
    assert execution.state.children[ID].state is OrderState.FILLED
    assert execution.state.positions == {"one": {"EURUSD": 3}}
    # 3,000 units at 2.0, the price at which the second hour opens: the order arrived a second after the first open.
    assert execution.state.cash_quote == {"one": {"EURUSD": -6000.0}}
    desk.close()
    assert fold(desk.open()._journal.events).to_json() == execution.state.to_json()


def test_two_brokers_get_their_shares_in_their_own_names_and_lots(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "two.journal", settings(TWO))
    execution = desk.start()
    execution.submit({"id": "d1"}, [order(lots=0.1), order("XAUUSD", lots=0.5)])
    desk.after(execution, 3601)
    assert execution.state.positions == {"one": {"EURUSD": 6, "XAUUSD": 50}, "two": {"EURUSD": 4}}
    assert desk.brokers["two"].record().positions == {"EUR/USD": 0.4}


def test_a_decision_that_is_taken_again_after_a_kill_changes_nothing(desk: Desk) -> None:
    desk.start().submit({"id": "d1"}, [order(lots=0.03)])
    execution = desk.start()
    execution.submit({"id": "d1"}, [order(lots=0.05)])
    desk.after(execution, 3601)
    assert execution.state.positions == {"one": {"EURUSD": 3}}
    assert desk.brokers["one"].sendings == {ID: 1}


def test_what_was_filled_while_nobody_listened_is_settled_at_the_start(desk: Desk) -> None:
    desk.start().submit({"id": "d1"}, [order(lots=0.03)])
    desk.clock.advance(7200)
    execution = desk.open()
    done = execution.start()
    assert (done.heard, done.sent_again) == (2, ())
    assert execution.state.positions == {"one": {"EURUSD": 3}}


def test_an_order_that_never_arrived_is_sent_again_under_the_same_id_once_it_is_late(desk: Desk) -> None:
    def lost(_: object) -> None:
        raise BrokerUnavailable("one: the connection broke")

    away = Wrapped(desk.brokers["one"])
    away.send = lost  # type: ignore[assignment,method-assign]
    execution = desk.open({"one": away})
    execution.start()
    execution.submit({"id": "d1"}, [order()])
    assert execution.state.children[ID].state is OrderState.UNKNOWN
    execution = desk.open()
    assert execution.start().on_their_way == (ID,)
    assert execution.state.children[ID].state is OrderState.UNKNOWN
    desk.after(execution, 60)
    assert execution.state.children[ID].state is OrderState.SENT
    desk.after(execution, 3600)
    assert execution.state.children[ID].state is OrderState.FILLED
    assert desk.brokers["one"].sendings == {ID: 1}


def test_an_order_is_sent_no_more_once_its_time_has_passed(tmp_path: Path) -> None:
    closed = "{one: {kind: simulated, share: 1, orders_accepted: session, symbols: {XAUUSD: {session: {open: '09:30', "
    desk = Desk(tmp_path / "late.journal", settings(closed + "close: '16:00'}}}}}", "serving.order_valid_hours=12"))
    execution = desk.start()
    execution.submit({"id": "d1"}, [order("XAUUSD", lots=0.5)])
    assert execution.state.children["d1.XAUUSD.one.1"].state is OrderState.NEW, "Monday, 17:00 in New York"
    desk.after(execution, 12 * 3600)
    assert execution.state.children["d1.XAUUSD.one.1"].state is OrderState.EXPIRED
    assert desk.brokers["one"].sendings == {}


def test_an_order_waits_for_the_brokers_session(tmp_path: Path) -> None:
    closed = "{one: {kind: simulated, share: 1, orders_accepted: session, symbols: {XAUUSD: {session: {open: '18:00', "
    desk = Desk(tmp_path / "session.journal", settings(closed + "close: '17:00'}}}}}"))
    execution = desk.start()
    execution.submit({"id": "d1"}, [order("XAUUSD", lots=0.5)])
    desk.after(execution, 3599)
    assert execution.state.children["d1.XAUUSD.one.1"].state is OrderState.NEW
    desk.after(execution, 1)
    assert execution.state.children["d1.XAUUSD.one.1"].state is OrderState.SENT


def test_the_week_of_a_session_begins_on_sunday_evening_and_ends_on_friday(one: Settings) -> None:
    euro = broker_instruments(one, "one")["EURUSD"]
    hours = {
        dt.datetime(2024, 1, 7, 21, 59, tzinfo=dt.UTC): False,  # Sunday, 16:59 in New York
        dt.datetime(2024, 1, 7, 22, tzinfo=dt.UTC): True,
        dt.datetime(2024, 1, 10, 3, tzinfo=dt.UTC): True,
        dt.datetime(2024, 1, 12, 21, 59, tzinfo=dt.UTC): True,
        dt.datetime(2024, 1, 12, 22, tzinfo=dt.UTC): False,  # Friday, 17:00
        dt.datetime(2024, 1, 13, 15, tzinfo=dt.UTC): False,
        dt.datetime(2024, 7, 5, 20, 59, tzinfo=dt.UTC): True,  # New York's summer time: an hour earlier in UTC
        dt.datetime(2024, 7, 5, 21, tzinfo=dt.UTC): False,
    }
    assert {instant: euro.is_open(instant) for instant in hours} == hours


def test_an_order_is_cancelled_once_the_broker_knows_it(desk: Desk) -> None:
    execution = desk.start()
    execution.submit({"id": "d1"}, [order()])
    with pytest.raises(OrderStateError, match="can be cancelled once the broker knows it"):
        execution.cancel(ID, "too early")
    desk.after(execution, 1)
    execution.cancel(ID, "another mind")
    desk.after(execution, 1)
    assert execution.state.children[ID].state is OrderState.CANCELLED
    desk.after(execution, 7200)
    assert execution.state.positions == {}


def test_a_cancellation_that_was_lost_is_asked_for_again(desk: Desk) -> None:
    deaf = Wrapped(desk.brokers["one"])
    deaf.cancel = lambda _: None  # type: ignore[assignment,method-assign]
    execution = desk.open({"one": deaf})
    execution.start()
    execution.submit({"id": "d1"}, [order()])
    desk.after(execution, 1)
    execution.cancel(ID, "another mind")
    execution = desk.start()
    desk.after(execution, 60)
    desk.after(execution, 1)
    assert execution.state.children[ID].state is OrderState.CANCELLED


def test_an_order_that_no_broker_takes_is_written_with_the_reason(tmp_path: Path) -> None:
    symbols = "{EURUSD: {min_lot: 1}, GBPUSD: null}"
    desk = Desk(tmp_path / "x.journal", settings(ONE.replace("always", f"always, symbols: {symbols}")))
    execution = desk.start()
    execution.submit({"id": "d1"}, [order(lots=0.01), order("GBPUSD")])
    assert execution.state.refused == {
        "d1.EURUSD": "1 lot steps: no broker of one takes an order of this size",
        "d1.GBPUSD": "no broker offers GBPUSD",
    }


@pytest.mark.parametrize(("shift", "expected"), [(1, OrderState.FILLED), (0.5, None)])
def test_a_requote_is_accepted_within_the_price_band(tmp_path: Path, shift: float, expected: OrderState | None) -> None:
    chosen = settings(ONE, "serving.simulated_broker.requote_probability=1", "serving.max_requotes=1")
    desk = Desk(tmp_path / "requote.journal", chosen, [1.0, 1.0, 1.0, 1.0])
    execution = desk.start()
    band = (0.9, 1.1) if shift == 1 else (1.0, 1.0)
    execution.submit({"id": "d1"}, [order(band=band)])
    for _ in range(3):
        desk.after(execution, 3601 if ID not in desk.brokers["one"].record().orders else 1)
    desk.after(execution, 5)
    children = execution.state.children
    assert children[ID].state is OrderState.REJECTED
    second = children.get("d1.EURUSD.one.2")
    assert (None if second is None else second.state) is expected


def test_nothing_is_submitted_before_the_reconciliation(desk: Desk) -> None:
    execution = desk.open()
    with pytest.raises(MtquantError, match="trading has not started"):
        execution.submit({"id": "d1"}, [order()])


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ([order(decision="d2")], "does not belong to decision d1"),
        ([order(), order()], "d1.EURUSD is not new"),
        ([order(lots=0.005)], "expected a whole number of steps of 0.01 lots"),
    ],
)
def test_orders_that_cannot_be_are_refused_and_nothing_is_written(desk: Desk, orders: list, said: str) -> None:
    execution = desk.start()
    with pytest.raises(MtquantError, match=said):
        execution.submit({"id": "d1"}, orders)
    assert execution.state.decisions == {}
    execution.submit({"id": "d1"}, [order()])


def test_after_a_failed_write_the_state_is_not_gone_on_from(desk: Desk) -> None:
    execution = desk.start()
    assert desk.journal is not None
    desk.journal._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(JournalError, match="cannot be written"):
        execution.submit({"id": "d1"}, [order()])
    with pytest.raises(JournalError, match="open the journal again"):
        execution.work()
    assert desk.brokers["one"].sendings == {}
    execution = desk.start()
    assert execution.state.decisions == {}


def _snapshot(desk: Desk, **changes: object) -> Wrapped:
    odd, whole = Wrapped(desk.brokers["one"]), desk.brokers["one"].record
    odd.snapshot = lambda: Snapshot(**{**whole().__dict__, **changes})  # type: ignore[assignment,method-assign,arg-type]
    return odd


FOREIGN = KnownOrder("EURUSD", "buy", 1.0, 0.0, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": {"EURUSD": 0.04}}, "one: it holds 0.04 lots of EURUSD, the journal 0.03"),
        ({"positions": {}}, "one: it holds nothing of EURUSD, the journal 0.03"),
        ({"positions": {"EURUSD": 0.03, "SILVER": 2}}, "2 lots of SILVER, which the desk does not trade there"),
        ({"positions": {"EURUSD": 0.031}}, "it holds 0.031 lots of EURUSD"),
        ({"currency": "EUR"}, "its account is in EUR, the journal's in USD"),
        ({"last_report": 1}, "its last report is number 1, the journal has 2"),
        ({"orders": {"x": FOREIGN}}, "order x (buy 1 EURUSD) is not in the journal"),
        ({"orders": {ID: KnownOrder("EURUSD", "sell", 0.03, 0.03, False)}}, "is sell 0.03 EURUSD there, buy 0.03"),
        ({"orders": {ID: KnownOrder("EURUSD", "buy", 0.03, 0.02, False)}}, "has 0.02 lots filled there, 0.03"),
        ({"orders": {ID: KnownOrder("EURUSD", "buy", 0.03, 0.03, True)}}, "is open there, filled in the journal"),
    ],
)
def test_what_no_rule_settles_is_listed_and_trading_does_not_start(desk: Desk, changes: dict, said: str) -> None:
    execution = desk.start()
    execution.submit({"id": "d1"}, [order(lots=0.03)])
    desk.after(execution, 1)
    desk.after(execution, 3600)
    execution = desk.open({"one": _snapshot(desk, **changes)})
    with pytest.raises(ReconciliationFailed) as caught:
        execution.start()
    assert any(said in difference for difference in caught.value.differences), caught.value.differences
    assert said in str(caught.value)
    with pytest.raises(MtquantError, match="trading has not started"):
        execution.submit({"id": "d2"}, [order(decision="d2")])


def test_every_difference_is_listed(desk: Desk) -> None:
    desk.start()
    odd = _snapshot(desk, positions={"EURUSD": 1.0, "SILVER": 2.0}, currency="EUR")
    with pytest.raises(ReconciliationFailed, match="differ in 3 points"):
        desk.open({"one": odd}).start()


def test_an_acknowledged_order_that_the_broker_has_no_more_is_a_difference(desk: Desk) -> None:
    execution = desk.start()
    execution.submit({"id": "d1"}, [order()])
    desk.after(execution, 1)
    with pytest.raises(ReconciliationFailed, match="is acknowledged in the journal, and not in the broker's record"):
        desk.open({"one": _snapshot(desk, orders={})}).start()


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report(1, "nobody's", "filled", 0.01, 1.0), "report 1 is on order nobody's, which the journal does not have"),
        (Report(1, ID, "filled", 0.04, 1.0), "a fill of 4 lot steps, of which 3 remain"),
        (Report(1, ID, "filled", 0.004, 1.0), "expected a whole number of steps"),
        (Report(1, ID, "cancel_refused"), "cannot refuse_cancel"),
    ],
)
def test_a_report_that_cannot_be_is_a_difference(desk: Desk, report: Report, said: str) -> None:
    desk.start().submit({"id": "d1"}, [order(lots=0.03)])
    odd = Wrapped(desk.brokers["one"])
    odd.poll = lambda after: [report]  # type: ignore[assignment,method-assign]
    with pytest.raises(ReconciliationFailed, match=said):
        desk.open({"one": odd}).start()


def test_a_report_that_cannot_be_stops_trading(desk: Desk) -> None:
    odd = Wrapped(desk.brokers["one"])
    execution = desk.open({"one": odd})
    execution.start()
    execution.submit({"id": "d1"}, [order(lots=0.03)])
    odd.poll = lambda after: [Report(1, ID, "filled", 0.04, 1.0)]  # type: ignore[assignment,method-assign]
    with pytest.raises(OrderStateError, match="of which 3 remain"):
        execution.work()
    with pytest.raises(MtquantError, match="trading has not started"):
        execution.submit({"id": "d2"}, [order(decision="d2")])


def test_reports_come_late_twice_and_out_of_order(desk: Desk) -> None:
    """The second comes first, and waits for the first; repeats are nothing."""
    execution = desk.start()
    execution.submit({"id": "d1"}, [order(lots=0.03)])
    desk.clock.advance(7200)
    first, second = desk.brokers["one"].poll(0)
    odd, coming = Wrapped(desk.brokers["one"]), [[second], [], [second, first, second], [first]]
    odd.poll = lambda after: coming.pop(0)  # type: ignore[assignment,method-assign]
    execution = desk.open({"one": odd})
    with pytest.raises(BrokerUnavailable, match="reports 1 to 2 have not come"):
        execution.start()
    assert execution.start().heard == 2
    assert execution.state.positions == {"one": {"EURUSD": 3}}


def test_positions_that_are_held_already_begin_the_journal(desk: Desk) -> None:
    held = _snapshot(desk, positions={"EURUSD": -0.02})
    with pytest.raises(ReconciliationFailed, match=r"it holds -0.02 lots of EURUSD, the journal 0"):
        desk.open({"one": held}).start()
    desk.close()
    desk.path = desk.path.with_name("other.journal")
    execution = desk.open({"one": held}, positions={"one": {"EURUSD": -2}})
    execution.start()
    assert execution.state.position_steps("EURUSD") == -2


def test_account_breakers_and_stage_are_the_newest(desk: Desk) -> None:
    execution = desk.start()
    execution.note("account", {"equity_ccy": 1.0})
    execution.note("account", {"equity_ccy": 2.0})
    execution.note("breakers", {"level": 1})
    execution.note("capital_stage", {"percent": 10})
    state = desk.open().state
    assert (state.account, state.breakers, state.capital_stage) == ({"equity_ccy": 2.0}, {"level": 1}, {"percent": 10})
    with pytest.raises(MtquantError, match="expected account, breakers or capital_stage"):
        execution.note("report", {})


@pytest.mark.parametrize(
    ("symbols", "said"),
    [
        ("{EURUSD: {lot_step: 0.015}}", "expected a whole multiple of symbols.EURUSD's 1000 units"),
        ("{EURUSD: {lot_step: 0.001}}", "a lot step of 100 units"),
        ("{EURUSD: {name: GBPUSD}}", "GBPUSD is the name of two instruments"),
    ],
)
def test_a_brokers_lots_and_names_have_to_fit_the_desks(symbols: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        broker_instruments(settings(ONE.replace("always", f"always, symbols: {symbols}")), "one")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "serving.brokers={x: {kind: file_drop, share: 1, orders_accepted: always}}",
            "a broker of kind file_drop has one",
        ),
        ("serving.brokers={x: {kind: simulated, share: 0, orders_accepted: always}}", "greater than 0"),
        ("serving.brokers.simulated.symbols={SILVER: null}", "SILVER has no row under symbols"),
        ("serving.arrival_seconds=1", "are not below arrival_seconds"),
        ("serving.simulated_broker.latency_seconds=[2, 1]", "expected the shorter time first"),
        ("serving.brokers={a b: {kind: simulated, share: 1, orders_accepted: always}}", "'a b' is no name"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.load(overrides=[override])


def test_times_are_the_journals_own(desk: Desk) -> None:
    execution = desk.start()
    execution.submit({"id": "d1"}, [order()])
    assert execution.state.children[ID].asked_utc == MONDAY.isoformat(timespec="milliseconds")
