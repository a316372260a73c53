"""What each term of the regime-aware reward would have been for a book, beside the comparison.

Per cent of equity a year, the mean over all bars played. `shaping` is the sum of all terms but the return's, as a share
of the annual deviation of the net return. A term that is large for some book is one that a policy would learn to
exploit.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mtquant_rllib.env.allocator import Allocator
from mtquant_rllib.env.rewards.regime_aware import SHAPING, TERMS
from mtquant_rllib.evaluation.backtest.record import Record

SHARE = "shaping"

_TERM_WIDTH, _BOOK_WIDTH = 28, 12
"""Characters of a term's column, with the frame, and of a book's."""

Terms = Mapping[str, Mapping[str, float]]
"""Book -> term -> fraction of equity a year; and `shaping`."""


class TermLog:
    """Adds up a book's terms while it plays: for `rollout.play`, on every bar."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(TERMS, 0.0)

    def __call__(self, core: Allocator) -> None:
        playing = ~core.state.done
        for name, values in core.regime_aware_terms().items():
            self._sums[name] += float(values[playing].sum())

    def figures(self, record: Record) -> dict[str, float]:
        """Of the book that has just been played."""
        played = record.played
        years = played.sum() / record.bars_per_year
        deviation = float(record.returns[played].std() * np.sqrt(record.bars_per_year))
        terms = {name: total / years for name, total in self._sums.items()}
        paid = sum(terms[name] for name in SHAPING)
        return {**terms, SHARE: paid / deviation if deviation > 0 else 0.0}


def write_terms(terms: Terms, path: Path) -> Path:
    """One row a book."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["book", *TERMS, SHARE])
        writer.writeheader()
        writer.writerows({"book": book, **figures} for book, figures in terms.items())
    return path


def print_terms(terms: Terms, console: Console) -> None:
    """A column a book, the rules that hold one asset left to the file; as many beside each other as the console has
    room for, the others beneath."""
    books = [book for book in terms if not book.startswith("hold_")]
    per_row = max((console.width - _TERM_WIDTH) // _BOOK_WIDTH, 1)
    for start in range(0, len(books), per_row):
        console.print(_table(terms, books[start : start + per_row]))


def _table(terms: Terms, books: Sequence[str]) -> Table:
    table = Table(title="reward terms, % of equity a year", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("term", no_wrap=True)
    for book in books:
        table.add_column(book.replace("_", " "), justify="right")
    for name in TERMS:
        table.add_row(name, *(f"{terms[book][name]:.2%}" for book in books))
    table.add_section()
    table.add_row("shaping / deviation", *(f"{terms[book][SHARE]:.3f}" for book in books))
    return table
