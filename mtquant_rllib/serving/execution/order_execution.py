"""Orders on their way: from the desk to its brokers, and brokers' reports into the journal.

Whatever is done is in the journal first. Orders are written as new, then as sent, and only then given to a broker; a
report is written before anything follows from it. A process that is killed anywhere starts again with `start`, which
folds the journal, hears what it missed, settles what rules settle (`reconciliation`) and goes on; an order that
is sent again has the same id, and is the same order.

The trading process calls `submit` with the orders of a decision, and `work` as often as it likes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.execution.brokers.broker import Broker, BrokerError, BrokerOrder, BrokerUnavailable, Report
from mtquant_rllib.serving.execution.brokers.instruments import BrokerInstrument
from mtquant_rllib.serving.execution.brokers.shares import Unshareable, share_order
from mtquant_rllib.serving.execution.clock import Clock, utc_text
from mtquant_rllib.serving.execution.journal import Entry, Journal, JournalError
from mtquant_rllib.serving.execution.order_states import UNANSWERED, ChildOrder, OrderState, OrderStateError
from mtquant_rllib.serving.execution.reconciliation import Comparison, ReconciliationFailed, compare, is_overdue
from mtquant_rllib.serving.execution.trading_state import TradingState, fold
from mtquant_rllib.serving.orders import Order

if TYPE_CHECKING:
    from mtquant_rllib.config.sections.serving import ServingConfig


@dataclass(frozen=True)
class Reconciliation:
    """What a reconciliation did. heard: reports that the journal had not; the others are client order ids."""

    heard: int
    sent_again: tuple[str, ...]
    on_their_way: tuple[str, ...]
    cancelled_again: tuple[str, ...]


class OrderExecution:
    """The orders of one desk at its brokers.

    Attributes
    ----------
    state
        What the journal adds up to. To be read only.
    """

    def __init__(
        self,
        serving: ServingConfig,
        instruments: Mapping[str, Mapping[str, BrokerInstrument]],
        journal: Journal,
        brokers: Mapping[str, Broker],
        clock: Clock,
    ) -> None:
        """
        Parameters
        ----------
        serving
            The section of the settings.
        instruments
            broker -> symbol -> instrument (`every_brokers_instruments`).
        brokers
            By their names in `serving.brokers`: all of them.

        Raises
        ------
        DamagedJournal
            When an event of the journal cannot come where it stands.
        """
        if not set(brokers) == set(instruments) == set(serving.brokers):
            expected = ", ".join(serving.brokers)
            raise MtquantError(f"brokers {', '.join(brokers)}: expected those of serving.brokers, {expected}")
        self._serving, self._journal, self._clock = serving, journal, clock
        self._brokers = {name: brokers[name] for name in serving.brokers}
        self._instruments = instruments
        self.state: TradingState = fold(journal.events)
        self._started = self._stale = False

    @property
    def started(self) -> bool:
        """Whether journal and brokers are reconciled, so that orders may be submitted."""
        return self._started

    def begin(self, *, currency: str, balance_ccy: float, positions: Mapping[str, Mapping[str, int]]) -> None:
        """Write the first event of a new journal.

        Parameters
        ----------
        positions
            broker -> symbol -> lot steps that are held already, signed.
        """
        self._write([("begun", {"currency": currency, "balance_ccy": balance_ccy, "positions": positions})])

    def start(self) -> Reconciliation:
        """Reconcile with every broker, and send what waits. Nothing is submitted before this has succeeded.

        Raises
        ------
        ReconciliationFailed
            Listing every difference that no rule settles.
        BrokerUnavailable
            When a broker does not answer; to be called again.
        """
        self._started = False
        done = self.reconcile()
        self._started = True
        self._send_waiting()
        return done

    def reconcile(self) -> Reconciliation:
        """Compare the journal with every broker, and settle what rules settle.

        Raises
        ------
        ReconciliationFailed
            As of `start`. Nothing is submitted or sent any more until `start` has succeeded.
        BrokerUnavailable
            When a broker does not answer, or reports that it has written have not come yet; to be called again.
        """
        return self._reconciled(list(self._brokers))

    def _reconciled(self, names: Sequence[str]) -> Reconciliation:
        self._expect_fresh()
        if self.state.currency is None:
            raise JournalError("the journal has no events: `begin` it before trading starts")
        heard, differences, compared = 0, list[str](), list[Comparison]()
        for name in names:
            try:
                heard += self._hear(name)
                snapshot = self._brokers[name].snapshot()
                # What happened between the two questions.
                heard += self._hear(name)
                if self.state.cursors.get(name, 0) > snapshot.last_report:
                    snapshot = self._brokers[name].snapshot()
            except (BrokerUnavailable, JournalError):
                raise
            except MtquantError as error:
                differences.append(f"{name}: {error}")
                continue
            if snapshot.last_report > (cursor := self.state.cursors.get(name, 0)):
                raise BrokerUnavailable(f"{name}: reports {cursor + 1} to {snapshot.last_report} have not come yet")
            found = compare(
                self.state, snapshot, name, self._instruments[name], self._clock.now(), self._serving.arrival_seconds
            )
            compared.append(found)
            differences += found.differences
        if differences:
            self._started = False
            raise ReconciliationFailed(differences)
        again = [id for found in compared for id in found.never_arrived]
        cancels = [id for found in compared for id in found.cancel_again]
        entries: list[Entry] = [("not_found", {"id": id}) for id in again]
        entries += [("cancel_requested", {"id": id, "why": "the broker has not answered"}) for id in cancels]
        if heard or again or cancels:
            entries.append(("reconciled", {"reports": heard, "never_arrived": again, "cancel_again": cancels}))
        self._write(entries)
        for id in cancels:
            self._ask_to_cancel(self.state.children[id])
        on_their_way = [id for found in compared for id in found.on_their_way]
        return Reconciliation(heard, tuple(again), tuple(on_their_way), tuple(cancels))

    def submit(self, decision: Mapping[str, Any], orders: Sequence[Order]) -> None:
        """Take over the orders of a decision: write them, in one transaction with the decision, and send them.

        A decision that is in the journal already is left as it is, so one that was taken again after a kill does no
        harm. An order that no broker takes is written with the reason.

        Parameters
        ----------
        decision
            Plain values: `id`, and whatever explains the decision.

        Raises
        ------
        MtquantError
            When an order belongs to another decision, or has no size in whole lot steps.
        """
        self._expect_started()
        name = decision.get("id")
        if name in self.state.decisions:
            return
        if foreign := [order.id for order in orders if order.decision_id != name]:
            raise MtquantError(f"order {foreign[0]} does not belong to decision {name}")
        ids = [order.id for order in orders]
        if repeated := [id for id in ids if ids.count(id) > 1 or id in self.state.parents]:
            raise MtquantError(f"order {repeated[0]} is not new: a desk's orders have ids of their own")
        taken: dict[tuple[str, str], int] = {}
        self._write([("decision", decision), *(self._routed(order, taken) for order in orders)])
        self._send_waiting()

    def work(self) -> None:
        """Hear what brokers have to say, answer requotes, and send what waits. A broker without a connection is asked
        again the next time.

        Raises
        ------
        MtquantError
            When a broker says what cannot be; trading stops until `start` has succeeded.
        """
        self._expect_started()
        for name in self._brokers:
            try:
                self._hear(name)
                if self._is_overdue(name):
                    self._reconciled([name])
            except BrokerUnavailable:
                continue
            except MtquantError:
                # What a broker says cannot be: nothing more is sent before it is reconciled.
                self._started = False
                raise
        self._send_waiting()

    def _is_overdue(self, broker: str) -> bool:
        """Whether an order or a cancellation was sent so long ago that it has arrived or never will, and no answer has
        come."""
        latest = self._clock.now() - dt.timedelta(seconds=self._serving.arrival_seconds)
        return any(is_overdue(child, latest) for child in self.state.open_orders(broker))

    def cancel(self, client_order_id: str, why: str) -> None:
        """Cancel what has not filled of a child order: at once where it was never sent, else when the broker says so.

        Raises
        ------
        OrderStateError
            When it has ended, or the broker has not acknowledged it yet.
        """
        self._expect_started()
        child = self.state.children[client_order_id]
        if child.state is OrderState.NEW:
            return self._write([("withdrawn", {"id": child.id, "as": "cancelled", "why": why})])
        if child.state in UNANSWERED:
            raise OrderStateError(f"order {child.id} is {child.state}: it can be cancelled once the broker knows it")
        self._write([("cancel_requested", {"id": child.id, "why": why})])
        self._ask_to_cancel(child)

    def note(self, kind: str, body: Mapping[str, Any]) -> None:
        """Write the newest state of the account, the breakers or the capital stage.

        kind: `account`, `breakers` or `capital_stage`. body: plain values.
        """
        if kind not in ("account", "breakers", "capital_stage"):
            raise MtquantError(f"note {kind!r}: expected account, breakers or capital_stage")
        self._write([(kind, body)])

    @property
    def unsettled(self) -> list[ChildOrder]:
        """Child orders that have not ended, at brokers or on their way."""
        return self.state.open_orders()

    def _expect_started(self) -> None:
        self._expect_fresh()
        if not self._started:
            raise MtquantError("trading has not started: journal and brokers have to be reconciled first (`start`)")

    def _expect_fresh(self) -> None:
        if self._stale:
            raise JournalError("the state may be ahead of the journal after an error: open the journal again")

    def _write(self, entries: Sequence[Entry]) -> None:
        """Move the state on, and write. Nothing may act on the entries before this has returned."""
        self._expect_fresh()
        if not entries:
            return
        events = self._journal.draft(entries, self._clock.now())
        for event in events:
            self.state.apply(event)
            # Where the next is refused, or the write fails, the state is ahead of the journal.
            self._stale = True
        self._journal.write(events)
        self._stale = False

    def _routed(self, order: Order, taken: dict[tuple[str, str], int]) -> Entry:
        """The event of an order that comes in. taken: (broker, symbol) -> lot steps of orders that came in with it."""
        offering = {
            name: self._instruments[name][order.symbol]
            for name in self._brokers
            if order.symbol in self._instruments[name]
        }
        if not offering:
            return "order_refused", {"order": order.to_dict(), "reason": f"no broker offers {order.symbol}"}
        steps = next(iter(offering.values())).order_steps(order.lots)
        committed = {
            name: self.state.committed_steps(name, order.symbol) + taken.get((name, order.symbol), 0)
            for name in offering
        }
        try:
            parts = share_order(
                order.sign * steps,
                committed,
                {name: self._serving.brokers[name].share for name in offering},
                {name: one.granule_steps for name, one in offering.items()},
                {name: one.min_steps for name, one in offering.items()},
            )
        except Unshareable as error:
            return "order_refused", {"order": order.to_dict(), "reason": str(error)}
        for name, part in parts.items():
            taken[name, order.symbol] = taken.get((name, order.symbol), 0) + part
        children = [
            {"id": f"{order.id}.{name}.1", "broker": name, "lot_steps": abs(part)} for name, part in parts.items()
        ]
        return "order", {"order": order.to_dict(), "lot_steps": steps, "children": children}

    def _hear(self, name: str) -> int:
        """Write the reports of a broker that the journal has not; returns how many. What comes after a gap waits."""
        cursor = self.state.cursors.get(name, 0)
        came = {report.number: report for report in self._brokers[name].poll(cursor)}
        entries: list[Entry] = []
        while (report := came.get(cursor + 1)) is not None:
            entries += self._of_report(name, report)
            cursor += 1
        self._write(entries)
        return sum(kind == "report" for kind, _ in entries)

    def _of_report(self, name: str, report: Report) -> list[Entry]:
        """The events that a report is: itself, and another attempt where it is a requote within the band."""
        id = report.client_order_id
        child = self.state.children.get(id)
        if child is None or child.broker != name:
            raise BrokerError(f"{name}: report {report.number} is on order {id}, which the journal does not have")
        body: dict[str, Any] = {"broker": name, "number": report.number, "id": id, "report": report.kind}
        if report.kind == "filled":
            one = self._instruments[name][child.symbol]
            steps = one.desk_steps(report.lots)
            body |= {"lot_steps": steps, "units": one.units(steps), "price": report.price}
            body["commission_ccy"] = report.commission_ccy
        if report.kind == "requoted":
            body["price"] = report.price
        if report.reason:
            body["reason"] = report.reason
        entries: list[Entry] = [("report", body)]
        number = int(id.rpartition(".")[2])
        if report.kind == "requoted" and report.price is not None and number <= self._serving.max_requotes:
            low, high = self._order_of(child).limit_low, self._order_of(child).limit_high
            if low is None or high is None or low <= report.price <= high:
                again = f"{id.rpartition('.')[0]}.{number + 1}"
                entries.append(("retry", {"id": again, "after": id, "accept_price": report.price}))
        return entries

    def _send_waiting(self) -> None:
        """Send new orders, in whatever session they may be sent; withdraw those whose time has passed."""
        now, entries, leaving = self._clock.now(), list[Entry](), list[str]()
        for child in self.state.open_orders():
            if child.state is not OrderState.NEW:
                continue
            if now >= self._valid_until(child):
                entries.append(("withdrawn", {"id": child.id, "as": "expired", "why": "its time has passed"}))
            elif self._may_leave(child, now):
                entries.append(("sent", {"id": child.id}))
                leaving.append(child.id)
        self._write(entries)
        lost: list[Entry] = []
        for id in leaving:
            child = self.state.children[id]
            try:
                self._brokers[child.broker].send(self._as_broker_order(child))
            except BrokerUnavailable:
                lost.append(("connection_lost", {"id": id}))
        self._write(lost)

    def _may_leave(self, child: ChildOrder, now: dt.datetime) -> bool:
        anytime = self._serving.brokers[child.broker].orders_accepted == "always"
        return anytime or self._instruments[child.broker][child.symbol].is_open(now)

    def _ask_to_cancel(self, child: ChildOrder) -> None:
        try:
            self._brokers[child.broker].cancel(child.id)
        except BrokerUnavailable:
            # It stays asked for, and the next reconciliation asks again.
            return

    def _order_of(self, child: ChildOrder) -> Order:
        return Order.from_dict(self.state.parents[child.parent_id])

    def _valid_until(self, child: ChildOrder) -> dt.datetime:
        created = dt.datetime.fromisoformat(str(self.state.parents[child.parent_id]["created"]))
        created = created if created.tzinfo else created.replace(tzinfo=dt.UTC)
        return created + dt.timedelta(hours=self._serving.order_valid_hours)

    def _as_broker_order(self, child: ChildOrder) -> BrokerOrder:
        order, one = self._order_of(child), self._instruments[child.broker][child.symbol]
        return BrokerOrder(
            client_order_id=child.id,
            symbol=one.name,
            side=child.side,
            lots=one.broker_lots(child.lot_steps),
            type=order.type,
            limit_low=order.limit_low,
            limit_high=order.limit_high,
            stop=order.stop,
            accept_price=child.accept_price,
            valid_until=utc_text(self._valid_until(child)),
        )
