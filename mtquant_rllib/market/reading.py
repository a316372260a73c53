"""One file of bars through its stages: columns, symbols, numbers, stamps, prices, order.

Every stage is a function over all rows at once. It either passes, names the first row at fault, or, where repair is
permitted, drops or mends rows and counts them. Nothing here knows of other files or of a common axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from mtquant_rllib.config.market import ColumnNames, FileOptions
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market import stamps as clocks
from mtquant_rllib.market.alignment import BarSeries
from mtquant_rllib.market.bars import CLOSE, COLUMNS, HIGH, LOW, OPEN, VOLUME
from mtquant_rllib.market.calendar import local_time, weekday
from mtquant_rllib.market.faults import Inspection, fault
from mtquant_rllib.market.formats import Table, as_numbers, as_texts, cell, locate
from mtquant_rllib.market.names import NameBook
from mtquant_rllib.market.quality import stamp_text, suspicions
from mtquant_rllib.market.report import FileReport

_DAY_S = 86_400
# Daily bars between hourly ones: at least so many dates in a row with a single bar at midnight.
_MIXED_RUN = 5


@dataclass(frozen=True)
class _Rows:
    """Rows of one file on their way to bars; all arrays have the rows still in play as first axis."""

    codes: np.ndarray
    stamps: np.ndarray
    bars: np.ndarray

    def take(self, keep: np.ndarray) -> _Rows:
        return _Rows(self.codes[keep], self.stamps[keep], self.bars[keep])


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
    rows = _Rows(codes[keep], clock.wall[keep], values[keep])
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

    rows, scales = _descale(rows, names, settings, options, inspection)
    rows, offset_s = _positive(rows, offset_s, names, settings, inspection)
    rows = _consistent(rows, config.consistency_tolerance_frac, inspection)
    timezone = options.timezone or config.timezone
    rows, daily, wording = _moments(rows, offset_s, timezone, inspection)
    rows = _ordered(rows, names, inspection)
    if daily:
        rows = _weekdays_only(rows, inspection) if inspection.repair else rows
    _refuse_mixed(rows, daily, names, inspection)
    # A file pasted together twice is whole; its duplicates do not count as lost.
    dropped = sum(n for kind, n in inspection.repairs.items() if kind in ("unparsable_rows_dropped", "non_positive_dropped"))
    if dropped > config.repair.max_dropped_frac * n_read:
        raise fault(
            table.path,
            f"a repair would drop {dropped} of {n_read} rows: {inspection.repairs}",
            f"at most {config.repair.max_dropped_frac:.0%} unusable rows (market.repair.max_dropped_frac)",
            line=int(table.lines[0]),
            column="all",
        )

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


def _descale(
    rows: _Rows, names: list[str | None], settings: Settings, options: FileOptions, inspection: Inspection
) -> tuple[_Rows, dict[str, int]]:
    """Divide whole-number prices; refuse those that look scaled while nobody said so."""
    bars = rows.bars.copy()
    scales: dict[str, int] = {}
    for code, name in enumerate(names):
        if name is None:
            continue
        row = settings.symbols[name]
        scale = options.scale or row.scale
        scales[name] = scale
        own = rows.codes == code
        prices = bars[own, :VOLUME]
        whole = np.abs(prices - np.rint(prices)) < 1e-6
        if scale > 1:
            fractional = np.zeros(len(bars), dtype=bool)
            fractional[own] = ~whole.all(axis=1)
            if fractional.any():
                first = int(np.argmax(fractional))
                raise fault(
                    inspection.path,
                    f"{bars[first, OPEN]:g} is not a whole number, but {name} is said to be stored times {scale}",
                    "whole numbers, or scale=1 for this file",
                    line=int(inspection.lines[first]),
                    column="open",
                    place=inspection.place,
                )
            bars[own, :VOLUME] = np.rint(prices) / scale
        elif (
            options.scale is None
            and len(prices) >= settings.market.quality.scaled_min_rows
            and row.tick < 0.1
            and whole.all()
        ):
            first = int(np.argmax(own))
            raise fault(
                inspection.path,
                f"{bars[first, OPEN]:g} looks like a scaled integer: no price of {name} has a fraction, its tick is "
                f"{row.tick:g}",
                f"prices, or scale={round(1 / row.tick)} for this file (scale=1 if whole numbers are meant)",
                line=int(inspection.lines[first]),
                column="open",
                place=inspection.place,
            )
    return replace(rows, bars=bars), scales


def _positive(
    rows: _Rows, offset_s: np.ndarray | None, names: list[str | None], settings: Settings, inspection: Inspection
) -> tuple[_Rows, np.ndarray | None]:
    allowed = np.array([name is not None and settings.symbols[name].allow_non_positive for name in names])
    wrong = (rows.bars[:, :VOLUME] <= 0) & ~allowed[rows.codes][:, None]
    bad = wrong.any(axis=1)

    def column(row: int) -> str:
        return COLUMNS[int(np.argmax(wrong[row]))]

    found = inspection.judge(
        bad,
        "non_positive_dropped",
        column,
        lambda row: (
            f"price {rows.bars[row, int(np.argmax(wrong[row]))]:g} of {names[int(rows.codes[row])]} is not positive"
        ),
        lambda row: f"a price above 0, or symbols.{names[int(rows.codes[row])]}.allow_non_positive=true",
    )
    if found:
        inspection.lines = inspection.lines[~bad]
        return rows.take(~bad), None if offset_s is None else offset_s[~bad]
    return rows, offset_s


def _consistent(rows: _Rows, tolerance_frac: float, inspection: Inspection) -> _Rows:
    """High is the highest, low the lowest. Rounding is mended silently, the rest on request."""
    prices = rows.bars[:, :VOLUME]
    top, bottom = prices.max(axis=1), prices.min(axis=1)
    slack = tolerance_frac * np.abs(prices).max(axis=1)
    above = top - prices[:, HIGH] > slack
    below = prices[:, LOW] - bottom > slack

    def problem(row: int) -> str:
        o, h, low, _ = prices[row]
        if h < low:
            return f"high {h:g} is below low {low:g}"
        return (
            f"high {h:.10g} is below {'open' if o == top[row] else 'close'} {top[row]:.10g}"
            if above[row]
            else (f"low {low:.10g} is above {'open' if o == bottom[row] else 'close'} {bottom[row]:.10g}")
        )

    inspection.judge(
        above | below,
        "high_low_widened",
        lambda row: "high" if above[row] else "low",
        problem,
        "low <= open, close <= high; or repair, which widens high and low to hold open and close",
    )
    bars = rows.bars.copy()
    bars[:, HIGH], bars[:, LOW] = top, bottom
    return replace(rows, bars=bars)


def _moments(
    rows: _Rows, offset_s: np.ndarray | None, timezone: str, inspection: Inspection
) -> tuple[_Rows, bool, str]:
    """Stamps as UTC moments, or as dates if the bars are daily: (rows, daily, wording)."""
    wall = rows.stamps
    order = np.lexsort((wall, rows.codes))
    steps = np.diff(wall[order]).astype(np.int64)[np.diff(rows.codes[order]) == 0]
    steps = steps[steps > 0]
    shortest = int(steps.min()) if len(steps) else _DAY_S
    if clocks.is_midnight(wall).all() and shortest >= _DAY_S:
        if len(steps) and np.median(steps) >= 5 * _DAY_S:
            raise fault(
                inspection.path,
                f"bars {np.median(steps) / _DAY_S:.0f} days apart",
                "daily or shorter bars",
                line=int(inspection.lines[0]),
                column="timestamp",
                place=inspection.place,
            )
        return rows, True, ""
    if offset_s is not None:
        utc = wall - offset_s.astype("timedelta64[s]")
    else:
        utc, missing = clocks.to_utc(wall, timezone, rows.codes)
        found = inspection.judge(
            missing,
            "unparsable_rows_dropped",
            "timestamp",
            lambda row: f"{wall[row]} never was on a clock of {timezone}, which skips that hour in spring",
            "the time zone of the server that wrote the file, such as UTC, Europe/Athens or New York+7",
        )
        if found:
            rows, utc = rows.take(~missing), utc[~missing]
            inspection.lines = inspection.lines[~missing]
    # Twenty hours: days of 23 hours exist, and Sunday's bar may open later than the others.
    if shortest >= 20 * 3600:
        if clocks.at_rollover(utc).all():
            dates = local_time(utc).astype("datetime64[D]") + 1
            return (
                replace(rows, stamps=dates.astype("datetime64[s]")),
                True,
                " (opened at 17:00 New York the day before)",
            )
        raise fault(
            inspection.path,
            f"bars at least 20 hours apart stamped {wall[0]}, so their trading date is doubtful",
            "dates, midnights, or opens at 17:00 New York with the right timezone",
            line=int(inspection.lines[0]),
            column="timestamp",
            place=inspection.place,
        )
    return replace(rows, stamps=utc), False, ""


def _ordered(rows: _Rows, names: list[str | None], inspection: Inspection) -> _Rows:
    """Rows of each instrument in strictly increasing time."""
    # Two labels of one instrument (GOLD and XAUUSD) are one series.
    order_of: dict[str | None, int] = {}
    group = np.array([order_of.setdefault(name, len(order_of)) for name in names])[rows.codes]
    by_group = np.argsort(group, kind="stable")
    stamps, groups = rows.stamps[by_group], group[by_group]
    neighbours = groups[1:] == groups[:-1]
    back = np.zeros(len(stamps), dtype=bool)
    back[1:] = neighbours & (stamps[1:] < stamps[:-1])
    by_time = np.lexsort((rows.stamps, group))
    doubled = np.zeros(len(stamps), dtype=bool)
    doubled[by_time[1:]] = (rows.stamps[by_time][1:] == rows.stamps[by_time][:-1]) & (
        group[by_time][1:] == group[by_time][:-1]
    )
    out_of_order = np.zeros(len(stamps), dtype=bool)
    out_of_order[by_group] = back
    if not doubled.any() and not out_of_order.any():
        inspection.lines = inspection.lines[by_group]
        return rows.take(by_group)
    if inspection.repair and doubled.any():
        again = np.flatnonzero(doubled[by_time])
        differs = ~np.all(
            np.isclose(rows.bars[by_time][again], rows.bars[by_time][again - 1], rtol=0, atol=0, equal_nan=True), axis=1
        )
        if differs.any():
            inspection.repairs["conflicting_duplicates_replaced"] = int(differs.sum())
    inspection.judge(
        doubled,
        "duplicates_dropped",
        "timestamp",
        lambda row: f"{rows.stamps[row]} stands twice for {names[int(rows.codes[row])]}",
        "each stamp once; or repair, which keeps the later row",
    )
    inspection.judge(
        out_of_order & ~doubled,
        "unsorted_rows_sorted",
        "timestamp",
        lambda row: f"{rows.stamps[row]} of {names[int(rows.codes[row])]} comes after a later stamp",
        "rows in order of time; or repair, which sorts",
    )
    # The last row of a stamp in the file's order is the one kept: a later export corrects an earlier one.
    last = np.ones(len(by_time), dtype=bool)
    last[:-1] = ~doubled[by_time][1:]
    kept = by_time[last]
    inspection.lines = inspection.lines[kept]
    return rows.take(kept)


def _weekdays_only(rows: _Rows, inspection: Inspection) -> _Rows:
    """Daily bars dated on a weekend become part of the Monday they lead to: its open, the wider range, the sum of
    volumes."""
    weekend = weekday(rows.stamps) >= 5
    if not inspection.judge(weekend, "weekend_bars_merged", "timestamp", str, ""):
        return rows
    dates = np.busday_offset(rows.stamps.astype("datetime64[D]"), 0, roll="forward").astype("datetime64[s]")
    fresh = np.ones(len(dates), dtype=bool)
    fresh[1:] = (dates[1:] != dates[:-1]) | (rows.codes[1:] != rows.codes[:-1])
    starts = np.flatnonzero(fresh)
    stops = np.concatenate((starts[1:], [len(dates)]))
    bars = rows.bars[stops - 1].copy()
    bars[:, OPEN] = rows.bars[starts, OPEN]
    bars[:, HIGH] = np.maximum.reduceat(rows.bars[:, HIGH], starts)
    bars[:, LOW] = np.minimum.reduceat(rows.bars[:, LOW], starts)
    bars[:, VOLUME] = np.add.reduceat(rows.bars[:, VOLUME], starts)
    bars[:, CLOSE] = rows.bars[stops - 1, CLOSE]
    inspection.lines = inspection.lines[starts]
    return _Rows(rows.codes[starts], dates[starts], bars)


def _refuse_mixed(rows: _Rows, daily: bool, names: list[str | None], inspection: Inspection) -> None:
    """A stretch of daily bars inside an intraday history: old MetaTrader exports begin so."""
    if daily or len(rows.stamps) < _MIXED_RUN:
        return
    dates = rows.stamps.astype("datetime64[D]").astype(np.int64) + rows.codes * 10_000_000
    fresh = np.ones(len(dates), dtype=bool)
    fresh[1:] = dates[1:] != dates[:-1]
    starts = np.flatnonzero(fresh)
    # A day of one bar is a lone bar if the neighbours are days of one bar as well; it is daily if it always opens then.
    lone = np.diff(np.concatenate((starts, [len(dates)]))) == 1
    of_day = (rows.stamps[starts] - rows.stamps[starts].astype("datetime64[D]")).astype(np.int64)
    same = np.ones(len(starts), dtype=bool)
    same[1:] = of_day[1:] == of_day[:-1]
    run = np.convolve((lone & same).astype(int), np.ones(_MIXED_RUN, dtype=int), mode="valid") == _MIXED_RUN
    if run.any():
        row = int(starts[int(np.argmax(run))])
        raise fault(
            inspection.path,
            f"daily bars of {names[int(rows.codes[row])]} from {rows.stamps[row]} stand among intraday ones",
            "bars of one length in a file",
            line=int(inspection.lines[row]) if len(inspection.lines) == len(rows.stamps) else None,
            column="timestamp",
            place=inspection.place,
        )
