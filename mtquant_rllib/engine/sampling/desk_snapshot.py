"""A desk in the middle of its episodes as arrays, and a desk put back to where it stood.

What differs between two desks of the same settings on the same market is what their parts hold for each environment,
and a few counters. Both are found by looking, so that a new array of the core is saved the day it is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtquant_rllib.engine.sampling.masked_step import RING, SHARED, is_frozen
from mtquant_rllib.env.trading import Trading

State = dict[str, dict[str, Any]]
"""Path of a part ("scorer.sharpe") -> attribute -> array or number."""


def capture(desk: Trading) -> State:
    """Copies of everything that belongs to an environment, and of every counter. Two names of one array are two names
    of one copy."""
    copies: dict[int, np.ndarray] = {}

    def copied(item: Any) -> Any:
        if not isinstance(item, np.ndarray):
            return item
        if id(item) not in copies:
            copies[id(item)] = item.copy()
        return copies[id(item)]

    return {
        path: {
            name: copied(item)
            for name, item in vars(part).items()
            if isinstance(item, bool | int | float) or (isinstance(item, np.ndarray) and _per_env(name, item, desk))
        }
        for path, part in _parts(desk).items()
    }


def put_back(desk: Trading, state: State) -> None:
    """Make the desk what `capture` saw. In place where an array of that shape is there: others may look at it too. But
    an array that has two names now and had one of them then is written once, and the other name gets its own."""
    targets: dict[int, np.ndarray] = {}
    written: set[int] = set()
    for path, part in _parts(desk).items():
        for name, item in state.get(path, {}).items():
            if not isinstance(item, np.ndarray):
                setattr(part, name, item)
                continue
            there = getattr(part, name, None)
            if id(item) in targets:
                setattr(part, name, targets[id(item)])
                continue
            if isinstance(there, np.ndarray) and _fits(there, item) and id(there) not in written:
                there[...] = item
            else:
                there = item.copy()
                setattr(part, name, there)
            targets[id(item)] = there
            written.add(id(there))
    desk._fetched = False


def _fits(there: np.ndarray, item: np.ndarray) -> bool:
    return there.flags.writeable and there.shape == item.shape and there.dtype == item.dtype


def _per_env(name: str, item: np.ndarray, desk: Trading) -> bool:
    return name == RING or (item.ndim > 0 and len(item) == desk.n_envs and item.flags.writeable)


def _parts(root: Any) -> dict[str, Any]:
    """The object and every part of it that is the project's own, not shared and not frozen, by its shortest path."""
    found: dict[int, str] = {}
    parts: dict[str, Any] = {}
    waiting = [("", root)]
    while waiting:
        path, part = waiting.pop(0)
        if id(part) in found or isinstance(part, (*SHARED, type)) or not hasattr(part, "__dict__"):
            continue
        if type(part).__module__.partition(".")[0] != __name__.partition(".")[0]:
            continue
        found[id(part)] = path
        if not is_frozen(part):
            parts[path] = part
        waiting += [(f"{path}.{name}".lstrip("."), item) for name, item in sorted(vars(part).items())]
    return parts
