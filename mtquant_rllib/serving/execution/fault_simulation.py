"""Simulated faults: one seed decides what the market, the connections, the clock and kills do to a desk's orders.

A desk of a few instruments takes a decision a bar and trades it at simulated brokers. In the *disturbed* run
connections break before or after a call has had its effect, reports come late, twice or out of order, and the process
is killed before or after any write and any call; it starts again from its journal and reconciles. The *undisturbed* run
of the same seed has the same market and none of that. Whatever happened, in the end (`violations`)

- the journal verifies, and the state that the process held is the fold of the journal;
- positions are those of the undisturbed run, and those that the brokers have;
- each broker has the orders of the undisturbed run, every one once and filled alike: none twice, none lost.

A kill is an exception that nothing of the desk catches, so nothing survives but the journal and the brokers. Every draw
comes from the seed: a seed that fails does so again, to the byte.
"""

from __future__ import annotations

import bisect
import contextlib
import datetime as dt
import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.serving.execution import journal_file
from mtquant_rllib.serving.execution.brokers.broker import Broker, BrokerOrder, BrokerUnavailable, Report, Snapshot
from mtquant_rllib.serving.execution.brokers.instruments import every_brokers_instruments
from mtquant_rllib.serving.execution.brokers.simulated import BarPrices, PricedBar, SimulatedBroker
from mtquant_rllib.serving.execution.clock import ManualClock, utc_text
from mtquant_rllib.serving.execution.journal import Journal, prepare
from mtquant_rllib.serving.execution.journal_file import Event
from mtquant_rllib.serving.execution.order_execution import OrderExecution
from mtquant_rllib.serving.execution.order_states import OrderState
from mtquant_rllib.serving.execution.trading_state import TradingState, fold
from mtquant_rllib.serving.orders import Order, OrderType, order_id

_FIRST_CLOSE = dt.datetime(2024, 1, 8, 22, tzinfo=dt.UTC)
"""A Monday's close in New York."""
_FIRST_PRICE = 1.0
_MOST_STEPS = 2000
"""Looks at the brokers within one bar, after which the orders do not settle any more."""


class Killed(BaseException):
    """The end of a process at this place. No `except Exception` holds it up."""


class KillSwitch:
    """Kills now and then. rng: None for never."""

    def __init__(self, rng: random.Random | None, probability: float) -> None:
        self._rng, self._probability = rng, probability
        self.left = self.kills = 0

    def pass_by(self) -> None:
        """Raises Killed, or not."""
        if self._rng is not None and self.left and self._rng.random() < self._probability:
            self.left -= 1
            self.kills += 1
            raise Killed


class _KilledJournal(Journal):
    switch: KillSwitch

    def write(self, events: Sequence[Event]) -> None:
        if events:
            self.switch.pass_by()
            super().write(events)
            self.switch.pass_by()


@dataclass
class _KilledBroker:
    """A broker during whose calls the desk is killed."""

    broker: Broker
    switch: KillSwitch

    def send(self, order: BrokerOrder) -> None:
        self.switch.pass_by()
        self.broker.send(order)
        self.switch.pass_by()

    def cancel(self, client_order_id: str) -> None:
        self.switch.pass_by()
        self.broker.cancel(client_order_id)
        self.switch.pass_by()

    def poll(self, after: int) -> Sequence[Report]:
        self.switch.pass_by()
        return self.broker.poll(after)

    def snapshot(self) -> Snapshot:
        self.switch.pass_by()
        return self.broker.snapshot()


@dataclass(frozen=True)
class Outcome:
    """What is left of one run.

    Attributes
    ----------
    events, faults
        Of the journal, as they were read again at the end.
    state_json
        Of the state that the last process held.
    snapshots
        Brokers' records.
    sendings
        broker -> client order id -> how often it was received.
    kills
        Processes that were killed.
    """

    events: list[Event]
    faults: list[str]
    state_json: str
    snapshots: Mapping[str, Snapshot]
    sendings: Mapping[str, Mapping[str, int]]
    kills: int


class Simulation:
    """One run of one seed.

    Parameters
    ----------
    path
        Where the journal lies on a disk; None for one in memory, as it would be on the disk.
    execution
        Class of what works the orders, for tests of the simulation itself.
    """

    def __init__(
        self,
        settings: Settings,
        seed: int,
        *,
        disturbed: bool,
        path: Path | None = None,
        execution: type[OrderExecution] = OrderExecution,
    ) -> None:
        config = settings.serving.fault_simulation
        serving = settings.serving.model_copy(update={"brokers": config.brokers, "simulated_broker": config.market})
        self._settings, self._config = settings.model_copy(update={"serving": serving}), config
        self._seed, self._path, self._execution_class = seed, path, execution
        self._schedule = random.Random(f"{seed} schedule") if disturbed else None
        self._clock = ManualClock(_FIRST_CLOSE)
        self._instruments = every_brokers_instruments(self._settings)
        self._symbols = settings.universe.symbols[: config.instruments]
        self._bars = self._drawn_bars()
        kills = random.Random(f"{seed} kills") if disturbed else None
        self._switch = KillSwitch(kills, config.kill_probability)
        self._connection: sqlite3.Connection | None = None
        self._opened = contextlib.ExitStack()
        self._doomed: dict[str, bool] = {}
        """Desk's order -> whether it is to be cancelled."""
        self.brokers = {name: self._broker(name, disturbed) for name in config.brokers}

    def run(self) -> Outcome:
        execution: OrderExecution | None = None
        for bar in range(self._config.bars):
            self._clock.advance_to(self._closes[bar])
            self._switch.left = self._config.kills_per_bar
            for _ in range(_MOST_STEPS):
                try:
                    execution = execution or self._open()
                    if not execution.started:
                        execution.start()
                    if self._settle(execution, bar):
                        break
                except Killed:
                    execution = None
                    self._opened.close()
                    self._advance(self._config.restart_seconds)
                except BrokerUnavailable:
                    self._advance(self._config.step_seconds)
            else:
                raise RuntimeError(f"seed {self._seed}: orders of bar {bar} do not settle")
        assert execution is not None
        return self._outcome(execution.state)

    def _settle(self, execution: OrderExecution, bar: int) -> bool:
        """One look at the brokers, and what follows; whether all orders of the bar have ended."""
        decision = f"bar_{bar}"
        if decision not in execution.state.decisions:
            execution.submit({"id": decision}, self._orders(execution.state, decision, bar))
        execution.work()
        doomed = [child for child in execution.unsettled if self._is_to_be_cancelled(child.parent_id)]
        for child in doomed:
            if child.state is OrderState.ACKNOWLEDGED:
                execution.cancel(child.id, "the simulation changed its mind")
        states = {child.state for child in execution.unsettled}
        if not states:
            return True
        if states <= {OrderState.ACKNOWLEDGED, OrderState.NEW} and not doomed and not self._is_watching():
            self._clock.advance_to(self._instants[bisect.bisect_right(self._instants, self._clock.now())])
        self._advance(self._config.step_seconds)
        return False

    def _is_watching(self) -> bool:
        """Whether an open or a close, at which orders fill, has just been, so that reports may be on their way."""
        if self._schedule is None:
            return False
        last = self._instants[bisect.bisect_right(self._instants, self._clock.now()) - 1]
        return (self._clock.now() - last).total_seconds() < self._config.watch_seconds

    def _advance(self, most_seconds: float) -> None:
        self._clock.advance(most_seconds if self._schedule is None else self._schedule.uniform(1, most_seconds))

    def _open(self) -> OrderExecution:
        """A process that starts: nothing is known but the journal and the brokers."""
        if self._path is not None:
            journal = _KilledJournal.open(self._path)
            self._opened.callback(journal.close)
        else:
            if self._connection is None:
                self._connection = sqlite3.connect(":memory:", isolation_level=None)
                prepare(self._connection)
            journal = _KilledJournal(self._connection, "simulation", contextlib.ExitStack())
        journal.switch = self._switch
        brokers = {name: _KilledBroker(broker, self._switch) for name, broker in self.brokers.items()}
        execution = self._execution_class(self._settings.serving, self._instruments, journal, brokers, self._clock)
        if execution.state.currency is None:
            execution.begin(currency="USD", balance_ccy=1e6, positions={})
        return execution

    def _orders(self, state: TradingState, decision: str, bar: int) -> list[Order]:
        """Orders to positions that are drawn."""
        orders = []
        for symbol in self._symbols:
            draws = random.Random(f"{self._seed} {decision} {symbol}")
            most = self._config.position_lot_steps
            steps = draws.randint(-most, most) - state.position_steps(symbol)
            type: OrderType = "market_on_close" if draws.random() < self._config.close_probability else "market_on_open"
            row, close = self._settings.symbols[symbol], self._bars[symbol][bar].close
            if steps:
                orders.append(
                    Order(
                        id=order_id(decision, symbol),
                        symbol=symbol,
                        side="buy" if steps > 0 else "sell",
                        lots=abs(steps) * row.lot_step,
                        units=abs(steps) * row.lot_step * row.contract,
                        type=type,
                        limit_low=close * (1 - self._config.band_frac),
                        limit_high=close * (1 + self._config.band_frac),
                        stop=None,
                        reason="drawn",
                        decision_id=decision,
                        created=utc_text(self._closes[bar]),
                    )
                )
        return orders

    def _is_to_be_cancelled(self, order: str) -> bool:
        if order not in self._doomed:
            draw = random.Random(f"{self._seed} {order} cancel").random()
            self._doomed[order] = draw < self._config.cancel_probability
        return self._doomed[order]

    def _drawn_bars(self) -> dict[str, list[PricedBar]]:
        """Daily bars: as many as have a decision, and enough behind them for every order to fill."""
        number = 3 * self._config.bars + 10
        day, wait = dt.timedelta(days=1), dt.timedelta(hours=self._config.open_after_hours)
        self._closes = [_FIRST_CLOSE + place * day for place in range(number)]
        self._instants = sorted([*self._closes, *(close + wait for close in self._closes)])
        bars: dict[str, list[PricedBar]] = {}
        for symbol in self._symbols:
            draws, price, series = random.Random(f"{self._seed} {symbol}"), _FIRST_PRICE, list[PricedBar]()
            for close_time in self._closes:
                opened = price * (1 + draws.gauss(0, self._config.vol_per_bar / 2))
                price = opened * (1 + draws.gauss(0, self._config.vol_per_bar / 2))
                series.append(PricedBar(close_time - day + wait, opened, close_time, price))
            bars[symbol] = series
        return bars

    def _broker(self, name: str, disturbed: bool) -> SimulatedBroker:
        instruments = self._instruments[name]
        named = {instruments[symbol].name: bars for symbol, bars in self._bars.items() if symbol in instruments}
        return SimulatedBroker(
            name,
            instruments,
            BarPrices(named),
            self._config.market,
            self._clock,
            self._seed,
            currency="USD",
            balance_ccy=1e6,
            session_orders=self._config.brokers[name].orders_accepted == "session",
            faults=self._config.connection if disturbed else None,
        )

    def _outcome(self, state: TradingState) -> Outcome:
        if self._path is not None:
            self._opened.close()
            with journal_file.opened_to_read(self._path) as connection:
                events, faults = journal_file.checked(connection)
        else:
            assert self._connection is not None
            events, faults = journal_file.checked(self._connection)
            self._connection.close()
        return Outcome(
            events,
            faults,
            state.to_json(),
            {name: broker.record() for name, broker in self.brokers.items()},
            {name: broker.sendings for name, broker in self.brokers.items()},
            self._switch.kills,
        )


def violations(disturbed: Outcome, undisturbed: Outcome) -> list[str]:
    """What does not hold of a disturbed run, in words; nothing where all is well."""
    state, wrong = fold(disturbed.events), list(disturbed.faults)
    if state.to_json() != disturbed.state_json:
        wrong.append("the state that was held is not the fold of the journal")
    if state.open_orders():
        wrong.append(f"orders without an end: {', '.join(child.id for child in state.open_orders())}")
    if state.positions != fold(undisturbed.events).positions:
        wrong.append("positions differ from the undisturbed run's")
    for name, snapshot in disturbed.snapshots.items():
        other = undisturbed.snapshots[name]
        if snapshot.positions != other.positions:
            wrong.append(f"{name}: the broker's positions differ from the undisturbed run's")
        if snapshot.orders != other.orders:
            odd = sorted(set(snapshot.orders) ^ set(other.orders)) or ["other sizes or fills"]
            wrong.append(f"{name}: the broker's orders differ from the undisturbed run's: {', '.join(odd)}")
        wrong += [f"{name}: {id} came {times} times" for id, times in disturbed.sendings[name].items() if times != 1]
    return wrong


def simulate(settings: Settings, seed: int, path: Path | None = None) -> tuple[Outcome, list[str]]:
    """(disturbed run, violations) of one seed; see `Simulation`."""
    undisturbed = Simulation(settings, seed, disturbed=False).run()
    disturbed = Simulation(settings, seed, disturbed=True, path=path).run()
    return disturbed, violations(disturbed, undisturbed)
