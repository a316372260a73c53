"""A simulated broker: it fills at the prices of given bars, late, in parts, not at all or at another price, over a
connection that breaks, repeats and delays.

What becomes of an order (latency, rejection, requote, parts) is drawn from the seed and its client order id alone, and
not from when or how often the broker was asked. What becomes of the connection is drawn from the seed, call by call.
So a desk that is disturbed by its connection, or killed, meets the same market as one that is not.
"""

from __future__ import annotations

import datetime as dt
import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtquant_rllib.serving.execution.brokers.broker import BrokerOrder, BrokerUnavailable, KnownOrder, Report, Snapshot
from mtquant_rllib.serving.execution.clock import Clock
from mtquant_rllib.serving.orders import OrderType

if TYPE_CHECKING:
    from mtquant_rllib.config.sections.serving import ConnectionFaultsConfig, SimulatedBrokerConfig
    from mtquant_rllib.serving.execution.brokers.instruments import BrokerInstrument


@dataclass(frozen=True)
class PricedBar:
    """Times, UTC, and prices of one bar's open and close, quote currency."""

    open_time: dt.datetime
    open: float
    close_time: dt.datetime
    close: float


class BarPrices:
    """Prices of instruments bar by bar. bars: by the broker's name of the instrument, in order of time."""

    def __init__(self, bars: Mapping[str, Sequence[PricedBar]]) -> None:
        self._bars = {name: list(series) for name, series in bars.items()}

    def knows(self, name: str) -> bool:
        return name in self._bars

    def add(self, name: str, bar: PricedBar) -> None:
        """Append a bar that has come."""
        self._bars.setdefault(name, []).append(bar)

    def next_price(self, name: str, type: OrderType, instant: dt.datetime) -> tuple[dt.datetime, float] | None:
        """(time, price) of the first open, or close, at this instant or later; None where no such bar is there yet."""
        at_open = type == "market_on_open"
        for bar in self._bars[name]:
            time, price = (bar.open_time, bar.open) if at_open else (bar.close_time, bar.close)
            if time >= instant:
                return time, price
        return None


@dataclass
class _Held:
    """An order that has arrived. steps, filled: the desk's lot steps, which add up exactly."""

    order: BrokerOrder
    arrived: dt.datetime
    steps: int
    filled: int = 0
    is_open: bool = True
    requote: tuple[float, dt.datetime] | None = None
    """(price, time until which it may be accepted)."""


class SimulatedBroker:
    """A `Broker` in this process. Its account's balance is what it began with, less commissions: what positions gain
    and lose is the desk's to reckon.

    Attributes
    ----------
    sendings
        Client order id -> how often it was received; of the first alone comes an order.
    """

    def __init__(
        self,
        name: str,
        instruments: Mapping[str, BrokerInstrument],
        prices: BarPrices,
        config: SimulatedBrokerConfig,
        clock: Clock,
        seed: int,
        *,
        currency: str,
        balance_ccy: float,
        session_orders: bool = False,
        faults: ConnectionFaultsConfig | None = None,
    ) -> None:
        """
        Parameters
        ----------
        instruments
            By the desk's symbol.
        session_orders
            Whether an order that arrives outside of the instrument's session is rejected.
        faults
            Of the connection; None for one that always works.
        """
        self._name, self._prices, self._config, self._clock, self._seed = name, prices, config, clock, seed
        self._instruments = {one.name: one for one in instruments.values()}
        self._currency, self._balance_ccy = currency, balance_ccy
        self._session_orders, self._faults = session_orders, faults
        self._connection = random.Random(f"{seed} {name} connection")
        self._pushed = 0
        self._due: list[tuple[dt.datetime, int, Callable[[dt.datetime], None]]] = []
        self._reports: list[tuple[Report, dt.datetime]] = []
        """With the time from which each can be read."""
        self._held: dict[str, _Held] = {}
        self._waiting: list[str] = []
        """Orders for a bar that is not there yet."""
        self._steps: dict[str, int] = {}
        self._down_until = clock.now()
        self.sendings: dict[str, int] = {}

    # What a desk calls.

    def send(self, order: BrokerOrder) -> None:
        self._call(lambda: self._receive(order))

    def cancel(self, client_order_id: str) -> None:
        self._call(lambda: self._at(self._latency(f"cancel {client_order_id}"), self._cancel(client_order_id)))

    def poll(self, after: int) -> Sequence[Report]:
        found: list[Report] = []
        self._call(lambda: found.extend(self._readable(after)))
        return found

    def snapshot(self) -> Snapshot:
        found: list[Snapshot] = []
        self._call(lambda: found.append(self.record()))
        return found[0]

    # The connection.

    def _call(self, act: Callable[[], None]) -> None:
        """Act, unless the connection is broken, or breaks before or after it."""
        now = self._clock.now()
        self._advance(now)
        if now < self._down_until:
            raise BrokerUnavailable(f"{self._name}: no connection")
        faults = self._faults
        if faults is None or self._connection.random() >= faults.disconnect_probability:
            return act()
        self._down_until = now + dt.timedelta(seconds=self._connection.uniform(0, faults.disconnect_seconds))
        if self._connection.random() < 0.5:
            act()
        raise BrokerUnavailable(f"{self._name}: the connection broke")

    def _readable(self, after: int) -> list[Report]:
        now, faults = self._clock.now(), self._faults
        reports = [report for report, readable in self._reports[after:] if readable <= now]
        if faults is not None:
            for report in list(reports):
                if self._connection.random() < faults.duplicate_probability:
                    reports.insert(self._connection.randint(0, len(reports)), report)
        return reports

    def _report(self, now: dt.datetime, report: Report) -> None:
        faults, readable = self._faults, now
        if faults is not None and self._connection.random() < faults.delay_probability:
            readable += dt.timedelta(seconds=self._connection.uniform(0, faults.delay_seconds))
        self._reports.append((report, readable))

    # The market.

    def _draws(self, id: str) -> random.Random:
        """The fate of an order, the same whenever it is asked for."""
        return random.Random(f"{self._seed} {self._name} {id}")

    def _latency(self, id: str) -> dt.timedelta:
        low, high = self._config.latency_seconds
        return dt.timedelta(seconds=self._draws(id).uniform(low, high))

    def _at(self, delay: dt.timedelta, act: Callable[[dt.datetime], None]) -> None:
        self._at_time(self._clock.now() + delay, act)

    def _at_time(self, time: dt.datetime, act: Callable[[dt.datetime], None]) -> None:
        self._pushed += 1
        heapq.heappush(self._due, (time, self._pushed, act))

    def _advance(self, now: dt.datetime) -> None:
        """Let everything happen that is due by now, in the order of its time."""
        for id in self._waiting:
            self._await_bar(id)
        while self._due and self._due[0][0] <= now:
            time, _, act = heapq.heappop(self._due)
            act(time)

    def _receive(self, order: BrokerOrder) -> None:
        id = order.client_order_id
        self.sendings[id] = self.sendings.get(id, 0) + 1
        if self.sendings[id] == 1:
            self._at(self._latency(id), lambda now: self._arrive(order, now))

    def _arrive(self, order: BrokerOrder, now: dt.datetime) -> None:
        instrument = self._instruments.get(order.symbol)
        if instrument is None or not self._prices.knows(order.symbol):
            self._held[order.client_order_id] = _Held(order, now, 0, is_open=False)
            return self._say(order, now, "rejected", reason="no such instrument")
        held = _Held(order, now, instrument.desk_steps(order.lots))
        self._held[order.client_order_id] = held
        fate = self._draws(f"{order.client_order_id} fate").random()
        if held.steps < instrument.min_steps or held.steps % instrument.granule_steps:
            self._end(held, now, "rejected", "no size that is traded")
        elif self._session_orders and not instrument.is_open(now):
            self._end(held, now, "rejected", "the market is closed")
        elif now >= dt.datetime.fromisoformat(order.valid_until):
            self._end(held, now, "expired", "arrived after its time")
        elif order.accept_price is None and fate < self._config.reject_probability:
            self._end(held, now, "rejected", "not accepted")
        elif order.accept_price is not None and not self._is_quoted(order, now):
            self._end(held, now, "rejected", "the quote has lapsed")
        else:
            self._say(order, now, "acknowledged")
            self._at_time(dt.datetime.fromisoformat(order.valid_until), lambda then: self._expire(held, then))
            if order.accept_price is not None:
                self._fill_parts(held, now, order.accept_price)
            else:
                self._waiting.append(order.client_order_id)
                self._await_bar(order.client_order_id)

    def _is_quoted(self, order: BrokerOrder, now: dt.datetime) -> bool:
        requotes = [held.requote for held in self._held.values() if held.requote and held.order.symbol == order.symbol]
        return any(price == order.accept_price and now <= until for price, until in requotes)

    def _await_bar(self, id: str) -> None:
        """Fill an order at its bar's price, once that bar is there."""
        held = self._held[id]
        found = self._prices.next_price(held.order.symbol, held.order.type, held.arrived)
        if found is not None:
            self._waiting = [other for other in self._waiting if other != id]
            self._at_time(found[0], lambda then: self._execute(held, then, found[1]))

    def _execute(self, held: _Held, now: dt.datetime, price: float) -> None:
        """Fill at a bar's price, or requote."""
        if not held.is_open:
            return
        fate = self._draws(f"{held.order.client_order_id} requote")
        if fate.random() < self._config.requote_probability:
            shifted = price * (1.0 + fate.uniform(-1, 1) * self._config.requote_shift_bps * 1e-4)
            held.requote = shifted, now + dt.timedelta(seconds=self._config.requote_valid_seconds)
            held.is_open = False
            return self._say(held.order, now, "requoted", price=shifted, reason="the price has moved")
        self._fill_parts(held, now, price)

    def _fill_parts(self, held: _Held, now: dt.datetime, price: float) -> None:
        instrument = self._instruments[held.order.symbol]
        fate, granules = self._draws(f"{held.order.client_order_id} parts"), held.steps // instrument.granule_steps
        parts = [held.steps]
        if granules > 1 and fate.random() < self._config.partial_fill_probability:
            cut = fate.randint(1, granules - 1) * instrument.granule_steps
            parts = [cut, held.steps - cut]
        for number, steps in enumerate(parts):
            pause = dt.timedelta(seconds=number * self._config.part_seconds)
            self._at_time(now + pause, lambda then, steps=steps: self._fill(held, then, steps, price))  # type: ignore[misc]
        self._advance(now)

    def _fill(self, held: _Held, now: dt.datetime, steps: int, price: float) -> None:
        if not held.is_open:
            return
        order, instrument = held.order, self._instruments[held.order.symbol]
        sign, position = 1 if order.side == "buy" else -1, self._steps.get(order.symbol, 0)
        inside = order.limit_low is None or order.limit_high is None or order.limit_low <= price <= order.limit_high
        if not inside:
            # Outside of its band an order may only reduce.
            steps = min(steps, max(-sign * position, 0))
        if steps:
            held.filled += steps
            held.is_open = held.filled < held.steps
            self._steps[order.symbol] = position + sign * steps
            notional = instrument.units(steps) * price
            self._balance_ccy -= (commission := abs(notional) * self._config.commission_bps * 1e-4)
            lots = instrument.broker_lots(steps)
            self._say(order, now, "filled", lots=lots, price=price, commission_ccy=commission)
        if not inside and held.is_open:
            self._end(held, now, "expired", f"{price} is outside of its price band")

    def _cancel(self, id: str) -> Callable[[dt.datetime], None]:
        def act(now: dt.datetime) -> None:
            held = self._held.get(id)
            if held is not None and held.is_open:
                self._end(held, now, "cancelled", "as asked")
            elif held is not None:
                self._say(held.order, now, "cancel_refused", reason="it has ended")

        return act

    def _expire(self, held: _Held, now: dt.datetime) -> None:
        if held.is_open:
            self._end(held, now, "expired", "its time has passed")

    def _end(self, held: _Held, now: dt.datetime, kind: str, reason: str) -> None:
        held.is_open = False
        self._say(held.order, now, kind, reason=reason)

    def _say(self, order: BrokerOrder, now: dt.datetime, kind: str, **what: object) -> None:
        self._report(now, Report(len(self._reports) + 1, order.client_order_id, kind, **what))  # type: ignore[arg-type]

    def record(self) -> Snapshot:
        """The record at this moment, whatever the connection does."""
        self._advance(self._clock.now())
        lots = {name: one.broker_lots(self._steps.get(name, 0)) for name, one in self._instruments.items()}
        orders = {
            id: KnownOrder(
                held.order.symbol,
                held.order.side,
                held.order.lots,
                self._instruments[held.order.symbol].broker_lots(held.filled) if held.filled else 0.0,
                held.is_open,
            )
            for id, held in self._held.items()
        }
        positions = {name: size for name, size in lots.items() if size}
        return Snapshot(len(self._reports), positions, orders, self._currency, self._balance_ccy)
