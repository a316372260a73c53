"""A process whose memory test_process_memory.py looks at: `memory_program.py cycles|outside|undone|trim [freeze]`."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

from mtquant_rllib.engine import process_memory


class Link:
    """One of two that hold each other."""

    def __init__(self) -> None:
        self.other: Link | None = None


def cycle() -> Link:
    first, second = Link(), Link()
    first.other, second.other = second, first
    return first


def cycles(freeze: bool) -> None:
    """A million objects that stay, and then 100,000 cycles that outlive two young collections."""
    long_lived = [[number] for number in range(1_000_000)]
    gc.collect()
    if freeze:
        process_memory.freeze_long_lived_objects()
    before = gc.get_stats()[2]["collections"]
    waiting: list[Any] = []
    for _ in range(200):
        waiting.extend(cycle() for _ in range(500))
        if len(waiting) > 2_000:
            del waiting[:1_000]
    print("full_collections", gc.get_stats()[2]["collections"] - before)
    print("cycles_alive", sum(isinstance(each, Link) for each in gc.get_objects()))
    assert long_lived


def outside() -> None:
    process_memory.freeze_long_lived_objects()
    print("frozen", gc.get_freeze_count())


def undone() -> None:
    first = cycle()
    seen = weakref.ref(first)
    process_memory.freeze_long_lived_objects()
    del first
    gc.collect()
    print("while_frozen", int(seen() is not None))
    process_memory.unfreeze_objects()
    gc.collect()
    print("after", int(seen() is not None))


def heap_mb() -> float:
    """Memory of this process's own."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def holes() -> list[bytearray]:
    """60 MB in pieces of 10 kB, of which every twentieth stays."""
    pieces = [bytearray(10_000) for _ in range(6_000)]
    return pieces[::20]


def trim() -> None:
    before = heap_mb()
    kept = [holes()]
    print("kept_mb", heap_mb() - before)
    process_memory.trim_memory()
    print("after_trim_mb", heap_mb() - before)
    kept.append(holes())
    process_memory.trim_memory()
    print("too_soon_mb", heap_mb() - before)
    process_memory._trimmed -= process_memory.TRIM_EVERY_S
    process_memory.trim_memory()
    print("a_minute_later_mb", heap_mb() - before)


if __name__ == "__main__":
    which = sys.argv[1]
    if which in ("undone", "cycles"):
        process_memory.in_actor = lambda: True
    if which == "cycles":
        cycles("freeze" in sys.argv)
    else:
        {"outside": outside, "undone": undone, "trim": trim}[which]()
