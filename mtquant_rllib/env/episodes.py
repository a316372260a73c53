"""Where an episode starts, and what is drawn for it: a pure function of (seed, runner, environment, episode).

No generator is carried from one episode to the next, so a restarted or restored runner draws what the lost one would
have drawn, and never what another one has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpisodeSegment:
    """Rows [start, stop) of one path in which episodes may run; `start` is the first row of decision."""

    start: int
    stop: int


@dataclass(frozen=True)
class InstrumentSegments:
    """instrument: index, within the domain, of one that plays alone; segments: in which it may."""

    instrument: int
    segments: tuple[EpisodeSegment, ...]


@dataclass(frozen=True)
class EpisodeDraw:
    """start: first row of decision; stop: row at which the episode is truncated; allocation: that of a specialist who
    plays alone; active_instrument: index, within the domain, of the one that plays in a single-instrument episode."""

    start: int
    stop: int
    allocation: float
    active_instrument: int


def draw_episode(
    seed: int,
    runner: int,
    environment: int,
    episode: int,
    choices: Sequence[InstrumentSegments],
    bars: int,
    allocation_range: tuple[float, float],
) -> EpisodeDraw:
    """Draw a path, a start and an allocation; instruments are active one after another.

    A segment shorter than `bars` is run as a whole.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, runner, environment, episode))))
    choice = choices[(environment + episode) % len(choices)]
    segment = choice.segments[int(rng.integers(len(choice.segments)))]
    last_start = max(segment.stop - 1 - bars, segment.start)
    start = int(rng.integers(segment.start, last_start + 1))
    low, high = allocation_range
    return EpisodeDraw(
        start=start,
        stop=min(start + bars, segment.stop - 1),
        allocation=float(rng.uniform(low, high)),
        active_instrument=choice.instrument,
    )
