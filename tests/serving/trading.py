"""Orders, clocks and brokers of tests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.serving.execution.brokers.broker import Broker
from mtquant_rllib.serving.execution.brokers.instruments import every_brokers_instruments
from mtquant_rllib.serving.execution.brokers.simulated import BarPrices, PricedBar, SimulatedBroker
from mtquant_rllib.serving.execution.clock import ManualClock
from mtquant_rllib.serving.execution.journal import Journal
from mtquant_rllib.serving.execution.order_execution import OrderExecution
from mtquant_rllib.serving.orders import Order, OrderType, Side, order_id

MONDAY = dt.datetime(2024, 1, 8, 22, tzinfo=dt.UTC)
"""17:00 in New York."""
BEGUN = ("begun", {"currency": "USD", "balance_ccy": 1000.0, "positions": {}})
CALM = "{latency_seconds: [1, 1], reject_probability: 0, requote_probability: 0, requote_shift_bps: 1, "
CALM += "requote_valid_seconds: 30, partial_fill_probability: 0, part_seconds: 1, commission_bps: 0}"
ONE = "{one: {kind: simulated, share: 1, orders_accepted: always}}"


def settings(brokers: str, *overrides: str) -> Settings:
    """The shipped settings with these brokers alone (YAML), and orders that arrive after a second and fill whole."""
    chosen = [f"serving.simulated_broker={CALM}", f"serving.brokers={brokers}", "serving.brokers.simulated=null"]
    return Settings.load(overrides=[*chosen, *overrides])


def order(
    symbol: str = "EURUSD",
    lots: float = 0.03,
    side: Side = "buy",
    decision: str = "d1",
    type: OrderType = "market_on_open",
    band: tuple[float, float] | None = None,
) -> Order:
    low, high = band or (None, None)
    return Order(
        order_id(decision, symbol), symbol, side, lots, lots * 100_000, type, low, high, None, "a test", decision,
        MONDAY.isoformat(),
    )  # fmt: skip


def hourly(opens: Sequence[float]) -> list[PricedBar]:
    """Bars of an hour from Monday on: each closes where it opened."""
    hour = dt.timedelta(hours=1)
    return [PricedBar(MONDAY + k * hour, price, MONDAY + (k + 1) * hour, price) for k, price in enumerate(opens)]


class Desk:
    """A desk at simulated brokers, with a journal on the disk.

    opens: prices, hour by hour from Monday's close on, of every instrument.
    """

    def __init__(self, path: Path, chosen: Settings, opens: Sequence[float] = (1.0, 2.0, 3.0)) -> None:
        self.path, self.settings, self.clock = path, chosen, ManualClock(MONDAY)
        self.instruments = every_brokers_instruments(chosen)
        self.brokers = {
            name: SimulatedBroker(
                name,
                rows,
                BarPrices({row.name: hourly(opens) for row in rows.values()}),
                chosen.serving.simulated_broker,
                self.clock,
                seed=0,
                currency="USD",
                balance_ccy=1000.0,
                session_orders=chosen.serving.brokers[name].orders_accepted == "session",
            )
            for name, rows in self.instruments.items()
        }
        self.journal: Journal | None = None

    def open(self, brokers: Mapping[str, Broker] | None = None, **begun: Any) -> OrderExecution:
        """A process that starts, and has not reconciled yet."""
        self.close()
        self.journal = Journal.open(self.path)
        serving, given = self.settings.serving, {**self.brokers, **(brokers or {})}
        execution = OrderExecution(serving, self.instruments, self.journal, given, self.clock)
        if execution.state.currency is None:
            execution.begin(**{"currency": "USD", "balance_ccy": 1000.0, "positions": {}, **begun})
        return execution

    def start(self) -> OrderExecution:
        execution = self.open()
        execution.start()
        return execution

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def after(self, execution: OrderExecution, seconds: float) -> None:
        """Let time pass, and hear what brokers say."""
        self.clock.advance(seconds)
        execution.work()
