"""Exponents of costs whose growth is known."""

from __future__ import annotations

import time

import pytest

from mtquant_rllib.bench.growth import call_time, exponent_of, measure_growth


def test_a_power_law_has_its_exponent() -> None:
    sizes = (1, 2, 4, 8)
    assert exponent_of(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_work_that_waits_for_the_square_of_its_size_grows_with_it() -> None:
    growth = measure_growth({n: lambda n=n: time.sleep(2e-4 * n * n) for n in (2, 4, 8)}, repeats=3)
    assert growth.exponent == pytest.approx(2, abs=0.25)
    assert growth.low <= growth.exponent <= growth.high
    assert growth.seconds[-1] == pytest.approx(0.0128, rel=0.4)


def test_a_constant_part_shows_in_all_sizes_and_less_in_the_largest() -> None:
    growth = measure_growth({n: lambda n=n: time.sleep(0.01 + 2e-5 * n**2) for n in (1, 4, 16, 32, 64)}, repeats=1)
    assert growth.exponent < growth.largest < 2


def test_a_window_has_as_many_calls_as_fit() -> None:
    calls: list[int] = []
    measure = call_time(lambda: calls.append(time.sleep(0.01) or 0))
    assert measure() == pytest.approx(0.01, rel=0.3)
    assert 4 <= len(calls) <= 6
