"""Letting some environments of a desk rest for a bar while the others play.

A desk steps all its environments at once. When a number of bars does not divide evenly among them, the last bar is
played by some only: the others take it too, and are put back to where they stood. That costs a copy of their rows, on
one bar of a call, instead of a mask in every line of the core.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mtquant_rllib.config.base import Section
from mtquant_rllib.env.track_record import TrackRecord
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.tape import Tape

SHARED = (Section, FeatureTable, Tape)
RING = "_ring"


@contextmanager
def resting(desk: Trading, envs: np.ndarray) -> Iterator[None]:
    """What happens to the environments `envs` (indices) inside this block has not happened."""
    kept = [(owner, name, getattr(owner, name)[envs].copy()) for owner, name in _rows(desk, desk.n_envs)]
    rings = [(owner, getattr(owner, RING)[:, envs].copy()) for owner in _parts(desk) if isinstance(owner, TrackRecord)]
    slots = [owner._slot for owner, _ in rings]
    yield
    for owner, name, rows in kept:
        getattr(owner, name)[envs] = rows
    for (owner, ring), slot in zip(rings, slots):
        # The ring's one slot has moved on for all; what was oldest has to lie at the slot that is next.
        getattr(owner, RING)[:, envs] = np.roll(ring, owner._slot - slot, axis=0)
    desk._fetched = False


def _parts(root: Any) -> list[Any]:
    """The object and every part of it that is the project's own and not shared."""
    found: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if id(part) in found or isinstance(part, SHARED) or not hasattr(part, "__dict__") or isinstance(part, type):
            continue
        if type(part).__module__.partition(".")[0] != __name__.partition(".")[0]:
            continue
        found[id(part)] = part
        waiting += vars(part).values()
    return list(found.values())


def _rows(desk: Trading, n_envs: int) -> Iterator[tuple[Any, str]]:
    """Arrays with one row per environment. One that only happens to be as long is put back to what it is anyway."""
    for part in _parts(desk):
        if is_frozen(part):
            continue
        for name, item in vars(part).items():
            if not isinstance(item, np.ndarray) or not item.ndim or name == RING:
                continue
            if len(item) == n_envs and item.flags.writeable:
                yield part, name


def is_frozen(part: Any) -> bool:
    """Whether it is a dataclass that cannot change."""
    params = getattr(type(part), "__dataclass_params__", None)
    return params is not None and params.frozen
