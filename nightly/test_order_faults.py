"""Faults of a desk's orders: ten thousand seeds of the simulation, and twenty SIGKILLs of a real process."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_desk import OVERRIDES, SYMBOLS

from mtquant_rllib import durable, strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.serving.execution.brokers.broker import BrokerOrder, Snapshot
from mtquant_rllib.serving.execution.brokers.instruments import every_brokers_instruments
from mtquant_rllib.serving.execution.brokers.simulated import BarPrices, PricedBar, SimulatedBroker
from mtquant_rllib.serving.execution.clock import ManualClock
from mtquant_rllib.serving.execution.fault_simulation import simulate
from mtquant_rllib.serving.execution.journal_file import checked, opened_to_read
from mtquant_rllib.serving.execution.trading_state import TradingState, fold

SEEDS = int(os.environ.get("MTQUANT_FAULT_SEEDS", "10000"))
KILLS, DECISIONS = int(os.environ.get("MTQUANT_ORDER_KILLS", "20")), 30
PROGRAM = Path(__file__).with_name("killed_desk.py")


def test_ten_thousand_seeds() -> None:
    settings, wrong = Settings.load(), {}
    for seed in range(SEEDS):
        if found := simulate(settings, seed)[1]:
            wrong[seed] = found
    assert not wrong, f"{len(wrong)} of {SEEDS} seeds, of which the first are {dict(list(wrong.items())[:3])}"


class Venue:
    """The broker's side of the folder, in this process, which is not killed: a simulated broker for which one second
    passes, with an open, each time it looks."""

    def __init__(self, folder: Path, seed: int) -> None:
        settings = Settings.load(overrides=OVERRIDES)
        self._orders, self._answers = folder / "orders", folder / "answers"
        (self._answers / "reports").mkdir(parents=True)
        self._clock, self._prices = ManualClock(dt.datetime(2024, 1, 8, tzinfo=dt.UTC)), BarPrices({})
        self.broker = SimulatedBroker(
            "simulated", every_brokers_instruments(settings)["simulated"], self._prices,
            settings.serving.simulated_broker, self._clock, seed, currency="USD", balance_ccy=1e6,
        )  # fmt: skip
        self._given, self._written = set[str](), -1
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Venue:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self._look()
            time.sleep(0.005)

    def _look(self) -> None:
        for path in sorted(self._orders.glob("[!.]*.json")) if self._orders.is_dir() else ():
            if path.name not in self._given:
                self._given.add(path.name)
                self.broker.send(BrokerOrder(**json.loads(path.read_bytes())))
        self._clock.advance(1)
        now = self._clock.now()
        for symbol in SYMBOLS:
            self._prices.add(symbol, PricedBar(now, 1.0, now, 1.0))
        for report in self.broker.poll(max(self._written, 0)):
            path = self._answers / "reports" / f"{report.number}.json"
            durable.replace_file(path, strict_json.dumps(report.to_dict()).encode())
        record = self.broker.record()
        if record.last_report != self._written:
            self._written = record.last_report
            orders = {id: known.__dict__ for id, known in record.orders.items()}
            content = strict_json.dumps({**record.__dict__, "orders": orders}).encode()
            durable.replace_file(self._answers / "snapshot.json", content)


def start(folder: Path, seed: int) -> subprocess.Popen[str]:
    words = [sys.executable, str(PROGRAM), str(folder), str(seed), str(DECISIONS)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journal(folder: Path) -> TradingState:
    """The state of a journal that verifies."""
    with opened_to_read(folder / "desk.journal") as connection:
        events, faults = checked(connection)
    assert not faults
    return fold(events)


@pytest.fixture(scope="module", params=[0, 1])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """(seed, state, the broker's record) of a desk that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Venue(folder, request.param) as venue:
        desk = start(folder, request.param)
        _, errors = desk.communicate(timeout=600)
        assert desk.returncode == 0, errors
        yield request.param, journal(folder), venue.broker.record()


def test_a_desk_that_is_killed_ends_where_the_undisturbed_one_did(
    undisturbed: tuple[int, TradingState, Snapshot], tmp_path: Path
) -> None:
    seed, state, record = undisturbed
    rng, kills = random.Random(seed), 0
    with Venue(tmp_path, seed) as venue:
        while True:
            desk = start(tmp_path, seed)
            assert desk.stdout is not None
            desk.stdout.readline()
            if kills < KILLS // 2:
                # Before it trades, or soon after it does, so that every process gets a little further.
                time.sleep(rng.uniform(0, 0.25))
                if desk.poll() is None:
                    desk.send_signal(signal.SIGKILL)
                    kills += 1
            _, errors = desk.communicate(timeout=600)
            if desk.returncode != -signal.SIGKILL:
                assert desk.returncode == 0, errors
                break
            journal(tmp_path)
        assert kills == KILLS // 2, "the desk was done before it had been killed as often"
        assert journal(tmp_path).positions == state.positions
        assert venue.broker.record().orders == record.orders
