"""`curves/phase_N_TRIAL.csv`: their names, the columns that they are keyed by, and the rows that are whole."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtquant_rllib import durable
from mtquant_rllib.training.records import ownership

ITERATION, BARS = "iteration", "bars"
VALIDATION_SHARPE = "validation_sharpe"


def curve_of(run: Path, phase: int, trial: str) -> Path:
    """The file of a trial's curve."""
    return ownership.within(run, run / "curves" / f"phase_{phase}_{trial}.csv")


def truncated_csv(text: str, key: str, first_lost: int | None = None) -> str:
    """The CSV without the rows whose `key` is at or after `first_lost`, and without a half-written last row."""
    rows = _lines(text)
    if not rows or key not in rows[0]:
        return ""
    column, width = rows[0].index(key), len(rows[0])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    seen = -1
    for row in rows[1:]:
        if len(row) != width or not row[column].isdigit():
            continue
        number = int(row[column])
        if seen < number and (first_lost is None or number < first_lost):
            seen = number
            writer.writerow(row)
    return out.getvalue()


def _lines(text: str) -> list[list[str]]:
    """The rows of a CSV whose fields hold no line breaks: a damaged line costs itself alone."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        with contextlib.suppress(csv.Error):
            rows += csv.reader([line])
    return rows


def whole_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a curve that is being written, each iteration once; a last line that has no end yet is left for the
    next look. Empty where there is no curve."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    return list(csv.DictReader(io.StringIO(truncated_csv(text[: text.rfind("\n") + 1], ITERATION))))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV file, and its new columns to the rows before, where there are any."""
    header: list[str] = []
    if path.exists():
        with open(path, newline="") as file:
            header = next(csv.reader(file), [])
    new = [name for name in row if name not in header]
    if new:
        header = [*header, *new]
        if path.exists():
            rewrite(path, lambda text: written(header, csv.DictReader(io.StringIO(text))))
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        if not path.stat().st_size:
            writer.writeheader()
        writer.writerow(row)


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Replace a file, where there is one, by what `change` makes of its text."""
    if path.exists():
        durable.replace_file(path, change(path.read_text(errors="replace")).encode())


def written(header: list[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a CSV; what one lacks is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
