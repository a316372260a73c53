"""Memory of the processes of a run: what is no longer used goes back to the machine.

Without this a process grows for hours, by some 4 MB in each, though it leaks nothing:

- CPython runs a full garbage collection only when the objects that have outlived two younger ones are more than a
  quarter of those that outlived the last full one. A runner or a trial holds half a million objects of torch and Ray:
  hours pass without one. Cycles stay, and so do the interpreter's lists of free tuples, which only a full collection
  empties (2,000 of each of 20 lengths). Frozen, the long-lived objects count no more, and full collections are
  frequent and cheap (https://docs.python.org/3/library/gc.html#gc.freeze).
- The C library keeps freed memory between what is still in use; `malloc_trim` returns its whole pages
  (https://man7.org/linux/man-pages/man3/malloc_trim.3.html).
"""

from __future__ import annotations

import ctypes
import functools
import gc
import time
from collections.abc import Callable

import ray

TRIM_EVERY_S = 60.0

_trimmed = 0.0
"""When this process last returned free memory, on the monotonic clock."""


def freeze_long_lived_objects() -> None:
    """Exempt every object that now lives from garbage collection.

    Does nothing outside of an actor of Ray: the process of a notebook is its owner's."""
    if in_actor():
        gc.collect()
        gc.freeze()
        # The next full collection is due by the count of the last one's survivors, which freezing leaves as it was.
        gc.collect()


def unfreeze_objects() -> None:
    """Undo `freeze_long_lived_objects`, when the objects may be no longer needed."""
    if in_actor():
        gc.unfreeze()


def trim_memory() -> None:
    """Return free memory to the machine, at most once a minute. Does nothing where the C library is not GNU's."""
    global _trimmed
    now = time.monotonic()
    if now - _trimmed >= TRIM_EVERY_S:
        _trimmed = now
        _malloc_trim()(0)


@functools.cache
def _malloc_trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda pad: None
    return trim


def in_actor() -> bool:
    """Whether this process is an actor of Ray: a trial, a runner or a learner with a process of its own."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
