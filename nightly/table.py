"""What was tried and what came of it: one row a try, printed when the session ends."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Row:
    """One fault, tried once. differing: arrays and figures that differ from the undisturbed run's; None where there is
    nothing to compare. bars_lost: those of all trials that had been told of and were played again, over all
    kills of the try; None where nothing is resumed."""

    fault: str
    survived: bool
    exit_code: int
    seen: str
    differing: int | None = None
    bars_lost: int | None = None


@dataclass
class Table:
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def lines(self) -> list[str]:
        """One line a fault, Markdown: all its tries together."""
        found = ["| fault | tried | survived | bars lost | differing | exit | what the user sees |", "|" + "---|" * 7]
        for fault in dict.fromkeys(row.fault for row in self.rows):
            own = [row for row in self.rows if row.fault == fault]
            lost = max((row.bars_lost for row in own if row.bars_lost is not None), default=None)
            differing = max((row.differing for row in own if row.differing is not None), default=None)
            codes = ", ".join(str(code) for code in sorted({row.exit_code for row in own}))
            cells = [
                fault,
                len(own),
                sum(row.survived for row in own),
                "–" if lost is None else lost,
                "–" if differing is None else differing,
                codes,
                own[-1].seen.replace("|", "/")[:140],
            ]
            found.append("| " + " | ".join(map(str, cells)) + " |")
        return found


TABLE = Table()
