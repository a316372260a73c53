"""What an audit found: checks, what each compared at how many bars, and the leaks, each with its column and bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mtquant_rllib.errors import MtquantError


class LeakFound(MtquantError):
    """An audit that found something; its report has been printed."""

    exit_code = 1


@dataclass(frozen=True)
class Leak:
    """What knows the future.

    what
        The array, file or setting.
    column
        Of it: the feature, instrument or series; empty where it has none.
    row, timestamp
        The first bar at which it shows; None where it is not at a bar.
    how
        What was seen, in words.
    """

    what: str
    column: str
    row: int | None
    timestamp: str | None
    how: str

    def __str__(self) -> str:
        bar = "" if self.row is None else f" at bar {self.row} ({self.timestamp})"
        return f"{self.what}{f', {self.column},' if self.column else ''}{bar}: {self.how}"


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    compared
        What was compared, in words.
    bars
        Bars at which it was compared.
    leaks
        The first of each kind; empty where all is well.
    skipped
        Why the question could not be asked; None where it was.
    """

    name: str
    compared: str
    bars: int
    leaks: tuple[Leak, ...] = ()
    skipped: str | None = None


@dataclass(frozen=True)
class AuditReport:
    """market: what was looked at, in words; checks in their order."""

    market: str
    checks: tuple[Check, ...]

    @property
    def leaks(self) -> tuple[Leak, ...]:
        return tuple(leak for check in self.checks for leak in check.leaks)

    def lines(self) -> Iterator[str]:
        yield self.market
        width = max(len(check.name) for check in self.checks)
        for check in self.checks:
            answer = "not asked" if check.skipped else f"{len(check.leaks)} found" if check.leaks else "clean"
            why = check.skipped or f"{check.compared}; {check.bars:,} bars"
            yield f"{check.name:<{width}}  {answer:<9}  {why}"
            for leak in check.leaks:
                yield f"{'':<{width}}  LEAK       {leak}"
        found = len(self.leaks)
        yield "nothing knows the future" if not found else f"{found} leak{'s' if found > 1 else ''} found"

    def raise_if_leaking(self) -> None:
        """Raises LeakFound, naming the first."""
        if self.leaks:
            raise LeakFound(f"{len(self.leaks)} found, the first in {self.leaks[0]}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"market": self.market, "leaks": len(self.leaks), "checks": [asdict(check) for check in self.checks]}


def first_of_each(leaks: Sequence[Leak], most: int) -> tuple[Leak, ...]:
    """The first leak of each column, of at most so many columns."""
    found: dict[tuple[str, str], Leak] = {}
    for leak in leaks:
        found.setdefault((leak.what, leak.column), leak)
    return tuple(found.values())[:most]
