"""The time of a trading process: the machine's clock, or one that is set by hand in simulations and tests."""

from __future__ import annotations

import datetime as dt
from typing import Protocol


class Clock(Protocol):
    def now(self) -> dt.datetime:
        """The time, UTC."""


class SystemClock:
    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)


class ManualClock:
    """A clock that stands still until it is moved, and never goes back."""

    def __init__(self, start: dt.datetime) -> None:
        self._now = start

    def now(self) -> dt.datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self.advance_to(self._now + dt.timedelta(seconds=seconds))

    def advance_to(self, instant: dt.datetime) -> None:
        """Move to an instant; stays where it is if that has passed."""
        self._now = max(self._now, instant)


def utc_text(instant: dt.datetime) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return instant.astimezone(dt.UTC).isoformat(timespec="milliseconds")
