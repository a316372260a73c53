"""How sides of a comparison are timed."""

from __future__ import annotations

import time

from mtquant_rllib.bench.interleaving import interleaved, rate


def test_sides_take_turns_and_the_first_window_of_each_is_thrown_away() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(order.count(name))

    windows = interleaved({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=3)
    assert order == ["a", "b"] * 4
    assert windows == {"a": [2.0, 3.0, 4.0], "b": [2.0, 3.0, 4.0]}


def test_a_rate_counts_the_work_of_all_its_calls() -> None:
    calls: list[float] = []

    def work() -> None:
        time.sleep(0.01)
        calls.append(0.0)

    speed = rate(work, units=50, calls=5)()
    assert len(calls) == 5
    assert 50 / 0.2 < speed <= 50 / 0.05
