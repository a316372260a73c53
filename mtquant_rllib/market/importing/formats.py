"""From the bytes of one file to named columns of text or numbers.

This file finds separator, comment lines and ragged rows of a text, and reads Parquet. Which layout the names of columns
are written in is told by `dialects`, how numbers are written by `numbers`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mtquant_rllib.config.sections.market import ColumnNames, FileOptions, MarketConfig
from mtquant_rllib.market.aliases import plain
from mtquant_rllib.market.file_errors import Inspection, fault
from mtquant_rllib.market.importing.dialects import (
    LONGEST_FIELD,
    SEPARATORS,
    TIME_ROLES,
    Header,
    cells_of,
    name_columns,
    read_header,
    too_long,
)
from mtquant_rllib.market.importing.numbers import NumberFormat, number_format, parse_numbers
from mtquant_rllib.market.importing.sources import Source

_COMMENT = ("#", "//", "%")
_HEAD_LINES = 64
_SAMPLE_LINES = 12


@dataclass(frozen=True)
class Table:
    """A file's columns as they stand.

    Attributes
    ----------
    path
        What messages call the file.
    columns
        Header -> Arrow array of R cells: strings for text files, native types for Parquet.
    lines
        int64 (R,): line number in the file (`place` "line"), or 1-based row number (`place` "row").
    stems
        Names of the file in which an instrument's may stand, the most telling first.
    levels
        Header -> (price, ticker), for columns that are one price of one ticker.
    doubled
        Headers that stand twice in the file, with cells that may differ; their columns are the first of each.
    options
        What is so in every file of this layout.
    numbers
        How its numbers are written.
    """

    path: Path
    columns: dict[str, pa.Array]
    lines: np.ndarray
    place: str
    dialect: str
    stems: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    doubled: frozenset[str] = frozenset()
    options: FileOptions = field(default_factory=FileOptions)
    numbers: NumberFormat = field(default_factory=NumberFormat)
    notes: tuple[str, ...] = ()


def read_table(source: Source, market: MarketConfig, repair: bool) -> tuple[Table, Inspection]:
    """Read a text or Parquet file. Raises MarketDataError for what cannot be read as rows of equal width."""
    body, packing = source.read(market.largest_file_mb)
    read = _read_parquet if body[:4] == b"PAR1" or _named_parquet(source, market) else _read_text
    return read(source, body, f"{packing}, " if packing else "", market, repair)


def _named_parquet(source: Source, market: MarketConfig) -> bool:
    return source.path.suffix.lower() in market.parquet_suffixes


def _read_parquet(
    source: Source, body: bytes, packing: str, market: MarketConfig, repair: bool
) -> tuple[Table, Inspection]:
    path = source.path
    try:
        table = pq.ParquetFile(io.BytesIO(body)).read(use_threads=False)
        table.validate(full=True)
        names = [str(name) for name in table.column_names]
        arrays = [_plain_array(column) for column in table.columns]
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise fault(
            path,
            f"not readable as Parquet ({reason}); damaged, cut off or not Parquet at all",
            "a complete Parquet file; copy or export it again",
            line=1,
            column="1",
            place="row",
        ) from None
    if table.num_rows == 0:
        raise fault(path, "the table has no rows", "at least one bar", line=1, column="1", place="row")
    nested = {name for name, array in zip(names, arrays) if pa.types.is_nested(array.type)}
    arrays = [array for name, array in zip(names, arrays) if name not in nested]
    names = [name for name in names if name not in nested]
    header = name_columns(path, names, market)
    lines = np.arange(1, table.num_rows + 1)
    dialect = f"{packing}Parquet{', ' + header.dialect if header.dialect else ''}"
    notes = [f"column {name} holds lists or records, and is not read" for name in sorted(nested)]
    return _table(source, header, arrays, lines, "row", dialect, notes), Inspection(path, lines, "row", repair)


def _plain_array(column: pa.ChunkedArray) -> pa.Array:
    """One array of plain values or text."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    text = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_large_string(kind)
    return array.cast(pa.string()) if text else array


def _table(
    source: Source,
    header: Header,
    arrays: Sequence[pa.Array],
    lines: np.ndarray,
    place: str,
    dialect: str,
    notes: Sequence[str] = (),
) -> Table:
    """Columns by name; of those of one name the first, and the name is remembered as doubled."""
    columns: dict[str, pa.Array] = {}
    for name, array in zip(header.names, arrays):
        columns.setdefault(name, array)
    doubled = frozenset(name for name in columns if header.names.count(name) > 1)
    return Table(
        source.path,
        columns,
        lines,
        place,
        dialect,
        source.stems,
        header.levels,
        doubled,
        header.options,
        notes=(*notes, *(f"column {name or '(unnamed)'} stands twice" for name in sorted(doubled))),
    )


def _decode(path: Path, raw: bytes) -> tuple[bytes, str]:
    """The file as UTF-8 bytes with line feeds alone, and the name of its own encoding."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif raw.startswith(b"\xef\xbb\xbf"):
        raw, encoding = raw[3:], "utf-8"
    else:
        encoding = "utf-8"
    accepted = "UTF-8 text, or UTF-16 with a byte order mark; save or export the file so"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise fault(
            path, f"byte 0x{raw[error.start]:02x} is not {encoding.upper()}", accepted, line=line, column=str(column)
        ) from None
    if "\x00" in text:
        start = text.index("\x00")
        line, column = text.count("\n", 0, start) + 1, start - (text.rfind("\n", 0, start) + 1) + 1
        raise fault(
            path, "a zero byte in text (UTF-16 without mark, or a binary file)", accepted, line=line, column=str(column)
        )
    body = text.encode() if encoding != "utf-8" else raw
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return body, encoding.upper()


def _separator(path: Path, sample: Sequence[tuple[int, str]]) -> str:
    for separator in SEPARATORS:
        counts = sorted(line.count(separator) for _, line in sample)
        if counts[len(counts) // 2] >= 1:
            return separator
    raise fault(
        path,
        f"no separator found in {sample[0][1][:40]!r}",
        "columns separated by tab, comma, semicolon or bar",
        line=sample[0][0],
        column="1",
    )


@dataclass(frozen=True)
class _Lines:
    """The lines of a text, by where they start and stop in its bytes."""

    body: bytes
    starts: np.ndarray
    stops: np.ndarray

    @classmethod
    def of(cls, body: bytes) -> _Lines:
        ends = np.flatnonzero(np.frombuffer(body, dtype=np.uint8) == ord("\n"))
        return cls(body, np.concatenate(([0], ends + 1)), np.concatenate((ends, [len(body)])))

    def text(self, index: int) -> str:
        return self.body[self.starts[index] : self.stops[index]].decode()

    def filled(self) -> np.ndarray:
        """Indices of lines that are not empty."""
        return np.flatnonzero(self.stops > self.starts)

    def joined(self, rows: np.ndarray) -> bytes:
        if len(rows) == rows[-1] - rows[0] + 1:
            return self.body[self.starts[rows[0]] : self.stops[rows[-1]]]
        return b"\n".join(self.body[self.starts[row] : self.stops[row]] for row in rows)


def _read_text(
    source: Source, raw: bytes, packing: str, market: MarketConfig, repair: bool
) -> tuple[Table, Inspection]:
    path = source.path
    body, encoding = _decode(path, raw)
    lines = _Lines.of(body)
    filled = lines.filled()
    # Only the head is looked at line by line; what follows is columns.
    comments = [int(index) for index in filled[:_HEAD_LINES] if _is_comment(lines.text(index))]
    head = [(int(index) + 1, lines.text(index)) for index in filled[:_HEAD_LINES] if index not in comments]
    if not head:
        raise fault(path, "no line holds data", "a header and at least one bar", line=1, column="1")
    separator = _separator(path, head[:_SAMPLE_LINES])
    header = read_header(path, head[:_SAMPLE_LINES], separator, market)
    rows = filled[~np.isin(filled, [*(line - 1 for line, _ in head[: header.lines]), *comments])]
    hashed = np.frombuffer(body, dtype=np.uint8)[lines.starts[rows]] == ord("#")
    rows, n_comments = rows[~hashed], len(comments) + int(hashed.sum())
    if len(rows) == 0:
        raise fault(path, "a header but no data", "at least one bar", line=head[-1][0] + 1, column=header.names[0])
    inspection = Inspection(path, rows + 1, "line", repair)
    arrays, rows = _columns(path, lines, rows, header.names, separator, inspection)
    n_lines = f", {n_comments} comment line{'s' if n_comments > 1 else ''}" if n_comments else ""
    dialect = f"{packing}{SEPARATORS[separator]}-separated {encoding} text, {header.dialect}{n_lines}"
    notes = () if body.endswith(b"\n") else ("no line end after the last row: is the file complete?",)
    return _table(source, header, arrays, rows + 1, "line", dialect, notes), inspection


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith(_COMMENT) or line.lower().startswith("sep=")


def _columns(
    path: Path, lines: _Lines, rows: np.ndarray, names: Sequence[str], separator: str, inspection: Inspection
) -> tuple[list[pa.Array], np.ndarray]:
    """(cells of each column, rows they stand in): rows of another width are refused, or dropped by a repair."""
    quoted = b'"' in lines.body
    n = len(names)
    if quoted:
        cells = _quoted_cells(path, lines, rows, separator)
        widths = np.array([len(row) for row in cells])
    else:
        marks = np.flatnonzero(np.frombuffer(lines.body, dtype=np.uint8) == ord(separator))
        widths = np.searchsorted(marks, lines.stops[rows]) - np.searchsorted(marks, lines.starts[rows]) + 1
    last = int(rows[-1])

    def ragged(k: int) -> str:
        tail = " at the end of the file (cut off?)" if int(rows[k]) == last else ""
        return f"{widths[k]} fields where {n} are named{tail}"

    bad = widths != n
    if inspection.judge(
        bad,
        "unparsable_rows_dropped",
        lambda k: names[min(int(widths[k]), n - 1)],
        ragged,
        f"{n} fields separated by {SEPARATORS[separator]}: {', '.join(names)}",
    ):
        if bad.all():
            raise fault(path, "no row has the width of the header", ", ".join(names), line=int(rows[0]) + 1)
        rows = rows[~bad]
        cells = [row for row, wrong in zip(cells, bad) if not wrong] if quoted else []
        inspection.lines = rows + 1
    if quoted:
        return [pa.array(column, pa.string()) for column in zip(*cells)], rows
    long = lines.stops[rows] - lines.starts[rows] > LONGEST_FIELD
    if long.any():
        raise too_long(path, int(rows[int(np.argmax(long))]) + 1)
    return _split_columns(path, lines.joined(rows), n, separator), rows


def _quoted_cells(path: Path, lines: _Lines, rows: np.ndarray, separator: str) -> list[list[str]]:
    cells = []
    for row in rows:
        try:
            cells.append(cells_of(lines.text(row), separator))
        except csv.Error:
            raise too_long(path, int(row) + 1) from None
    return cells


def _split_columns(path: Path, text: bytes, n: int, separator: str) -> list[pa.Array]:
    names = [str(k) for k in range(n)]
    table = pacsv.read_csv(
        io.BytesIO(text),
        pacsv.ReadOptions(column_names=names, use_threads=False),
        pacsv.ParseOptions(delimiter=separator, quote_char=False, ignore_empty_lines=False),
        pacsv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False),
    )
    return [pc.utf8_trim_whitespace(table.column(name).combine_chunks()) for name in names]


def with_numbers(
    table: Table,
    headers: Iterable[str],
    options: FileOptions,
    market: MarketConfig,
    ticks: Sequence[float] = (),
) -> Table:
    """The table with the way in which the columns named write their numbers. Raises MarketDataError if nobody can
    tell."""
    read = {name: table.columns[name] for name in headers}
    others = {name: cells for name, cells in table.columns.items() if name not in read}
    form = number_format(table.path, read, table.lines, options, market.multipliers, ticks, others)
    return replace(table, numbers=form)


def as_numbers(table: Table, name: str, *, counts: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(values float64 (R,), unparsable bool (R,)) of a column; an empty cell is NaN. counts: as of a volume."""
    return parse_numbers(table.columns[name], table.numbers, counts=counts)


def as_texts(table: Table, name: str) -> pa.Array:
    """A column as strings; missing cells are empty."""
    return table.columns[name].cast(pa.string()).fill_null("")


def cell(table: Table, name: str, row: int) -> str:
    """One cell as it stands, for messages."""
    value = table.columns[name][row].as_py()
    text = "" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def locate(table: Table, names: ColumnNames) -> dict[str, str]:
    """Role -> header, for the roles that the file has; of several candidates the one first named in the config.

    Raises MarketDataError where the header of a role stands twice."""
    by_plain: dict[str, str] = {}
    for header in table.columns:
        by_plain.setdefault(plain(header), header)
    roles = {}
    for role in type(names).model_fields:
        for accepted in getattr(names, role):
            if plain(accepted) in by_plain:
                roles[role] = by_plain[plain(accepted)]
                break
    if not TIME_ROLES & set(roles):
        # An index written without a name.
        unnamed = next((h for h in table.columns if h == "" or h.lower().startswith(("unnamed", "__index"))), None)
        if unnamed is not None:
            roles["timestamp"] = unnamed
    refuse_doubled(table, roles.values())
    return roles


def refuse_doubled(table: Table, used: Iterable[str]) -> None:
    """Raises MarketDataError for a header that is read and stands twice. A blank one names no column but the first."""
    header = next((name for name in used if name and name in table.doubled), None)
    if header is None:
        return
    raise fault(
        table.path,
        f"the header names {header!r} twice",
        "each column once",
        line=max(1, int(table.lines[0]) - 1),
        column=header,
        place=table.place,
    )
