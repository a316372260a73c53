"""Tables on the terminal that are whole at its width: where columns do not fit beside each other, they go beneath."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

_GAP = 2
"""Between columns."""


def print_cells(
    cells: Sequence[Sequence[str]],
    console: Console,
    *,
    title: str = "",
    words: Collection[int] = (0,),
    bold: Collection[int] = (),
    ends: Collection[int] = (),
) -> None:
    """Print a header and rows of text.

    Parameters
    ----------
    words
        Columns that hold words and start at the left; numbers end at the right.
    bold, ends
        Rows, counted without the header, that are bold, and that a line follows.
    """
    if title:
        console.print(title, style="italic", highlight=False)
    for columns in blocks(cells, console.width):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        for column in columns:
            table.add_column(cells[0][column], justify="left" if column in words else "right", no_wrap=True)
        for place, row in enumerate(cells[1:]):
            style = "bold" if place in bold else None
            table.add_row(*(row[column] for column in columns), style=style, end_section=place in ends)
        # One column that is wider than the terminal is wrapped by it, which is better than cut short.
        table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
        console.print(table, crop=False)


def blocks(cells: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Columns of each block: as many as fit side by side, the first one in all of them."""
    widths = [max(len(row[column]) for row in cells) + _GAP for column in range(len(cells[0]))]
    found: list[list[int]] = [[0]]
    used = widths[0]
    for column, own in enumerate(widths[1:], start=1):
        if used + own > width and len(found[-1]) > 1:
            found.append([0])
            used = widths[0]
        found[-1].append(column)
        used += own
    return found
