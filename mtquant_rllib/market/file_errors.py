"""One wording for every complaint about a file: where, what, and what would be accepted.

A file is judged stage by stage (text, numbers, timestamps, prices, order). Each stage asks the `Inspection` whether it
may drop or mend the rows it found bad: without permission the first of them becomes the error; with it they are
counted.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.config.sections.market import RepairConfig
from mtquant_rllib.errors import MarketDataError


def fault(
    file: Path | str,
    problem: str,
    accepted: str,
    *,
    line: int | None = None,
    column: str | None = None,
    place: str = "line",
) -> MarketDataError:
    """The error `FILE: line 7, column close: PROBLEM; accepted: WHAT`.

    Parameters
    ----------
    line
        1-based line of a text file, or row of a table; None for the file as a whole.
    place
        "line" for text, "row" for Parquet.
    """
    where = ", ".join(
        part for part in (f"{place} {line}" if line is not None else "", f"column {column}" if column else "") if part
    )
    return MarketDataError(f"{file}: {where}{': ' if where else ''}{problem}; accepted: {accepted}")


def option_hint(file: Path | str, **options: Any) -> str:
    """How options of one file are given: alone on the command line, by its name in a folder."""
    alone = " ".join(f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in options.items())
    named = ", ".join(f"{key}: {strict_json.dumps(value)}" for key, value in options.items())
    pattern = shlex.quote(f"market.files={{{strict_json.dumps(Path(file).name)}: {{{named}}}}}")
    return f"{alone} for this file, in a folder --set {pattern}"


@dataclass
class Inspection:
    """What may be repaired in one file, and what has been."""

    path: Path
    lines: np.ndarray
    """int64 (R,): line or row number of each data row still in play, in the file's order."""
    place: str
    repair: bool
    repairs: dict[str, int] = field(default_factory=dict)

    def judge(
        self,
        bad: np.ndarray,
        kind: str,
        column: str | Callable[[int], str],
        problem: Callable[[int], str],
        accepted: str | Callable[[int], str],
    ) -> bool:
        """True if bad rows were found and may be repaired (they are counted as `kind`); False if none; else raises.

        Parameters
        ----------
        bad
            bool (R,): the rows concerned; the error names the first, and how many more there are.
        column, problem, accepted
            Texts, or functions from the index of that row.
        """
        n_bad = int(np.count_nonzero(bad))
        if not n_bad:
            return False
        if self.repair:
            self.repairs[kind] = self.repairs.get(kind, 0) + n_bad
            return True
        # The first in the file, whatever order the rows are held in.
        candidates = np.flatnonzero(bad)
        first = int(candidates[np.argmin(self.lines[candidates])])
        more = f" (and {n_bad - 1} more such {self.place}s)" if n_bad > 1 else ""
        raise fault(
            self.path,
            problem(first) + more,
            accepted if isinstance(accepted, str) else accepted(first),
            line=int(self.lines[first]),
            column=column if isinstance(column, str) else column(first),
            place=self.place,
        )


# A file pasted together twice is whole; its duplicates do not count as lost.
_LOST = ("unparsable_rows_dropped", "non_positive_dropped")


def refuse_large_repairs(inspection: Inspection, n_read: int, config: RepairConfig, line: int) -> None:
    """A repair that changes much of a file makes another file. Raises MarketDataError with the kind and its limit."""
    lost = sum(inspection.repairs.get(kind, 0) for kind in _LOST)
    limits = [(lost, config.max_dropped_frac, 0, "drop", "unusable rows (market.repair.max_dropped_frac)")]
    for kind, most in config.max_frac.items():
        said = f"{kind.replace('_', ' ')} (market.repair.max_frac.{kind})"
        # A single row makes no other file, however few there are.
        limits.append((inspection.repairs.get(kind, 0), most, 1, "touch", said))
    for count, most, allowed, does, what in limits:
        if count > max(most * n_read, allowed):
            raise fault(
                inspection.path,
                f"a repair would {does} {count} of {n_read} rows: {inspection.repairs}",
                f"at most {most:.0%} {what}",
                line=line,
                column="all",
            )
