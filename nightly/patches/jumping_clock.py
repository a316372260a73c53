"""The clock of a process jumps: by a day back, an hour or a day on, and back again."""

from __future__ import annotations

import random
import time

SHIFTS_S = (-86400.0, 0.0, 3600.0, 86400.0)
SHARE = 0.01
"""Of looks at the clock, after which it jumps."""

_time, _random, _shift = time.time, random.Random(), [0.0]


def jumping() -> float:
    if _random.random() < SHARE:
        _shift[0] = _random.choice(SHIFTS_S)
    return _time() + _shift[0]


time.time = jumping
