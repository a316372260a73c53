"""Where an episode starts, and what is drawn for it: a pure function of (seed, runner, environment, episode).

No generator is carried from one episode to the next, so a restarted or restored runner draws what the lost one would
have drawn, and never what another one has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stretch:
    """Rows [start, stop) of one path in which episodes may run; `start` is the first row of decision."""

    start: int
    stop: int


@dataclass(frozen=True)
class Turn:
    """An episode's turn: index, within the domain, of the instrument that plays, and the stretches in which it may."""

    instrument: int
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True)
class EpisodeDraw:
    """start: first row of decision; stop: row at which the episode is truncated; allocation: that of a specialist who
    plays alone; turn: index, within the domain, of the instrument on turn in a single-instrument episode."""

    start: int
    stop: int
    allocation: float
    turn: int


def draw_episode(
    seed: int,
    runner: int,
    environment: int,
    episode: int,
    turns: Sequence[Turn],
    bars: int,
    allocation_range: tuple[float, float],
) -> EpisodeDraw:
    """Draw a path, a start and an allocation; instruments take their turns in order.

    A stretch shorter than `bars` is run as a whole.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, runner, environment, episode))))
    turn = turns[(environment + episode) % len(turns)]
    stretch = turn.stretches[int(rng.integers(len(turn.stretches)))]
    last_start = max(stretch.stop - 1 - bars, stretch.start)
    start = int(rng.integers(stretch.start, last_start + 1))
    low, high = allocation_range
    return EpisodeDraw(
        start=start,
        stop=min(start + bars, stretch.stop - 1),
        allocation=float(rng.uniform(low, high)),
        turn=turn.instrument,
    )
