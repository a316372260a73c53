"""How a file writes its numbers: which mark is decimal, which parts thousands, told by all cells of all columns.

`33,048` is 33048 to one reader and 33.048 to another. A file is read in one way: a cell that only one reading fits
(`1.10856`, `1.234,5`, `1,234,567`) decides for all of them, two cells that contradict each other are refused, and so
is a file that both readings fit, unless its options name the mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtquant_rllib.config.sections.market import FileOptions
from mtquant_rllib.market.file_errors import fault, option_hint

_EMPTY_TEXTS = ("", "null", "nan", "na", "n/a", "none", "-", ".")
_GROUPING = ("'", "’", " ", "\u00a0", "\u202f", "_")
"""Marks that can only part thousands."""
_OTHER = {".": ",", ",": "."}
_UNIT = r"\s?[A-Za-z%]{0,3}$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$|^(?i:[+-]?(inf|infinity)|nan)$"
_PLAIN_SAMPLE = 1000
_FINEST_TICK = 0.001
"""A tick at which three digits behind a point are a price as it is quoted."""


@dataclass(frozen=True)
class NumberFormat:
    """decimal: the mark before fractions; thousands: the marks between groups of digits; multipliers: letters behind a
    count -> what they multiply it by, a power of ten."""

    decimal: str = "."
    thousands: tuple[str, ...] = ()
    multipliers: Mapping[str, int] = field(default_factory=dict)

    @property
    def wording(self) -> str:
        """What a report says of it; empty for plain numbers."""
        names = {" ": "a blank", "\u00a0": "a blank", "\u202f": "a blank"}
        said = [] if self.decimal == "." else [f"decimal mark {self.decimal}"]
        if self.thousands:
            said.append(f"thousands mark {' '.join(dict.fromkeys(names.get(m, m) for m in self.thousands))}")
        return ", ".join(said)


@dataclass(frozen=True)
class _Sighting:
    """The first cell that says something about a mark."""

    text: str
    line: int
    column: str


def number_format(
    path: Path,
    columns: Mapping[str, pa.Array],
    lines: np.ndarray,
    options: FileOptions,
    multipliers: Mapping[str, int],
    ticks: Sequence[float] = (),
    witnesses: Mapping[str, pa.Array] | None = None,
) -> NumberFormat:
    """The way in which the numbers of a file are written.

    Parameters
    ----------
    columns
        Header -> cells, of the columns that are read as numbers; only text says anything.
    lines
        int64 (R,): where each row stands in the file.
    ticks
        Smallest price steps of the instruments in the file; none: series of other kinds, whose point is decimal.
    witnesses
        Header -> cells, of columns that nobody reads, which are asked where the others do not tell.

    Raises
    ------
    MarketDataError
        For a file that both readings fit, or that has numbers of both.
    """
    texts = {name: cells for name, cells in columns.items() if _is_text(cells)}
    letters = dict(multipliers if options.multipliers is None else options.multipliers)
    if options.decimal is not None or options.thousands is not None:
        return NumberFormat(*_named_marks(options), letters)
    if _plainly_decimal(texts):
        return NumberFormat(multipliers=letters)
    grouping = tuple(mark for mark in _GROUPING if any(_holds(cells, mark) for cells in texts.values()))
    sights = {mark: _Sights.of(texts, lines, mark) for mark in _OTHER}
    _refuse_contradictions(path, sights)
    doubtful = [mark for mark in (",", ".") if sights[mark].doubtful is not None]
    decimal = next((m for m, o in _OTHER.items() if sights[m].decimal or sights[o].thousands), None)
    if decimal is None and doubtful and witnesses:
        text_columns = {name: cells for name, cells in witnesses.items() if _is_text(cells)}
        proven = [mark for mark in _OTHER if _first(text_columns, lines, _patterns(mark)["decimal"]) is not None]
        decimal = proven[0] if len(proven) == 1 else None
    if decimal is not None:
        other = _OTHER[decimal]
        parted = sights[other].thousands is not None or other in doubtful
        return NumberFormat(decimal, (*grouping, *((other,) if parted else ())), letters)
    if doubtful == ["."] and (not ticks or max(ticks) <= _FINEST_TICK):
        return NumberFormat(".", grouping, letters)
    if doubtful and not (grouping and doubtful == ["."]):
        raise _undecided(path, doubtful[0], sights[doubtful[0]].doubtful)
    return NumberFormat(".", grouping, letters)


def _refuse_contradictions(path: Path, sights: Mapping[str, _Sights]) -> None:
    for mark, other in _OTHER.items():
        here = sights[mark].decimal
        there = sights[other].decimal or sights[mark].thousands
        if here is not None and there is not None:
            raise fault(
                path,
                f"{here.text!r} has a decimal mark {mark!r}, {there.text!r} (line {there.line}, column {there.column}) "
                "has not",
                "one decimal mark and one thousands mark in a file",
                line=here.line,
                column=here.column,
            )


def parse_numbers(column: pa.Array, form: NumberFormat, *, counts: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(values float64 (R,), unparsable bool (R,)) of cells; an empty one (also `null`, `nan`, `.`) is NaN.

    counts: letters behind the number multiply it."""
    n = len(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_text(column):
        kind = column.type
        if pa.types.is_decimal(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return np.array(values, dtype=np.float64), np.zeros(n, dtype=bool)
        return np.full(n, np.nan), np.full(n, not pa.types.is_null(kind))
    if form.decimal == "." and not form.thousands:
        try:
            values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
            return np.array(values, dtype=np.float64), np.zeros(n, dtype=bool)
        except pa.ArrowInvalid:
            pass
    texts = _plain_spelling(pc.utf8_trim_whitespace(column), form, counts)
    readable = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
    numbers = pc.cast(pc.if_else(readable, texts, pa.scalar(None, texts.type)), pa.float64())
    values = np.array(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
    empty = pc.fill_null(pc.is_in(pc.utf8_lower(texts), value_set=pa.array(_EMPTY_TEXTS, texts.type)), True)
    bad = ~np.asarray(readable.to_numpy(zero_copy_only=False)) & ~np.asarray(empty.to_numpy(zero_copy_only=False))
    return values, bad


def _is_text(column: pa.Array) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def _named_marks(options: FileOptions) -> tuple[str, tuple[str, ...]]:
    named = options.thousands
    decimal = options.decimal or ("," if named == "." else ".")
    if named is None:
        return decimal, (_OTHER[decimal], *_GROUPING)
    blanks = (" ", "\u00a0", "\u202f")
    return decimal, () if named == "none" else blanks if named == " " else ("'", "’") if named == "'" else (named,)


def _plainly_decimal(texts: Mapping[str, pa.Array]) -> bool:
    """Every cell is a number as Python writes it, and one of the first has a point that cannot part thousands."""
    try:
        for cells in texts.values():
            pc.cast(cells, pa.float64())
    except pa.ArrowInvalid:
        return False
    proof = _patterns(".")["decimal"]
    return any(
        pc.any(pc.match_substring_regex(cells.slice(0, _PLAIN_SAMPLE), proof)).as_py() for cells in texts.values()
    )


def _holds(cells: pa.Array, mark: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(cells, rf"\d{mark}\d")).as_py())


def _patterns(mark: str) -> dict[str, str]:
    """Of cells in which `mark` must be decimal, must part thousands, or may do either."""
    m, o = rf"\{mark}", rf"\{_OTHER[mark]}"
    power = r"([eE][+-]?\d+)?"
    return {
        "decimal": (
            rf"^[+-]?(\d+{m}(\d{{1,2}}|\d{{4,}})?{power}|{m}\d+{power}|(\d{{4,}}|0\d*){m}\d{{3}}{power}|\d+{m}\d{{3}}[eE][+-]?\d+"
            rf"|\d{{1,3}}([{o}'’ \x{{a0}}\x{{202f}}_]\d{{2,3}})+{m}\d*){_UNIT}"
        ),
        "thousands": rf"^[+-]?\d{{1,3}}({m}\d{{2,3}})*{m}\d{{3}}({o}\d*|{m}\d{{3}}){_UNIT}",
        "doubtful": rf"^[+-]?[1-9]\d{{0,2}}{m}\d{{3}}{_UNIT}",
    }


@dataclass(frozen=True)
class _Sights:
    """Where a mark must be decimal, must part thousands, and may do either: the first cell of each, or None."""

    decimal: _Sighting | None
    thousands: _Sighting | None
    doubtful: _Sighting | None

    @classmethod
    def of(cls, texts: Mapping[str, pa.Array], lines: np.ndarray, mark: str) -> _Sights:
        return cls(**{kind: _first(texts, lines, pattern) for kind, pattern in _patterns(mark).items()})


def _first(texts: Mapping[str, pa.Array], lines: np.ndarray, pattern: str) -> _Sighting | None:
    found = []
    for name, cells in texts.items():
        row = pc.index(pc.fill_null(pc.match_substring_regex(cells, pattern), False), True).as_py()
        if row >= 0:
            found.append(_Sighting(cells[row].as_py(), int(lines[row]), name))
    return min(found, key=lambda sight: sight.line, default=None)


def _undecided(path: Path, mark: str, sight: _Sighting | None) -> Exception:
    assert sight is not None
    whole, part = sight.text.replace(mark, ""), sight.text.replace(mark, ".")
    other = _OTHER[mark]
    return fault(
        path,
        f"{sight.text!r} is {whole} or {part}, and no number in this file tells which",
        f"the mark named: decimal={other!r} reads {whole}, decimal={mark!r} reads {part}; "
        + option_hint(path, decimal=other),
        line=sight.line,
        column=sight.column,
    )


def _plain_spelling(texts: pa.Array, form: NumberFormat, counts: bool) -> pa.Array:
    """Cells respelt as Python writes numbers, those that are numbers in this form."""
    if counts:
        for letter, factor in form.multipliers.items():
            power = len(str(factor)) - 1
            texts = pc.replace_substring_regex(texts, rf"^([+-]?\d[\d.,'’ ]*?)\s?(?i:{letter})$", rf"\1e{power}")
    decimal = rf"\{form.decimal}"
    for mark in form.thousands:
        grouped = rf"^[+-]?\d{{1,3}}([{mark}]\d{{2,3}})*[{mark}]\d{{3}}({decimal}\d*)?([eE]\d+)?$"
        fits = pc.match_substring_regex(texts, grouped)
        texts = pc.if_else(fits, pc.replace_substring(texts, mark, ""), texts)
    if form.decimal == ",":
        # A point that is left is no number's here.
        texts = pc.replace_substring(pc.replace_substring(texts, ".", "?"), ",", ".")
    return texts
