"""One file of bars through its stages: columns, symbols, numbers, stamps, prices, order.

Every stage is a function over all rows at once. It either passes, names the first row at fault, or, where repair is
permitted, drops or mends rows and counts them. Nothing here knows of other files or of a common axis.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from mtquant_rllib.config.market import ColumnNames, FileOptions
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market import timestamps as clocks
from mtquant_rllib.market.aliases import NameBook
from mtquant_rllib.market.alignment import BarSeries
from mtquant_rllib.market.anomalies import stamp_text
from mtquant_rllib.market.bars import COLUMNS, VOLUME
from mtquant_rllib.market.checks import (
    Rows,
    consistent,
    descale,
    moments,
    ordered,
    positive,
    weekdays_only,
)
from mtquant_rllib.market.formats import Table, as_numbers, as_texts, cell, locate
from mtquant_rllib.market.import_errors import Inspection, fault, refuse_large_repairs
from mtquant_rllib.market.plausibility import plausible
from mtquant_rllib.market.quality import suspicions
from mtquant_rllib.market.report import FileReport


def instrument_names(settings: Settings) -> NameBook:
    """Aliases of every instrument that has a row under `symbols`."""
    return NameBook.of({s: row.aliases for s, row in settings.symbols.items()}, settings.market.symbol_suffixes)


def read_bars(
    table: Table, inspection: Inspection, settings: Settings, options: FileOptions
) -> tuple[tuple[BarSeries, ...], FileReport]:
    """One file through all stages: columns, symbols, numbers, stamps, prices, order."""
    tickers = list(dict.fromkeys(table.tickers))
    if len(tickers) > 1:
        return _wide_bars(table, inspection, settings, options, tickers)
    config = settings.market
    roles = _required_roles(table, config.columns)
    labels, codes = _symbols(table, roles, settings, options, tickers)
    n_read = len(table.lines)
    notes = list(table.notes)

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
    timezone = options.timezone or config.timezone
    rows, daily, wording = moments(rows, offset_s, timezone, inspection)
    rows = ordered(rows, names, inspection)
    if daily:
        rows = weekdays_only(rows, names, settings, inspection) if inspection.repair else rows
    rows = plausible(rows, daily, names, settings, inspection)
    refuse_large_repairs(inspection, n_read, config.repair, int(table.lines[0]))

    series = []
    for name in dict.fromkeys(n for n in names if n is not None):
        same = [code for code, other in enumerate(names) if other == name]
        own = np.isin(rows.codes, same)
        if own.any():
            series.append(BarSeries(name, rows.stamps[own], rows.bars[own], daily, str(table.path)))
    if not series:
        raise fault(table.path, "no bar is left", "at least one bar", line=int(table.lines[0]), column="all")
    scale = ", ".join(f"{name} / {divisor}" for name, divisor in scales.items() if divisor != 1)
    zone = "dates" if daily else ("own offsets" if has_offset else timezone)
    report = FileReport(
        path=str(table.path),
        content="daily bars of" if daily else "intraday bars of",
        symbols=tuple(one.symbol for one in series),
        rows_read=n_read,
        rows_kept=sum(len(one) for one in series),
        first=stamp_text(min(one.stamps[0] for one in series), daily),
        last=stamp_text(max(one.stamps[-1] for one in series), daily),
        dialect=f"{table.dialect}, {clock.wording}, {zone}{wording}{', prices ' + scale if scale else ''}",
        repairs=dict(inspection.repairs),
        warnings=tuple(f"{one.symbol}: {text}" for one in series for text in suspicions(one, settings)),
        notes=tuple(notes),
    )
    return tuple(series), report


def _wide_bars(
    table: Table, inspection: Inspection, settings: Settings, options: FileOptions, tickers: list[str]
) -> tuple[tuple[BarSeries, ...], FileReport]:
    """yfinance of several tickers: each is a table of its own, on the days it has prices."""
    first = next(iter(table.columns))
    parts: list[BarSeries] = []
    reports: list[FileReport] = []
    for ticker in tickers:
        mine = {h: c for h, c in table.columns.items() if h == first or h.endswith(f"|{ticker}")}
        part = replace(table, columns=mine, tickers=(ticker,))
        roles = _required_roles(part, settings.market.columns)
        # A day on which another ticker traded and this one did not is no bar, not a broken one.
        present = ~np.all([np.isnan(as_numbers(part, roles[c])[0]) for c in COLUMNS[:4]], axis=0)
        part = replace(
            part, columns={h: c.filter(pa.array(present)) for h, c in mine.items()}, lines=table.lines[present]
        )
        own = replace(inspection, lines=part.lines, repairs={})
        series, report = read_bars(part, own, settings, options.model_copy(update={"symbol": ticker}))
        parts += series
        reports.append(report)
    repairs: dict[str, int] = dict(inspection.repairs)
    for report in reports:
        repairs = {k: repairs.get(k, 0) + report.repairs.get(k, 0) for k in {*repairs, *report.repairs}}
    whole = replace(
        reports[0],
        symbols=tuple(s.symbol for s in parts),
        rows_kept=sum(map(len, parts)),
        repairs=repairs,
        warnings=tuple(w for r in reports for w in r.warnings),
    )
    return tuple(parts), whole


def _required_roles(table: Table, names: ColumnNames) -> dict[str, str]:
    roles = locate(table.columns, names)
    missing = [role for role in ("open", "high", "low", "close") if role not in roles]
    if not {"timestamp", "date", "time"} & set(roles):
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
    table: Table, roles: dict[str, str], settings: Settings, options: FileOptions, tickers: list[str]
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
    label = options.symbol or (tickers[0] if tickers else None)
    if label is not None:
        name = book.find(label)
        names = [name] if name else []
    else:
        label = table.path.stem
        names = book.find_in_file_name(label)
    if len(names) != 1:
        problem = f"{label!r} could be {' or '.join(names)}" if names else f"no instrument is called {label!r}"
        raise fault(table.path, problem, accepted, line=int(table.lines[0]), column="symbol", place=table.place)
    return {names[0]: names[0]}, np.zeros(n, dtype=np.int64)


def _numbers(table: Table, roles: dict[str, str], inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
    """(open..volume float64 (R, 5), keep bool (R,)): every price a finite number, volume may be empty."""
    n = len(table.lines)
    values = np.full((n, len(COLUMNS)), np.nan)
    wrong = np.zeros((n, len(COLUMNS)), dtype=bool)
    for k, name in enumerate(COLUMNS):
        if name not in roles:
            continue
        values[:, k], unparsable = as_numbers(table, roles[name])
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
    """Parsed stamps of all rows; unreadable ones are taken out of `keep`."""
    if "timestamp" in roles:
        header, second = roles["timestamp"], None
    elif "date" in roles:
        header, second = roles["date"], roles.get("time")
    else:
        header, second = roles["time"], None
    column = table.columns[header]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        clock = clocks.from_datetimes(column.to_pandas())
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        numbers = as_numbers(table, header)[0]
        if np.nanmax(numbers, initial=0) < 1e8:  # 20190215
            texts = pd.Series(numbers).map(lambda v: f"{v:.0f}")
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
                'a date_format such as "%d/%m/%Y" or "%m/%d/%Y" for this file',
                line=int(table.lines[0]),
                column=header,
            ) from None

    def problem(row: int) -> str:
        text = cell(table, header, row) + (f" {cell(table, second, row)}" if second else "")
        return f"{text!r} is not a stamp as the other rows have it ({clock.wording})"

    bad = clock.bad & keep
    inspection.judge(bad, "unparsable_rows_dropped", header, problem, clocks.ACCEPTED)
    keep &= ~bad
    return clock, clock.offset_s is not None
