"""The result of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from mtquant_rllib.errors import MtquantError

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class CheckResult:
    """One line of the report. cure: what to do about it; empty where all is well."""

    check: str
    level: Level
    said: str
    cure: str = ""

    def line(self) -> str:
        return f"{self.level:<8} {self.check:<10} {self.said}" + (f"\n{'':<20}cure: {self.cure}" if self.cure else "")


def refused(check: str, attempt: Callable[[], Iterator[CheckResult]]) -> Iterator[CheckResult]:
    """The findings of a check; a MtquantError becomes a failed one."""
    try:
        yield from attempt()
    except MtquantError as error:
        yield CheckResult(check, "failed", str(error))
