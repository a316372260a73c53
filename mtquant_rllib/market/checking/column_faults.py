"""Faults of a whole column, which look like a fault of most rows: named as what they are, and never mended row by row.

High and low that widen to hold every open and close would make a file of swapped or adjusted columns consistent, and
wrong.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.market.bars import CLOSE, COLUMNS, HIGH, LOW, OPEN

_MANY_RANGES = 5
_NEARLY_ALL = 0.98
"""Share of rows in which a column plays the part that names the fault."""


def column_fault(prices: np.ndarray, slack: np.ndarray) -> str | None:
    """What is wrong with a column of prices (R, 4) of which many rows contradict themselves; None where no column
    explains it. slack (R,): differences that are rounding."""
    inside = {column: _within(prices, prices[:, column], slack) for column in (OPEN, CLOSE)}
    for column, other in ((CLOSE, OPEN), (OPEN, CLOSE)):
        if inside[other].mean() >= _NEARLY_ALL > inside[column].mean() and _far_off(prices, column):
            return (
                f"{COLUMNS[column]} lies outside low..high on {int((~inside[column]).sum())} of {len(prices)} rows, "
                f"{COLUMNS[other]} inside: as adjusted prices beside unadjusted ones do"
            )
    top, bottom = prices.max(axis=1) - slack, prices.min(axis=1) + slack
    highest, lowest = (prices >= top[:, None]).mean(axis=0), (prices <= bottom[:, None]).mean(axis=0)
    high, low = int(np.argmax(highest)), int(np.argmax(lowest))
    if highest[high] >= _NEARLY_ALL and lowest[low] >= _NEARLY_ALL and (high, low) != (HIGH, LOW):
        if (high, low) == (LOW, HIGH):
            return "high and low are swapped"
        return f"columns are shifted: {COLUMNS[high]} holds the highs and {COLUMNS[low]} the lows"
    for column in (CLOSE, OPEN):
        for shift, said in ((1, "before"), (-1, "after")):
            moved = _within(prices, np.roll(prices[:, column], -shift), slack)[1:-1]
            if moved.mean() >= _NEARLY_ALL > inside[column].mean():
                return f"{COLUMNS[column]} is shifted: it is that of the row {said}"
    if max(share.mean() for share in inside.values()) < 1 - _NEARLY_ALL:
        return "open and close lie outside low..high: as adjusted prices beside unadjusted ones do"
    return None


def _far_off(prices: np.ndarray, column: int) -> bool:
    """Is a column at times many usual ranges away from its bar: another price, and not another place in the bar."""
    middle = (prices[:, HIGH] + prices[:, LOW]) / 2
    usual = float(np.median(prices[:, HIGH] - prices[:, LOW]))
    return bool(np.quantile(np.abs(prices[:, column] - middle), 0.95) > _MANY_RANGES * max(usual, 0.0))


def _within(prices: np.ndarray, column: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """bool (R,): a column (R,) lies between low and high."""
    return (column <= prices[:, HIGH] + slack) & (column >= prices[:, LOW] - slack)
