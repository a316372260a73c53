"""What a table holds: bars of instruments, macro series, or both side by side.

Tickers outrank a symbol column, that outranks the file's name: a download of EURUSD=X, ^GSPC and ^VIX is two series of
bars and one macro series, whatever the file is called. What is neither is named and left aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtquant_rllib.config.sections.market import FileOptions
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.aliases import plain
from mtquant_rllib.market.file_errors import Inspection, fault
from mtquant_rllib.market.importing.dialects import PRICES, TIME_ROLES
from mtquant_rllib.market.importing.formats import Table, locate, refuse_doubled
from mtquant_rllib.market.importing.macro import is_macro, macro_names
from mtquant_rllib.market.importing.numbers import parse_numbers
from mtquant_rllib.market.importing.reading import instrument_names, instruments_named

_Part = tuple[Table, Inspection]


@dataclass(frozen=True)
class FileTables:
    """Tables of one file by what they hold.

    Attributes
    ----------
    bars
        One table, of one instrument or with a column of symbols; None where there are no bars.
    macro
        Tables with a column for each series.
    """

    bars: _Part | None
    macro: tuple[_Part, ...]


def contents(table: Table, inspection: Inspection, settings: Settings, options: FileOptions) -> FileTables:
    """Tell bars from macro series. Raises MarketDataError for tickers none of which is known."""
    roles = {} if table.levels else locate(table, settings.market.columns)
    if table.levels or (options.symbol is None and "symbol" in roles and set(PRICES) <= set(roles)):
        if table.levels:
            found = _by_ticker(table, inspection, settings, options)
        else:
            found = _by_symbol(table, inspection, settings, roles)
        # What was mended in the lines of the file is told once.
        first = found.macro[0] if found.bars is None else found.bars
        first[1].repairs.update(inspection.repairs)
        return found
    whole = (table, inspection)
    return FileTables(None, (whole,)) if _only_macro(table, roles, settings, options) else FileTables(whole, ())


def _only_macro(table: Table, roles: Mapping[str, str], settings: Settings, options: FileOptions) -> bool:
    bars = set(PRICES) <= set(roles)
    if bars and (options.symbol is not None or instruments_named(table, instrument_names(settings))):
        return False
    return is_macro(table, settings.market)


def _by_symbol(table: Table, inspection: Inspection, settings: Settings, roles: Mapping[str, str]) -> FileTables:
    """A long table: rows of macro symbols become series, the others stay."""
    symbols = table.columns[roles["symbol"]].cast(pa.string())
    labels = [label for label in pc.unique(symbols).to_pylist() if label]
    instruments, series = instrument_names(settings), macro_names(settings.market.macro)
    macro = {label: name for label in labels if instruments.find(label) is None and (name := series.find(label))}
    if not macro:
        return FileTables((table, inspection), ())
    timestamps = {roles[role]: table.columns[roles[role]] for role in roles if role in TIME_ROLES}
    parts = []
    for label, name in macro.items():
        rows = np.asarray(pc.fill_null(pc.equal(symbols, label), False).to_numpy(zero_copy_only=False))
        columns = {**timestamps, name: table.columns[roles["close"]]}
        parts.append(_rows(replace(table, columns=columns, doubled=frozenset()), inspection, rows))
    rest = ~np.asarray(pc.is_in(symbols, value_set=pa.array(macro)).to_numpy(zero_copy_only=False))
    bars = _rows(table, inspection, rest) if rest.any() else None
    return FileTables(bars, tuple(parts))


def _by_ticker(table: Table, inspection: Inspection, settings: Settings, options: FileOptions) -> FileTables:
    """A wide table: prices of instruments become a long table, closes of macro tickers a column each."""
    refuse_doubled(table, table.levels)
    tickers = list(dict.fromkeys(ticker for _, ticker in table.levels.values()))
    if options.symbol is not None and len(tickers) > 1:
        raise fault(
            table.path,
            f"{options.symbol!r} cannot name {len(tickers)} tickers ({', '.join(tickers[:4])})",
            "no symbol for a file that has tickers",
            line=1,
            column="symbol",
            place=table.place,
        )
    book, series = instrument_names(settings), macro_names(settings.market.macro)
    instruments = [ticker for ticker in tickers if book.find(options.symbol or ticker)]
    macro = {t: name for t in tickers if t not in instruments and (name := series.find(t))}
    strangers = [ticker for ticker in tickers if ticker not in instruments and ticker not in macro]
    if not instruments and not macro:
        raise fault(
            table.path,
            f"no instrument or macro series among the tickers {', '.join(tickers[:8])}",
            f"{', '.join(settings.symbols)}, {', '.join(settings.market.macro.columns)} or an alias of theirs "
            "(symbols.*.aliases, market.macro.aliases)",
            line=max(1, int(table.lines[0]) - 1),
            column="symbol",
            place=table.place,
        )
    notes = (f"not an instrument of ours, ignored: {', '.join(strangers)}",) if strangers else ()
    plain_columns = {name: cells for name, cells in table.columns.items() if name not in table.levels}
    roles = locate(replace(table, columns=plain_columns), settings.market.columns)
    timestamps = {roles[role]: table.columns[roles[role]] for role in roles if role in TIME_ROLES}
    parts: list[_Part] = []
    if macro:
        closes = {name: table.columns[_headers(table, t, settings)["close"]] for t, name in macro.items()}
        columns = {**timestamps, **closes}
        parts.append(_rows(replace(table, columns=columns, levels={}, notes=()), inspection, _filled(table, closes)))
    bars = None
    if instruments:
        long = _melted(table, timestamps, {t: _headers(table, t, settings) for t in instruments}, options)
        bars = replace(long, notes=(*table.notes, *notes)), replace(inspection, lines=long.lines, repairs={})
    elif notes:
        parts[0] = replace(parts[0][0], notes=(*table.notes, *notes)), parts[0][1]
    return FileTables(bars, tuple(parts))


def _headers(table: Table, ticker: str, settings: Settings) -> dict[str, str]:
    """Role -> header of one ticker's columns. Raises MarketDataError where a price is missing."""
    names = settings.market.columns
    own = {plain(price): header for header, (price, of) in table.levels.items() if of == ticker}
    found: dict[str, str] = {}
    for role in (*PRICES, "volume"):
        header = next((own[plain(one)] for one in getattr(names, role) if plain(one) in own), None)
        if header is not None:
            found[role] = header
    if missing := [role for role in PRICES if role not in found]:
        raise fault(
            table.path,
            f"column missing: {', '.join(missing)} of {ticker}",
            "open, high, low and close of each ticker",
            line=max(1, int(table.lines[0]) - 1),
            column=missing[0],
            place=table.place,
        )
    return found


def _melted(
    table: Table, timestamps: Mapping[str, pa.Array], headers: Mapping[str, Mapping[str, str]], options: FileOptions
) -> Table:
    """Tickers one below the other, each on the days it has a price: a day on which another ticker traded and this one
    did not is no bar, not a broken one."""
    kept = {t: pa.array(_filled(table, [table.columns[own[role]] for role in PRICES])) for t, own in headers.items()}
    columns = {name: _stacked([cells.filter(rows) for rows in kept.values()]) for name, cells in timestamps.items()}
    if options.symbol is None:
        columns["ticker"] = pa.array([t for t, rows in kept.items() for _ in range(rows.true_count)], pa.string())
    for role in (*PRICES, "volume"):
        pieces = [_column(table, headers[t].get(role)).filter(rows) for t, rows in kept.items()]
        columns[role] = _stacked(pieces)
    lines = np.concatenate([table.lines[np.asarray(rows.to_numpy(zero_copy_only=False))] for rows in kept.values()])
    return replace(table, columns=columns, lines=lines, levels={})


def _column(table: Table, header: str | None) -> pa.Array:
    return pa.nulls(len(table.lines), pa.string()) if header is None else table.columns[header]


def _stacked(pieces: Sequence[pa.Array]) -> pa.Array:
    kinds = {piece.type for piece in pieces}
    if len(kinds) == 1:
        return pa.concat_arrays(pieces)
    # Volumes of one ticker are whole numbers and of another are not.
    text = any(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds)
    return pa.concat_arrays([piece.cast(pa.string() if text else pa.float64(), safe=False) for piece in pieces])


def _filled(table: Table, cells: Mapping[str, pa.Array] | Sequence[pa.Array]) -> np.ndarray:
    """bool (R,): rows in which any of these cells holds something."""
    columns = cells.values() if isinstance(cells, Mapping) else cells
    filled = np.zeros(len(table.lines), dtype=bool)
    for column in columns:
        values, unparsable = parse_numbers(column, table.numbers)
        filled |= unparsable | ~np.isnan(values)
    return filled


def _rows(table: Table, inspection: Inspection, rows: np.ndarray) -> _Part:
    mask = pa.array(rows)
    columns = {name: cells.filter(mask) for name, cells in table.columns.items()}
    part = replace(table, columns=columns, lines=table.lines[rows])
    return part, replace(inspection, lines=part.lines, repairs={})
