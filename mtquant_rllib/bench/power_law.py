"""How a cost grows with a size: the exponent of a power law, fitted to medians of timings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.bench.interleaving import interleaved

WINDOW_S = 0.05
"""A window is at least so long, with as many calls as that takes."""
_LARGEST = 3
"""Sizes at the upper end that are fitted on their own: what is constant in a cost weighs least there."""


@dataclass(frozen=True)
class Growth:
    """cost ~ size^exponent.

    sizes, seconds
        And the median time of a call at each.
    exponent, low, high
        The median, the least and the largest of the fits to each repeat, which are least squares on logarithms.
    largest
        The fit to the medians at the largest sizes alone.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    exponent: float
    low: float
    high: float
    largest: float

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "sizes": list(self.sizes), "seconds": list(self.seconds)}


def exponent_of(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def measure_growth(works: Mapping[int, Callable[[], Any]], repeats: int) -> Growth:
    """works: size -> what is timed. Sizes take turns, so that a machine that slows down slows all of them."""
    sizes = tuple(sorted(works))
    windows = interleaved({size: mean_call_time(works[size]) for size in sizes}, repeats)
    medians = tuple(statistics.median(windows[size]) for size in sizes)
    fits = [exponent_of(sizes, [windows[size][repeat] for size in sizes]) for repeat in range(repeats)]
    return Growth(
        sizes=sizes,
        seconds=medians,
        exponent=statistics.median(fits),
        low=min(fits),
        high=max(fits),
        largest=exponent_of(sizes[-_LARGEST:], medians[-_LARGEST:]),
    )


def mean_call_time(work: Callable[[], Any]) -> Callable[[], float]:
    """A window over `work`: mean seconds of a call, over as many calls as a window has room for."""
    began = time.perf_counter()
    work()
    calls = max(1, round(WINDOW_S / max(time.perf_counter() - began, 1e-9)))

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - began) / calls

    return measure
