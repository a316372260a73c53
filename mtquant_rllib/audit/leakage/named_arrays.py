"""Arrays whose every number has a row of time and a column's name, so that a difference can be told to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NamedArray:
    """Values of some rows of time.

    Attributes
    ----------
    name
        Of the array, such as `features.block`.
    columns
        Names of the C columns.
    rows
        int (R,), increasing: rows of the market's time axis.
    values
        (R, C), any type.
    """

    name: str
    columns: tuple[str, ...]
    rows: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        assert self.values.shape == (len(self.rows), len(self.columns)), (self.name, self.values.shape)


def named(name: str, values: np.ndarray, columns: Sequence[str] = (), first_row: int = 0) -> NamedArray:
    """An array (R, ...) on the rows from `first_row` on, its trailing axes side by side. Without columns they are
    numbered."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    names = tuple(columns) or ((name,) if flat.shape[1] == 1 else tuple(f"{name}[{k}]" for k in range(flat.shape[1])))
    return NamedArray(name, names, np.arange(first_row, first_row + len(flat)), flat)


@dataclass(frozen=True)
class Difference:
    """The first number of an array that is another one now."""

    array: str
    column: str
    row: int
    before: float
    after: float


def first_difference(before: NamedArray, after: NamedArray, last_row: int) -> Difference | None:
    """Compare byte for byte on the rows up to and including `last_row`: the earliest difference, or None.

    NaN equals the same NaN, and 0.0 is not -0.0.

    Raises
    ------
    ValueError
        When the two are not on the same rows and columns there: they cannot be compared.
    """
    mine, other = (array.values[array.rows <= last_row] for array in (before, after))
    same_rows = np.array_equal(before.rows[before.rows <= last_row], after.rows[after.rows <= last_row])
    if not same_rows or before.columns != after.columns or mine.dtype != other.dtype:
        raise ValueError(f"{before.name}: not the same rows, columns and types; nothing can be compared")
    if mine.tobytes() == other.tobytes():
        return None
    row, column = np.argwhere(_differs(mine, other))[0].tolist()
    numbers = float(mine[row, column]), float(other[row, column])
    return Difference(before.name, before.columns[column], int(before.rows[row]), *numbers)


def changed_columns(before: NamedArray, after: NamedArray) -> int:
    """Columns in which the two differ anywhere on the rows that both have."""
    _, mine, other = np.intersect1d(before.rows, after.rows, assume_unique=True, return_indices=True)
    return int(_differs(before.values[mine], after.values[other]).any(axis=0).sum())


def by_name(arrays: Sequence[NamedArray]) -> Mapping[str, NamedArray]:
    return {array.name: array for array in arrays}


def _differs(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool (R, C): other bytes."""
    width = mine.dtype.itemsize
    as_bytes = [np.ascontiguousarray(a).view(np.uint8).reshape(*a.shape, width) for a in (mine, other)]
    found: np.ndarray = (as_bytes[0] != as_bytes[1]).any(axis=-1)
    return found
