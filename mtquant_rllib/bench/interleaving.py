"""Interleaved measurement: sides of a comparison take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Side = TypeVar("Side")
Figure = TypeVar("Figure")


def interleaved(sides: Mapping[Side, Callable[[], Figure]], repeats: int) -> dict[Side, list[Figure]]:
    """`repeats` figures of each side; the first window of each is thrown away."""
    windows: dict[Side, list[Figure]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side, window in sides.items():
            figure = window()
            if repeat:
                windows[side].append(figure)
    return windows


def rate(run: Callable[[], Any], units: int, calls: int = 1) -> Callable[[], float]:
    """A window of `calls` of `run`, which does `units` of work in all; it says how many units a second."""

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            run()
        return units / (time.perf_counter() - began)

    return measure
