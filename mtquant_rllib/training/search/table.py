"""The trials of a sweep as a table, the best first: for a terminal and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtquant_rllib import durable
from mtquant_rllib.training.search.results import FINISHED, Results, TrialRow, lead, ranked

FILE = "results.csv"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Setting path -> the shortest end of it that no other has."""
    paths = list(paths)
    names = {}
    for path in paths:
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            end = ".".join(parts[-length:])
            if sum(other == end or other.endswith(f".{end}") for other in paths) == 1:
                break
        names[path] = end
    return names


def value_in_words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)


def score_in_words(score: float | None, error: float | None) -> str:
    """`0.83 ± 0.12`."""
    if score is None:
        return "--"
    return f"{score:.2f}" if error is None else f"{score:.2f} ± {error:.2f}"


def lines(rows: Sequence[TrialRow]) -> list[str]:
    """For a terminal."""
    ordered = ranked(rows)
    names = short_names(ordered[0].values) if ordered else {}
    head = ["trial", "score", "at", *names.values(), "status"]
    table = [head]
    for row in ordered:
        said = row.status if not row.why else f"{row.status}: {row.why}"
        values = [value_in_words(row.values[path]) for path in names]
        score = score_in_words(row.score, row.score_se)
        table.append([row.name.removeprefix("trial_"), score, f"{row.progress_pct:.0f}%", *values, said])
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    right = range(1, len(head) - 1)
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    ]


def verdict(rows: Sequence[TrialRow]) -> str:
    """Which trial is best, and whether its lead is more than noise between seeds."""
    finished = [row for row in ranked(rows) if row.status == FINISHED and row.score is not None]
    if not finished:
        return "no trial is finished"
    best = finished[0]
    said = f"best of {len(rows)}: {best.name}, validation Sharpe {score_in_words(best.score, best.score_se)}"
    if len(finished) > 1:
        difference, error = lead(best, finished[1])
        if difference is not None:
            over = f"{difference:.2f}" if error is None else f"{difference:.2f} ± {error:.2f}"
            said += f", {over} above {finished[1].name} seed by seed"
    return f"{said} (± one standard error over seeds; the best of many is too good by chance)"


def csv_text(rows: Sequence[TrialRow]) -> str:
    """A row a trial, the best first; settings by their whole paths."""
    ordered = ranked(rows)
    paths = list(ordered[0].values) if ordered else []
    seeds = max((len(row.scores) for row in rows), default=0)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = ["score", "score_se", *(f"score_{number}" for number in range(seeds))]
    writer.writerow(["rank", "trial", "status", *figures, "progress_pct", "bars", "seconds", *paths, "why"])
    for rank, row in enumerate(ordered, start=1):
        scores = [*row.scores, *([None] * (seeds - len(row.scores)))]
        numbers = ["" if number is None else number for number in (row.score, row.score_se, *scores)]
        own = [row.values[path] for path in paths]
        cells = [rank, row.name, row.status, *numbers, row.progress_pct, row.bars, round(row.seconds, 1), *own]
        writer.writerow([*cells, row.why])
    return out.getvalue()


def write(results: Results) -> Path:
    """`results.csv` in the sweep's folder."""
    path = results.sweep / FILE
    durable.replace_file(path, csv_text(list(results.rows.values())).encode())
    return path
