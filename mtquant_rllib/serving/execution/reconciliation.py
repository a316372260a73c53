"""Journal against broker: what rules settle, and what nobody can know without a person.

Reports that the journal has not heard of are asked for again and written to it before anything is compared
(`order_execution`). What is compared here is the state after them with the broker's own record:

- An order that was given to the broker, and that the broker does not have after the time in which orders arrive, never
  arrived: it is to be sent again.
- One that is still within that time is on its way.
- A cancellation that was asked for, of an order that is still open at the broker, is asked for again.
- Everything else that differs is a difference, and trading does not start.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.execution.brokers.broker import KnownOrder, Snapshot
from mtquant_rllib.serving.execution.brokers.instruments import BrokerInstrument
from mtquant_rllib.serving.execution.order_states import UNANSWERED, ChildOrder, OrderState
from mtquant_rllib.serving.execution.trading_state import TradingState
from mtquant_rllib.serving.orders import lot_steps


class ReconciliationFailed(MtquantError):
    """Broker and journal disagree, and no rule settles it.

    Attributes
    ----------
    differences
        Each in words.
    """

    exit_code = 1

    def __init__(self, differences: Sequence[str]) -> None:
        lines = "".join(f"\n  {difference}" for difference in differences)
        super().__init__(
            f"trading does not start: journal and broker differ in {len(differences)} points{lines}\n"
            "  settle them at the broker, or begin another journal from the positions that are held"
        )
        self.differences = tuple(differences)


@dataclass
class Comparison:
    """What comparing one broker with the journal found.

    Attributes
    ----------
    never_arrived, on_their_way, cancel_again
        Client order ids.
    differences
        In words.
    """

    never_arrived: list[str] = field(default_factory=list)
    on_their_way: list[str] = field(default_factory=list)
    cancel_again: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def compare(
    state: TradingState,
    snapshot: Snapshot,
    broker: str,
    instruments: Mapping[str, BrokerInstrument],
    now: dt.datetime,
    arrival_seconds: float,
) -> Comparison:
    """Compare what the journal adds up to with a broker's record.

    Parameters
    ----------
    broker
        Name of the broker in the settings.
    instruments
        The broker's, by the desk's symbol.
    arrival_seconds
        Time after which an order that was sent has arrived, or never will.
    """
    found = Comparison()
    symbols = {one.name: symbol for symbol, one in instruments.items()}
    told, cursor = found.differences.append, state.cursors.get(broker, 0)
    if snapshot.currency != state.currency:
        told(f"{broker}: its account is in {snapshot.currency}, the journal's in {state.currency}")
    if snapshot.last_report < cursor:
        told(f"{broker}: its last report is number {snapshot.last_report}, the journal has {cursor}")
    elif snapshot.last_report > cursor:
        told(f"{broker}: reports {cursor + 1} to {snapshot.last_report} have not come")
    _compare_positions(state, snapshot, broker, instruments, symbols, found)
    for id, known in snapshot.orders.items():
        child = state.children.get(id)
        if child is None or child.broker != broker:
            told(f"{broker}: order {id} ({known.side} {known.lots:g} {known.symbol}) is not in the journal")
        else:
            _compare_order(child, known, instruments, found)
    latest = now - dt.timedelta(seconds=arrival_seconds)
    for child in state.open_orders(broker):
        if child.id in snapshot.orders:
            if child.state is OrderState.CANCEL_REQUESTED and is_overdue(child, latest):
                found.cancel_again.append(child.id)
        elif child.state in UNANSWERED:
            (found.never_arrived if is_overdue(child, latest) else found.on_their_way).append(child.id)
        elif child.state is not OrderState.NEW:
            told(f"{broker}: order {child.id} is {child.state} in the journal, and not in the broker's record")
    return found


def is_overdue(child: ChildOrder, latest: dt.datetime) -> bool:
    """Whether a broker was asked something of an order at `latest` or before, and has not answered."""
    if child.asked_utc is None or child.state not in (*UNANSWERED, OrderState.CANCEL_REQUESTED):
        return False
    return dt.datetime.fromisoformat(child.asked_utc) <= latest


def _compare_positions(
    state: TradingState,
    snapshot: Snapshot,
    broker: str,
    instruments: Mapping[str, BrokerInstrument],
    symbols: Mapping[str, str],
    found: Comparison,
) -> None:
    held = dict(state.positions.get(broker, {}))
    for name, lots in snapshot.positions.items():
        symbol = symbols.get(name)
        if symbol is None:
            found.differences.append(f"{broker}: it holds {lots:g} lots of {name}, which the desk does not trade there")
            continue
        one, in_journal = instruments[symbol], held.pop(symbol, 0)
        try:
            same = one.desk_steps(lots) == in_journal
        except MtquantError:
            same = False
        if not same:
            found.differences.append(
                f"{broker}: it holds {lots:g} lots of {name}, the journal {one.broker_lots(in_journal):g}"
            )
    for symbol, steps in held.items():
        if symbol not in instruments:
            found.differences.append(f"{broker}: the journal holds {symbol} there, which it does not offer")
        else:
            lots = instruments[symbol].broker_lots(steps)
            found.differences.append(f"{broker}: it holds nothing of {instruments[symbol].name}, the journal {lots:g}")


def _compare_order(
    child: ChildOrder, known: KnownOrder, instruments: Mapping[str, BrokerInstrument], found: Comparison
) -> None:
    one = instruments[child.symbol]
    mine = (one.name, child.side, child.lot_steps)
    try:
        theirs = (known.symbol, known.side, lot_steps(known.lots, one.broker_lots(1)))
        filled = one.desk_steps(known.filled_lots)
    except MtquantError as error:
        found.differences.append(f"{child.broker}: order {child.id}: {error}")
        return
    if theirs != mine:
        said = f"{known.side} {known.lots:g} {known.symbol}"
        here = f"{child.side} {one.broker_lots(child.lot_steps):g} {one.name}"
        found.differences.append(f"{child.broker}: order {child.id} is {said} there, {here} in the journal")
    elif filled != child.filled_steps:
        lots = one.broker_lots(child.filled_steps)
        found.differences.append(
            f"{child.broker}: order {child.id} has {known.filled_lots:g} lots filled there, {lots:g} in the journal"
        )
    elif known.is_open != child.is_open or child.state is OrderState.NEW:
        there = "open" if known.is_open else "over"
        found.differences.append(f"{child.broker}: order {child.id} is {there} there, {child.state} in the journal")
