"""Exponents of costs whose growth is known, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mtquant_rllib.bench import power_law as module
from mtquant_rllib.bench.power_law import exponent_of, mean_call_time, measure_growth

Wait = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Lets seconds pass."""
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return passes


def test_a_power_law_has_its_exponent() -> None:
    sizes = (1, 2, 4, 8)
    assert exponent_of(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_work_that_takes_the_square_of_its_size_grows_with_it(wait: Wait) -> None:
    growth = measure_growth({n: lambda n=n: wait(2e-4 * n * n) for n in (2, 4, 8)}, repeats=3)
    assert growth.exponent == pytest.approx(2)
    assert growth.low <= growth.exponent <= growth.high
    assert growth.seconds[-1] == pytest.approx(0.0128)


def test_a_constant_part_shows_in_all_sizes_and_less_in_the_largest(wait: Wait) -> None:
    growth = measure_growth({n: lambda n=n: wait(0.01 + 2e-5 * n**2) for n in (1, 4, 16, 32, 64)}, repeats=1)
    assert growth.exponent < growth.largest < 2


def test_a_window_has_as_many_calls_as_fit(wait: Wait) -> None:
    calls: list[int] = []

    def work() -> None:
        wait(0.01)
        calls.append(0)

    measure = mean_call_time(work)
    assert measure() == pytest.approx(0.01)
    assert len(calls) == 1 + 5
