"""A desk that trades through a folder, and is killed: `python killed_desk.py FOLDER SEED DECISIONS`.

It says `trading` when it has reconciled, and ends when the orders of its last decision have.
"""

from __future__ import annotations

import datetime as dt
import random
import sys
import time
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.serving.execution.brokers.broker import BrokerUnavailable
from mtquant_rllib.serving.execution.brokers.file_drop import FileDropBroker
from mtquant_rllib.serving.execution.brokers.instruments import every_brokers_instruments
from mtquant_rllib.serving.execution.clock import SystemClock, utc_text
from mtquant_rllib.serving.execution.journal import Journal
from mtquant_rllib.serving.execution.order_execution import OrderExecution
from mtquant_rllib.serving.orders import Order, order_id

SYMBOLS = ("EURUSD", "XAUUSD", "SPX500")
OVERRIDES = (
    "serving.arrival_seconds=0.3",
    "serving.fault_simulation.market.latency_seconds=[0, 0.1]",
    "serving.simulated_broker={latency_seconds: [0, 0.1], reject_probability: 0.1, requote_probability: 0.2, "
    "requote_shift_bps: 1, requote_valid_seconds: 1000000, partial_fill_probability: 0.4, part_seconds: 2, "
    "commission_bps: 0}",
)


def orders(execution: OrderExecution, settings: Settings, seed: int, decision: str) -> list[Order]:
    """Orders to positions that are drawn from the seed."""
    found = []
    for symbol in SYMBOLS:
        row, draws = settings.symbols[symbol], random.Random(f"{seed} {decision} {symbol}")
        steps = draws.randint(-50, 50) - execution.state.position_steps(symbol)
        if steps:
            lots = abs(steps) * row.lot_step
            found.append(
                Order(
                    order_id(decision, symbol), symbol, "buy" if steps > 0 else "sell", lots, lots * row.contract,
                    "market_on_open", None, None, None, "drawn", decision, utc_text(dt.datetime.now(dt.UTC)),
                )
            )  # fmt: skip
    return found


def main(folder: Path, seed: int, decisions: int) -> None:
    settings = Settings.load(overrides=OVERRIDES)
    brokers = {"simulated": FileDropBroker("simulated", folder)}
    with Journal.open(folder / "desk.journal") as journal:
        execution = OrderExecution(
            settings.serving, every_brokers_instruments(settings), journal, brokers, SystemClock()
        )
        if execution.state.currency is None:
            execution.begin(currency="USD", balance_ccy=1e6, positions={})
        while not execution.started:
            try:
                execution.start()
            except BrokerUnavailable:
                time.sleep(0.01)
        print("trading", flush=True)
        for number in range(decisions):
            decision = f"d{number}"
            if decision not in execution.state.decisions:
                execution.submit({"id": decision}, orders(execution, settings, seed, decision))
            while execution.unsettled:
                execution.work()
                time.sleep(0.005)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
