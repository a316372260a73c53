"""From bytes on disk to named columns of text or numbers: which dialect a bar file is written in.

People hold exports of MetaTrader (tab or comma, `<DATE>` or DATE, one stamp or DATE and TIME), of Yahoo through a
browser or through yfinance (one, two or three header lines), of Dukascopy (no header), and whatever their own scripts
wrote. This file finds separator, header, comment lines and ragged rows; it does not know what a price is.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mtquant_rllib.config.market import ColumnNames
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.aliases import plain
from mtquant_rllib.market.import_errors import Inspection, fault

TEXT_SUFFIXES = (".csv", ".txt", ".tsv", ".prn")
PARQUET_SUFFIXES = (".parquet", ".pq")

_SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}
_COMMENT = ("#", "//", "%")
_EMPTY_TEXTS = ("", "null", "nan", "na", "n/a", "none", "-", ".")
_DATE_LIKE = re.compile(r"^\d{1,4}[.\-/]\d{1,2}[.\-/]\d{1,4}")
_TIME_LIKE = re.compile(r"^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?$")


@dataclass(frozen=True)
class Table:
    """A file's columns as they stand.

    Attributes
    ----------
    columns
        Header -> Arrow array of R cells: strings for text files, native types for Parquet.
    lines
        int64 (R,): line number in the file (`place` "line"), or 1-based row number (`place` "row").
    tickers
        yfinance's tickers, one per column after the first; empty for everything else.
    """

    path: Path
    columns: dict[str, pa.Array]
    lines: np.ndarray
    place: str
    dialect: str
    decimal_comma: bool = False
    tickers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_table(path: Path, repair: bool) -> tuple[Table, Inspection]:
    """Read a text or Parquet file. Raises MarketDataError for what cannot be read as rows of equal width."""
    if not path.is_file():
        raise fault(path, "no such file", "a CSV or Parquet file of bars, or a folder of them")
    if path.stat().st_size == 0:
        raise fault(path, "the file is empty", "a header and at least one bar", line=1, column="1")
    if path.suffix.lower() in PARQUET_SUFFIXES or path.read_bytes()[:4] == b"PAR1":
        return _read_parquet(path, repair)
    return _read_text(path, repair)


def _read_parquet(path: Path, repair: bool) -> tuple[Table, Inspection]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise fault(
            path,
            f"not readable as Parquet ({reason}); cut off or not Parquet at all",
            "a complete Parquet file; copy or export it again",
            line=1,
            column="1",
            place="row",
        ) from None
    if table.num_rows == 0:
        raise fault(path, "the table has no rows", "at least one bar", line=1, column="1", place="row")
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    lines = np.arange(1, table.num_rows + 1)
    return Table(path, columns, lines, "row", "Parquet"), Inspection(path, lines, "row", repair)


def _decode(path: Path) -> tuple[bytes, str]:
    """The file as UTF-8 bytes, with the name of its own encoding."""
    raw = path.read_bytes()
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
    return (text.encode() if encoding != "utf-8" else raw), encoding.upper()


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _is_value(cell: str) -> bool:
    """Could this cell be data (a number, a date, a time)? Headers are what could not."""
    if _DATE_LIKE.match(cell) or _TIME_LIKE.match(cell):
        return True
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def _separator(path: Path, sample: list[tuple[int, str]]) -> str:
    for separator in _SEPARATORS:
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


def _positional_names(first: list[str]) -> list[str]:
    """Names for a file without header: [symbol] date [time] open high low close [volume] ..."""
    names: list[str] = []
    rest = list(first)
    if rest and not _is_value(rest[0]):
        names.append("symbol")
        rest.pop(0)
    names.append("timestamp")
    # DATE,TIME: a clock time, or six digits after eight (20190215,140000). Prices are never a bare run of six digits
    # there.
    if len(rest) > 1 and (
        _TIME_LIKE.match(rest[1]) or (re.fullmatch(r"\d{8}", rest[0]) and re.fullmatch(r"\d{6}", rest[1]))
    ):
        names[-1] = "date"
        names.append("time")
    names += ["open", "high", "low", "close", "volume"]
    return (names + [f"extra_{k}" for k in range(1, len(first) + 1)])[: len(first)]


def _header(path: Path, head: list[tuple[int, str]], separator: str) -> tuple[list[str], int, tuple[str, ...], str]:
    """(column names, header lines used, yfinance tickers, wording) from the first lines that are not comments."""
    first = _cells(head[0][1], separator)
    if 2 * sum(_is_value(cell) for cell in first) > len(first):
        return _positional_names(first), 0, (), "no header (columns by position)"
    second = _cells(head[1][1], separator) if len(head) > 1 else []
    if (
        len(second) == len(first)
        and first[0].lower() in ("price", "")
        and second[0].lower() in ("ticker", "symbols", "")
    ):
        third = _cells(head[2][1], separator) if len(head) > 2 else []
        used = 2
        if third and not any(third[1:]):
            used, first[0] = 3, third[0]
        names = [first[0] or "Date"]
        names += [f"{price}|{ticker}" for price, ticker in zip(first[1:], second[1:])]
        return names, used, tuple(second[1:]), f"{used}-line yfinance header"
    names = [name.strip().strip("<>").strip() for name in first]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise fault(path, f"the header names {twice!r} twice", "each column once", line=head[0][0], column=twice)
    return names, 1, (), "header"


def _read_text(path: Path, repair: bool) -> tuple[Table, Inspection]:
    body, encoding = _decode(path)
    buffer = np.frombuffer(body, dtype=np.uint8)
    newlines = np.flatnonzero(buffer == 10)
    starts = np.concatenate(([0], newlines + 1))
    stops = np.concatenate((newlines, [len(buffer)]))
    stops = stops - ((stops > starts) & (buffer[np.maximum(stops - 1, 0)] == 13))
    numbers = np.flatnonzero(stops > starts)
    # Only the head is looked at line by line; what follows is columns.
    comments: list[int] = []
    head: list[tuple[int, str]] = []
    for index in numbers[:64]:
        line = body[starts[index] : stops[index]].decode()
        if line.lstrip().startswith(_COMMENT) or line.lower().startswith("sep=") or not line.strip():
            comments.append(int(index))
        else:
            head.append((int(index) + 1, line))
    if not head:
        raise fault(path, "no line holds data", "a header and at least one bar", line=1, column="1")
    separator = _separator(path, head[:12])
    names, n_header, tickers, wording = _header(path, head, separator)
    skip = {line - 1 for line, _ in head[:n_header]} | set(comments)
    rows = numbers[~np.isin(numbers, list(skip))] if skip else numbers
    hashed = buffer[starts[rows]] == ord("#")
    rows = rows[~hashed] if hashed.any() else rows
    if len(rows) == 0:
        raise fault(path, "a header but no data", "at least one bar", line=head[-1][0] + 1, column=names[0])
    notes = (
        []
        if newlines.size and newlines[-1] == len(buffer) - 1
        else ["no line end after the last row: is the file complete?"]
    )

    lines = rows + 1
    inspection = Inspection(path, lines, "line", repair)
    if b'"' in body:
        cells = [_cells(body[starts[r] : stops[r]].decode(), separator) for r in rows]
        widths = np.array([len(c) for c in cells])
    else:
        cells = None
        marks = np.flatnonzero(buffer == ord(separator))
        widths = np.searchsorted(marks, stops[rows]) - np.searchsorted(marks, starts[rows]) + 1

    n = len(names)
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
        f"{n} fields separated by {_SEPARATORS[separator]}: {', '.join(names)}",
    ):
        rows, lines = rows[~bad], lines[~bad]
        cells = None if cells is None else [c for c, wrong in zip(cells, bad) if not wrong]
        inspection.lines = lines
        if len(rows) == 0:
            raise fault(
                path, "no row has the width of the header", ", ".join(names), line=head[-1][0] + 1, column=names[0]
            )

    columns: dict[str, pa.Array]
    if cells is not None:
        columns = {name: pa.array(values, pa.string()) for name, values in zip(names, zip(*cells))}
    else:
        contiguous = len(rows) == rows[-1] - rows[0] + 1
        if contiguous:
            text = body[starts[rows[0]] : stops[rows[-1]]]
        else:
            text = b"\n".join(body[starts[r] : stops[r]] for r in rows)
        columns = _split_columns(path, text, names, separator)
    decimal_comma = separator != "," and _uses_decimal_comma(columns)
    comment = f", {len(comments)} comment line{'s' if len(comments) > 1 else ''}" if comments else ""
    dialect = f"{_SEPARATORS[separator]}-separated {encoding} text, {wording}{comment}"
    return Table(path, columns, lines, "line", dialect, decimal_comma, tickers, tuple(notes)), inspection


def _split_columns(path: Path, text: bytes, names: list[str], separator: str) -> dict[str, pa.Array]:
    try:
        table = pacsv.read_csv(
            io.BytesIO(text),
            pacsv.ReadOptions(column_names=names, use_threads=False),
            pacsv.ParseOptions(delimiter=separator, quote_char=False),
            pacsv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False),
        )
    except pa.ArrowException as error:  # pragma: no cover - widths and encoding were checked before
        raise MarketDataError(f"{path}: {error}") from error
    return {name: pc.utf8_trim_whitespace(table.column(name).combine_chunks()) for name in names}


def _uses_decimal_comma(columns: dict[str, pa.Array]) -> bool:
    """Semicolon or tab separated, numbers such as 1,0856: continental spelling."""
    pattern = re.compile(r"^-?\d+,\d+$")
    sample = [column[0].as_py() or "" for column in columns.values()]
    return any(pattern.match(cell) for cell in sample)


def as_numbers(table: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(values float64 (R,), unparsable bool (R,)) of a column; an empty cell (also `null`, `nan`, `.`) is NaN."""
    column = table.columns[name]
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        if pa.types.is_decimal(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return np.asarray(values, dtype=np.float64), np.zeros(len(column), dtype=bool)
        if pa.types.is_null(column.type):
            return np.full(len(column), np.nan), np.zeros(len(column), dtype=bool)
        return np.full(len(column), np.nan), np.ones(len(column), dtype=bool)
    if table.decimal_comma:
        column = pc.replace_substring(column, ",", ".")
    try:
        values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        return np.array(values, dtype=np.float64), np.zeros(len(column), dtype=bool)
    except pa.ArrowInvalid:
        pass
    texts = pd.Series(column.to_pandas(), dtype=object)
    values = np.array(pd.to_numeric(texts, errors="coerce"), dtype=np.float64)
    empty = texts.isna() | texts.astype(str).str.strip().str.lower().isin(_EMPTY_TEXTS)
    return values, np.isnan(values) & ~empty.to_numpy()


def as_texts(table: Table, name: str) -> pd.Series:
    """A column as strings; missing cells are empty."""
    return pd.Series(table.columns[name].cast(pa.string()).fill_null("").to_pandas(), dtype=object)


def cell(table: Table, name: str, row: int) -> str:
    """One cell as it stands, for messages."""
    value = table.columns[name][row].as_py()
    return "" if value is None else str(value)


def locate(headers: Iterable[str], names: ColumnNames) -> dict[str, str]:
    """Role -> header, for the roles that the file has; of several candidates the one first named in the config."""
    headers = list(headers)
    by_plain: dict[str, str] = {}
    for header in headers:
        by_plain.setdefault(plain(header.partition("|")[0]), header)
    roles = {}
    for role in type(names).model_fields:
        for accepted in getattr(names, role):
            if plain(accepted) in by_plain:
                roles[role] = by_plain[plain(accepted)]
                break
    if not {"timestamp", "date", "time"} & set(roles):
        # An index written without a name.
        unnamed = next((h for h in headers if h == "" or h.lower().startswith(("unnamed", "__index"))), None)
        if unnamed is not None:
            roles["timestamp"] = unnamed
    return roles
