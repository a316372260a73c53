"""One file of bars through its stages: columns, symbols, numbers, timestamps, prices, order.

Every stage is a function over all rows at once. It either passes, names the first row at fault, or, where repair is
permitted, drops or mends rows and counts them. Nothing here knows of other files or of a common axis.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mtquant_rllib.config.sections.market import ColumnNames, FileOptions
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market import timestamps as clocks
from mtquant_rllib.market.aliases import NameBook
from mtquant_rllib.market.alignment import BarSeries
from mtquant_rllib.market.bars import COLUMNS, VOLUME
from mtquant_rllib.market.checking.anomalies import timestamp_text
from mtquant_rllib.market.checking.checks import (
    Rows,
    consistent,
    descale,
    moments,
    ordered,
    positive,
    weekdays_only,
)
from mtquant_rllib.market.checking.clock_pattern import clock_doubt
from mtquant_rllib.market.checking.plausibility import plausible
from mtquant_rllib.market.checking.quality import suspicions
from mtquant_rllib.market.checking.unfinished_bars import without_live_bars
from mtquant_rllib.market.file_errors import Inspection, fault, option_hint, refuse_large_repairs
from mtquant_rllib.market.importing.dialects import PRICES, TIME_ROLES
from mtquant_rllib.market.importing.formats import Table, as_numbers, as_texts, cell, locate, with_numbers
from mtquant_rllib.market.importing.report import FileReport


def instrument_names(settings: Settings) -> NameBook:
    """Aliases of every instrument that has a row under `symbols`."""
    return NameBook.of({s: row.aliases for s, row in settings.symbols.items()}, settings.market.symbol_suffixes)


def read_bars(
    table: Table, inspection: Inspection, settings: Settings, options: FileOptions
) -> tuple[tuple[BarSeries, ...], FileReport]:
    """One file through all stages: columns, symbols, numbers, timestamps, prices, order."""
    config = settings.market
    roles = _required_roles(table, config.columns)
    labels, codes = _symbols(table, roles, settings, options)
    n_read = len(table.lines)
    notes = list(table.notes)

    read = [roles[name] for name in COLUMNS if name in roles]
    ticks = [settings.symbols[label].tick for label in labels.values() if label is not None]
    table = with_numbers(table, read, options, config, ticks)
    values, keep = _numbers(table, roles, inspection)
    clock, has_offset = read_clock(table, roles, inspection, options, keep)
    rows = Rows(codes[keep], clock.wall[keep], values[keep])
    offset_s = None if clock.offset_s is None else clock.offset_s[keep]
    inspection.lines = table.lines[keep]

    known = [label is not None for label in labels.values()]
    strangers = [name for name, label in labels.items() if label is None]
    if strangers:
        notes.append(f"not an instrument of ours, ignored: {', '.join(strangers)}")
        mine = np.array(known)[rows.codes]
        rows, offset_s = rows.take(mine), None if offset_s is None else offset_s[mine]
        inspection.lines = inspection.lines[mine]
    names = list(labels.values())

    rows, scales = descale(rows, names, settings, options, inspection)
    rows, offset_s = positive(rows, offset_s, names, settings, inspection)
    rows = consistent(rows, config.consistency_tolerance_frac, inspection)
    rows, offset_s = without_live_bars(rows, offset_s, names, inspection)
    timezone = options.timezone or config.timezone
    wall = rows
    rows, daily, wording = moments(rows, offset_s, timezone, inspection)
    rows = ordered(rows, names, inspection)
    if daily:
        rows = weekdays_only(rows, names, settings, inspection) if inspection.repair else rows
    rows = plausible(rows, daily, names, settings, inspection)
    refuse_large_repairs(inspection, n_read, config.repair, int(table.lines[0]))

    doubts = {}
    if not daily and not has_offset:
        doubts = _clock_doubts(wall, names, timezone, settings)
    series = []
    for name in dict.fromkeys(n for n in names if n is not None):
        same = [code for code, other in enumerate(names) if other == name]
        own = np.isin(rows.codes, same)
        if own.any():
            series.append(BarSeries(name, rows.timestamps[own], rows.bars[own], daily, str(table.path)))
    if not series:
        raise fault(table.path, "no bar is left", "at least one bar", line=int(table.lines[0]), column="all")
    scale = ", ".join(f"{name} / {divisor}" for name, divisor in scales.items() if divisor != 1)
    zone = "dates" if daily else ("own offsets" if has_offset else timezone)
    said = (table.dialect, table.numbers.wording, clock.wording, zone + wording, f"prices {scale}" if scale else "")
    report = FileReport(
        path=str(table.path),
        content="daily bars of" if daily else "intraday bars of",
        symbols=tuple(one.symbol for one in series),
        rows_read=n_read,
        rows_kept=sum(len(one) for one in series),
        first=timestamp_text(min(one.timestamps[0] for one in series), daily),
        last=timestamp_text(max(one.timestamps[-1] for one in series), daily),
        dialect=", ".join(filter(None, said)),
        repairs=dict(inspection.repairs),
        warnings=tuple(
            f"{one.symbol}: {text}"
            for one in series
            for text in (*suspicions(one, settings), *filter(None, [doubts.get(one.symbol)]))
        ),
        clock=zone,
        notes=tuple(notes),
    )
    return tuple(series), report


def _clock_doubts(rows: Rows, names: list[str | None], timezone: str, settings: Settings) -> dict[str, str | None]:
    """Instrument -> what is odd about taking its timestamps, as written, for those of that clock; None where nothing
    is."""
    doubts = {}
    for code, name in enumerate(names):
        if name is not None and settings.symbols[name].triple_day is not None:
            wall = np.unique(rows.timestamps[rows.codes == code])
            doubts[name] = clock_doubt(wall, timezone, settings.symbols[name].session, settings.market.clock_pattern)
    return doubts


def _required_roles(table: Table, names: ColumnNames) -> dict[str, str]:
    roles = locate(table, names)
    missing = [role for role in PRICES if role not in roles]
    if not TIME_ROLES & set(roles):
        missing.insert(0, "timestamp")
    if missing:
        headers = ", ".join(h or "(unnamed)" for h in table.columns)
        raise fault(
            table.path,
            f"column missing: {', '.join(missing)} (the columns are {headers})",
            "; ".join(f"{role} as {', '.join(getattr(names, role))}" for role in missing),
            line=max(1, int(table.lines[0]) - 1),
            column=missing[0],
            place=table.place,
        )
    return roles


def _symbols(
    table: Table, roles: dict[str, str], settings: Settings, options: FileOptions
) -> tuple[dict[str, str | None], np.ndarray]:
    """(label in the file -> instrument or None, code of the label of each row int64 (R,))."""
    book = instrument_names(settings)
    n = len(table.lines)
    accepted = f"one of {', '.join(settings.symbols)}, an alias of theirs (symbols.*.aliases), or an explicit symbol"
    if options.symbol is None and "symbol" in roles:
        header = roles["symbol"]
        encoded = table.columns[header].cast(pa.string()).dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        found = [str(label) for label in encoded.dictionary.to_pylist()]
        labels = {label: book.find(label) for label in found}
        if (codes < 0).any() or any(not label.strip() for label in found):
            row = int(
                np.argmax((codes < 0) | np.isin(codes, [k for k, label in enumerate(found) if not label.strip()]))
            )
            raise fault(table.path, "no symbol", accepted, line=int(table.lines[row]), column=header, place=table.place)
        if not any(labels.values()):
            raise fault(
                table.path,
                f"no instrument among the symbols {', '.join(found[:8])}",
                accepted,
                line=int(table.lines[0]),
                column=header,
                place=table.place,
            )
        return labels, codes
    if options.symbol is not None:
        label, name = options.symbol, book.find(options.symbol)
        names = [name] if name else []
    else:
        label, names = table.stems[0], instruments_named(table, book)
    if len(names) != 1:
        problem = f"{label!r} could be {' or '.join(names)}" if names else f"no instrument is called {label!r}"
        hint = option_hint(table.path, symbol=names[0] if names else settings.universe.symbols[0])
        raise fault(
            table.path, problem, f"{accepted}: {hint}", line=int(table.lines[0]), column="symbol", place=table.place
        )
    return {names[0]: names[0]}, np.zeros(n, dtype=np.int64)


def instruments_named(table: Table, book: NameBook) -> list[str]:
    """Instruments of which the file's name speaks: the first of its stems that names any."""
    return next((names for stem in table.stems if (names := book.find_in_file_name(stem))), [])


def _numbers(table: Table, roles: dict[str, str], inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
    """(open..volume float64 (R, 5), keep bool (R,)): every price a finite number, volume may be empty."""
    n = len(table.lines)
    values = np.full((n, len(COLUMNS)), np.nan)
    wrong = np.zeros((n, len(COLUMNS)), dtype=bool)
    for k, name in enumerate(COLUMNS):
        if name not in roles:
            continue
        values[:, k], unparsable = as_numbers(table, roles[name], counts=k == VOLUME)
        wrong[:, k] = unparsable | np.isinf(values[:, k])
        if k != VOLUME:
            wrong[:, k] |= np.isnan(values[:, k])
    wrong[:, VOLUME] |= values[:, VOLUME] < 0

    def column(row: int) -> str:
        return roles[COLUMNS[int(np.argmax(wrong[row]))]]

    def problem(row: int) -> str:
        text = cell(table, column(row), row)
        if text == "" or text.lower() in ("nan", "null"):
            return "an empty price"
        k = int(np.argmax(wrong[row]))
        if np.isinf(values[row, k]):
            return f"{text!r} is not finite"
        if k == VOLUME and values[row, k] < 0:
            return f"volume {text} is negative"
        return f"{text!r} is not a number"

    bad = np.asarray(wrong.any(axis=1))
    inspection.judge(bad, "unparsable_rows_dropped", column, problem, "a finite number such as 1.0856")
    return values, ~bad


def read_clock(
    table: Table, roles: dict[str, str], inspection: Inspection, options: FileOptions, keep: np.ndarray
) -> tuple[clocks.Clock, bool]:
    """Parsed timestamps of all rows; unreadable ones are taken out of `keep`."""
    if "timestamp" in roles:
        header, second = roles["timestamp"], None
    elif "date" in roles:
        header, second = roles["date"], roles.get("time")
    else:
        header, second = roles["time"], None
    column = table.columns[header]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        clock = clocks.from_datetimes(column)
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        numbers = as_numbers(table, header)[0]
        if np.nanmax(numbers, initial=0) < 1e8:  # 20190215
            texts = pa.array([f"{value:.0f}" for value in numbers], pa.string())
            clock = clocks.from_texts(texts, None, options.date_format)
        else:
            clock = clocks.from_epochs(numbers)
    else:
        try:
            times = None if second is None else as_texts(table, second)
            clock = clocks.from_texts(as_texts(table, header), times, options.date_format)
        except clocks.AmbiguousDate:
            raise fault(
                table.path,
                f"{cell(table, header, 0)!r}: day and month cannot be told apart anywhere in this file",
                'a date_format such as "%d/%m/%Y" or "%m/%d/%Y": ' + option_hint(table.path, date_format="%d/%m/%Y"),
                line=int(table.lines[0]),
                column=header,
            ) from None

    def problem(row: int) -> str:
        text = cell(table, header, row) + (f" {cell(table, second, row)}" if second else "")
        return f"{text!r} is not a timestamp as the other rows have it ({clock.wording})"

    bad = clock.bad & keep
    inspection.judge(bad, "unparsable_rows_dropped", header, problem, clocks.ACCEPTED)
    keep &= ~bad
    return clock, clock.offset_s is not None
