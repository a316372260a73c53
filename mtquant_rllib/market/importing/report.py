"""What an import did: per file how it was read, what was mended, what looks odd."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FileReport:
    """One file.

    Attributes
    ----------
    rows_read, rows_kept
        Data rows in the file, and bars (or macro days) taken from it.
    dialect
        How it was read: separator, header, timestamps, time zone, scale.
    repairs
        Kind -> rows concerned; without a repair only bars of closed hours, which are always left out.
    warnings
        Suspicions about content that was taken as it is.
    notes
        What was left aside, such as symbols that nobody trades.
    clock
        What intraday timestamps were read as: a time zone, "own offsets"; "dates" of daily bars.
    """

    path: str
    content: str
    symbols: tuple[str, ...]
    rows_read: int
    rows_kept: int
    first: str
    last: str
    dialect: str
    repairs: dict[str, int]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    clock: str = ""


@dataclass(frozen=True)
class ImportReport:
    """All files of one import, and what was noticed when they were put together."""

    files: tuple[FileReport, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """What lay there and was not read, and why."""

    @property
    def repairs(self) -> dict[str, int]:
        """Kind -> rows, summed over files."""
        total: Counter[str] = Counter()
        for file in self.files:
            total.update(file.repairs)
        return dict(total)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "repairs": self.repairs}

    def lines(self) -> list[str]:
        """The report for a screen, one fact a line."""
        out = []
        for file in self.files:
            what = ", ".join(file.symbols)
            out.append(f"{file.path}: {file.content} {what}, {file.rows_kept:,} rows, {file.first} .. {file.last}")
            out.append(f"  read as {file.dialect}")
            out += [f"  repaired: {kind.replace('_', ' ')} {count:,}" for kind, count in file.repairs.items()]
            out += [f"  warning: {text}" for text in file.warnings]
            out += [f"  note: {text}" for text in file.notes]
        out += [f"warning: {text}" for text in self.warnings]
        return out + [f"not read: {text}" for text in self.skipped]
