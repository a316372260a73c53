"""Two hundred seeds of simulated faults; `nightly/test_order_faults.py` has ten thousand, and real kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.serving import ServingConfig
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.execution.brokers.broker import BrokerUnavailable
from mtquant_rllib.serving.execution.fault_simulation import Simulation, simulate, violations
from mtquant_rllib.serving.execution.order_execution import OrderExecution

SETTINGS = Settings.load()
SEEDS = 200


@pytest.mark.slow
def test_whatever_befalls_it_the_desk_ends_with_the_undisturbed_positions_and_no_order_twice_or_lost() -> None:
    kills, kinds, endings = 0, set(), set()
    for seed in range(SEEDS):
        outcome, wrong = simulate(SETTINGS, seed)
        assert not wrong, f"seed {seed}: {wrong}"
        kills += outcome.kills
        kinds |= {event.kind for event in outcome.events}
        endings |= {str(event.body.get("report", event.body.get("as"))) for event in outcome.events}
    assert kills > 3 * SEEDS
    assert {"connection_lost", "not_found", "retry", "reconciled", "cancel_requested"} <= kinds
    assert {"filled", "rejected", "requoted", "cancelled", "expired"} <= endings


@pytest.mark.slow
def test_a_seed_replays_to_the_byte_in_memory_and_on_the_disk(tmp_path: Path) -> None:
    for seed in range(3):
        first, second = (Simulation(SETTINGS, seed, disturbed=True).run() for _ in range(2))
        on_disk, wrong = simulate(SETTINGS, seed, tmp_path / f"{seed}.journal")
        assert not wrong
        assert first.events == second.events == on_disk.events
        assert first.state_json == second.state_json == on_disk.state_json
        assert first.events != Simulation(SETTINGS, seed + 100, disturbed=True).run().events


class _SendsBeforeWriting(OrderExecution):
    """A fault: orders leave before they are in the journal as sent."""

    def _send_waiting(self) -> None:
        for child in self.state.open_orders():
            if child.state == "new":
                try:
                    self._brokers[child.broker].send(self._as_broker_order(child))
                except BrokerUnavailable:
                    continue
                self._write([("sent", {"id": child.id})])


class _ForgetsConnectionsLost(OrderExecution):
    """A fault: an order whose sending broke is never asked for again."""

    def _is_overdue(self, broker: str) -> bool:
        return False

    def _reconciled(self, names):  # type: ignore[no-untyped-def]
        for name in names:
            self._hear(name)
        return None


class _SendsAgainAtOnce(OrderExecution):
    """A fault: an order that the broker does not have yet is taken for lost."""

    def __init__(self, serving: ServingConfig, *others: Any) -> None:
        super().__init__(serving.model_copy(update={"arrival_seconds": 0.0}), *others)


def _found(seeds: range, execution: type[OrderExecution] = OrderExecution) -> list[str]:
    """What is wrong with the first seed that finds something."""
    for seed in seeds:
        undisturbed = Simulation(SETTINGS, seed, disturbed=False).run()
        try:
            disturbed = Simulation(SETTINGS, seed, disturbed=True, execution=execution).run()
        except (MtquantError, RuntimeError) as error:
            return [f"{type(error).__name__}: {error}"]
        if wrong := violations(disturbed, undisturbed):
            return wrong
    return []


@pytest.mark.parametrize("faulty", [_SendsBeforeWriting, _ForgetsConnectionsLost, _SendsAgainAtOnce])
def test_the_simulation_finds_a_desk_at_fault(faulty: type[OrderExecution]) -> None:
    assert _found(range(12), faulty)
