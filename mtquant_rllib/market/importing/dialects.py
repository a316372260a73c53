"""Which layout a file is written in: the first row of `market.dialects`, from below, that fits its first lines.

People hold exports of MetaTrader (`<DATE>` or DATE, one timestamp or DATE and TIME), of Yahoo through a browser or
through yfinance (one to three header lines, prices above tickers or tickers above prices), of HistData and Dukascopy
(no header), and whatever their own scripts wrote. This file finds the names of columns; it does not know what a price
is.
"""

from __future__ import annotations

import csv
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtquant_rllib.config.sections.market import ColumnNames, DialectConfig, FileOptions, MarketConfig
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.aliases import plain
from mtquant_rllib.market.file_errors import fault

SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}
PRICES = ("open", "high", "low", "close")
LONGEST_FIELD = 131_072
"""Characters: where csv gives up."""
TIME_ROLES = frozenset(("timestamp", "date", "time"))

_DATE_LIKE = re.compile(r"^\d{1,4}[.\-/]\d{1,2}[.\-/]\d{1,4}|^\d{8}[ T]\d{4,6}(\.\d+)?$")
_TIME_LIKE = re.compile(r"^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?$")
_NUMBER_LIKE = re.compile(r"^[+-]?(\d[\d.,' ]*([eE][+-]?\d+)?|[.,]\d+|nan|inf)$", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What the head of a file says.

    Attributes
    ----------
    names
        One a column, as written; those of two levels as "Close|EURUSD=X".
    levels
        Name -> (price, ticker), for columns that are one price of one ticker.
    lines
        Lines above the first row of data.
    """

    names: list[str]
    lines: int
    dialect: str
    levels: dict[str, tuple[str, str]] = field(default_factory=dict)
    options: FileOptions = field(default_factory=FileOptions)


@dataclass(frozen=True)
class Head:
    """The first lines of a file that are no comments, cut into cells."""

    path: Path
    lines: tuple[tuple[int, str], ...]
    """(1-based number in the file, text)."""
    cells: tuple[tuple[str, ...], ...]


def cells_of(line: str, separator: str) -> list[str]:
    """The cells of one line. Raises csv.Error for a cell too long to be one."""
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def too_long(path: Path, line: int) -> MarketDataError:
    """The fault of a field that is longer than any number, timestamp or name of an instrument."""
    return fault(path, f"a field of more than {LONGEST_FIELD:,} characters", "numbers, timestamps and names", line=line)


def is_value(cell: str) -> bool:
    """Could this cell be data (a number, a date, a time)? Headers are what could not."""
    return bool(_DATE_LIKE.match(cell) or _TIME_LIKE.match(cell) or _NUMBER_LIKE.match(cell))


def read_header(path: Path, lines: Sequence[tuple[int, str]], separator: str, market: MarketConfig) -> Header:
    """The header by the dialect that fits; that of a plain header line, or of none, where nothing more special does."""
    cells = []
    for number, text in lines:
        try:
            cells.append(tuple(cells_of(text, separator)))
        except csv.Error:
            raise too_long(path, number) from None
    head = Head(path, tuple(lines), tuple(cells))
    for name, row in reversed(market.dialects.items()):
        if row.separator not in (None, separator) or not _known_by(row, path, head.lines[0][1]):
            continue
        if (found := _fits(name, row, head, market.columns)) is not None:
            return found
    raise fault(
        path,
        f"the layout is none of market.dialects ({', '.join(market.dialects)})",
        "one of these, or a row of your own there",
        line=lines[0][0],
        column="1",
    )


def name_columns(path: Path, names: Sequence[str], market: MarketConfig) -> Header:
    """The header of a table that has names already, as Parquet has."""
    head = Head(path, ((1, ""),), (tuple(names),))
    for name, row in reversed(market.dialects.items()):
        if row.joined is not None and (found := _fits(name, row, head, market.columns)) is not None:
            return found
    return Header(list(names), 1, "")


def located(names: Sequence[str], columns: ColumnNames) -> set[str]:
    """Roles that names of columns hold."""
    plains = {plain(name) for name in names}
    return {role for role in type(columns).model_fields if any(plain(one) in plains for one in getattr(columns, role))}


def _whole(levels: Iterable[tuple[str, str]], columns: ColumnNames) -> bool:
    """Does some ticker have all four prices?"""
    by_ticker: dict[str, list[str]] = {}
    for price, ticker in levels:
        if ticker:
            by_ticker.setdefault(ticker, []).append(price)
    return any(set(PRICES) <= located(prices, columns) for prices in by_ticker.values())


def _known_by(row: DialectConfig, path: Path, first_line: str) -> bool:
    by_name = not row.files or any(fnmatch.fnmatch(path.name.lower(), pattern.lower()) for pattern in row.files)
    return by_name and (row.first_line is None or re.search(row.first_line, first_line) is not None)


def _fits(name: str, row: DialectConfig, head: Head, columns: ColumnNames) -> Header | None:
    if len(head.cells) < len(row.header):
        return None
    by_level = {level: cells for level, cells in zip(row.header, head.cells) if level != "skip"}
    used = len(row.header)
    if not by_level:
        return _without_header(name, row, head, used)
    if "name" in by_level:
        return _with_names(name, row, list(by_level["name"]), used, columns)
    return _with_levels(name, row, head, by_level["price"], by_level["ticker"], columns)


def _without_header(name: str, row: DialectConfig, head: Head, used: int) -> Header | None:
    if len(head.cells) <= used:
        return None
    first = list(head.cells[used])
    if row.columns:
        names = [*row.columns, *(f"extra_{k}" for k in range(1, len(first) + 1))][: len(first)]
    elif 2 * sum(map(is_value, first)) > len(first):
        names = _positional_names(first)
    else:
        return None
    return Header(names, used, f"{name} (columns by position)", options=row.options)


def _with_names(name: str, row: DialectConfig, cells: list[str], used: int, columns: ColumnNames) -> Header | None:
    names = [cell.strip("<>").strip() for cell in cells]
    if row.joined is None:
        values = sum(map(is_value, names))
        return None if 2 * values > len(names) else Header(names, used, name, options=row.options)
    if set(PRICES) <= located(names, columns):
        return None
    pairs = [re.match(row.joined, one) for one in names]
    levels = [("", "") if pair is None else (pair["price"].strip(), pair["ticker"].strip()) for pair in pairs]
    if not _whole(levels, columns):
        return None
    # A column that names no price of a ticker keeps its name: the timestamps, and whatever else is there.
    joined = []
    known = {}
    for one, pair, (price, ticker) in zip(names, pairs, levels):
        if ticker and located([price], columns) & {*PRICES, "volume"}:
            joined.append(f"{price}|{ticker}")
            known[joined[-1]] = price, ticker
        else:
            joined.append(price if pair is not None and not ticker else one)
    return Header(joined, used, name, known, row.options)


def _with_levels(
    name: str, row: DialectConfig, head: Head, prices: tuple[str, ...], tickers: tuple[str, ...], columns: ColumnNames
) -> Header | None:
    # A level left blank is that of a plain column beside the prices.
    tickers = tuple("" if ticker.startswith("Unnamed:") else ticker for ticker in tickers)
    levels = [(p, t) if p else (t, "") for p, t in zip(prices[1:], tickers[1:])]
    data = sum(is_value(ticker) for ticker in tickers[1:])
    if len(prices) != len(tickers) or 2 * data > len(levels) or not _whole(levels, columns):
        return None
    used = len(row.header)
    index = prices[0]
    # pandas writes the index's name on a line of its own below the levels.
    if len(head.cells) > used and head.cells[used][0] and not any(head.cells[used][1:]):
        index = head.cells[used][0]
        used += 1
    plain_names = [index, *(price for price, ticker in levels if not ticker)]
    if not located(plain_names, columns) & TIME_ROLES:
        index = "Date"
    names = [index] + [f"{price}|{ticker}" if ticker else price for price, ticker in levels]
    known = {one: pair for one, pair in zip(names[1:], levels) if pair[1]}
    return Header(names, used, f"{name} ({used} header lines)", known, row.options)


def _positional_names(first: list[str]) -> list[str]:
    """Names for a file without header: [symbol] date [time] open high low close [volume] ..."""
    names: list[str] = []
    rest = list(first)
    if rest and not is_value(rest[0]):
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
    names += [*PRICES, "volume"]
    return (names + [f"extra_{k}" for k in range(1, len(first) + 1)])[: len(first)]
