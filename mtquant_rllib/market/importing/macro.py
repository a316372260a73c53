"""Macro series: read as published, joined as known.

A value dated d is not known on d: yields appear on the next business day, and the closes of VIX and the dollar index
after some of our instruments have closed. Row t of a market therefore carries, per series, the last value whose date
is at least a business day behind. Business days are weekdays; a holiday's delay beyond that is not modelled. What comes
less often than daily has a lag of its own (`publication`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.market import FileOptions, MacroConfig, MarketConfig
from mtquant_rllib.market.aliases import NameBook, plain
from mtquant_rllib.market.calendar import utc_time
from mtquant_rllib.market.file_errors import Inspection, fault, refuse_large_repairs
from mtquant_rllib.market.importing.dialects import PRICES, TIME_ROLES
from mtquant_rllib.market.importing.formats import Table, as_numbers, cell, locate, refuse_doubled, with_numbers
from mtquant_rllib.market.importing.publication import known_on, period_of, published_config
from mtquant_rllib.market.importing.reading import read_clock
from mtquant_rllib.market.importing.report import FileReport
from mtquant_rllib.market.timestamps import ACCEPTED


@dataclass(frozen=True)
class MacroSeries:
    """Series by date.

    Attributes
    ----------
    dates
        datetime64[D] (L,), strictly increasing: the day a value is about, not the day it was known.
    values
        float64 (L, M) in the units of the source (rates in per cent); NaN where a series has no value that day.
    columns
        M names: those of the config first, in its order, then whatever else the files held.
    lag_days
        Calendar days from a value's date to its publication, M of them, 0 for what is daily; () for all daily.
    """

    dates: np.ndarray
    values: np.ndarray
    columns: tuple[str, ...]
    lag_days: tuple[int, ...] = ()

    def overdue(self, timestamps: np.ndarray, config: MacroConfig) -> tuple[str, ...]:
        """Warnings about series that begin after the first bar or end well before the last."""
        out = []
        first, last = timestamps[0].astype("datetime64[D]"), timestamps[-1].astype("datetime64[D]")
        for k, name in enumerate(self.columns):
            own = self.dates[np.isfinite(self.values[:, k])]
            if not len(own):
                out.append(f"macro {name} has no values")
                continue
            if own[0] > first:
                out.append(f"macro {name} begins on {own[0]}; it is NaN on earlier bars")
            if (behind := int((last - own[-1]).astype(int))) > config.stale_after_days:
                out.append(
                    f"macro {name} ends on {own[-1]}, {behind} days before the last bar; its last value is carried on"
                )
        return tuple(out)


def macro_names(config: MacroConfig) -> NameBook:
    """Aliases of the configured series (DGS3MO, ^VIX, DX-Y.NYB)."""
    return NameBook.of({name: config.aliases.get(name, ()) for name in config.columns})


def is_macro(table: Table, config: MarketConfig) -> bool:
    """Does a file without an instrument hold macro series: by a column's name, or by its own?"""
    book = macro_names(config.macro)
    if any(plain(header) in book.by_plain for header in table.columns):
        return True
    return any(book.find_in_file_name(stem) for stem in table.stems)


def as_of(published: MacroSeries, timestamps: np.ndarray, daily: bool, config: MacroConfig) -> np.ndarray:
    """What was known at each row: float64 (T, M), NaN before a series begins.

    A value dated d is known `lag_business_days` weekdays after d, or `lag_days` of its series later: to a daily row
    from that date on (its decision falls after the last close of the date), to an intraday row that opens at or after
    `known_at` New York time of that date.
    """
    moments = timestamps.astype("datetime64[D]") if daily else timestamps
    lags = published.lag_days or (0,) * len(published.columns)
    known = {lag: _known_from(published.dates, lag, daily, config) for lag in set(lags)}
    joined = np.full((len(timestamps), len(published.columns)), np.nan)
    for k, lag in enumerate(lags):
        there = np.isfinite(published.values[:, k])
        if not there.any():
            continue
        at = np.searchsorted(known[lag][there], moments, side="right") - 1
        joined[:, k] = np.where(at >= 0, published.values[there, k][np.maximum(at, 0)], np.nan)
    return joined


def _known_from(dates: np.ndarray, lag_days: int, daily: bool, config: MacroConfig) -> np.ndarray:
    """Date, or UTC moment where bars are shorter, from which a value of each date is known, (L,)."""
    days = known_on(dates, config.lag_business_days, lag_days)
    if daily:
        return days
    hour, minute = map(int, config.known_at.split(":"))
    return utc_time(days.astype("datetime64[s]") + np.timedelta64(hour * 3600 + minute * 60, "s"))


def macro_from_tables(
    tables: Sequence[tuple[Table, Inspection, FileOptions]], config: MarketConfig, *, complete: bool
) -> tuple[MacroSeries, list[FileReport]]:
    """Read files of macro series and put them on the union of their dates.

    One file may hold several series (a column each), or one: FRED's two columns, or open to close of an index whose
    name is in the file's name, of which the close counts.

    Parameters
    ----------
    complete
        Refuse a configured series that no file holds, unless `macro.allow_missing` names it.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    lags: dict[str, int] = {}
    reports = []
    for table, inspection, options in tables:
        own_dates, own, headers, wording = _one_file(table, inspection, options, config)
        own_lags, remarks = _publication(table, own_dates, own, headers, config.macro)
        lags |= own_lags
        for name in own:
            if name in found:
                raise fault(
                    table.path,
                    f"series {name} stands in another file too",
                    "each series once",
                    line=int(table.lines[0]),
                    column=name,
                    place=table.place,
                )
            found[name] = own_dates, own[name]
        reports.append(
            FileReport(
                path=str(table.path),
                content="macro series",
                symbols=tuple(own),
                rows_read=len(table.lines),
                rows_kept=len(own_dates),
                first=str(own_dates[0]),
                last=str(own_dates[-1]),
                dialect=", ".join(part for part in (table.dialect, wording) if part),
                repairs=dict(inspection.repairs),
                warnings=(),
                notes=(*table.notes, *remarks),
            )
        )
    wanted = config.macro.columns
    missing = [name for name in wanted if name not in found and name not in config.macro.allow_missing]
    if complete and missing:
        raise fault(
            ", ".join(str(table.path) for table, *_ in tables),
            f"column missing: {', '.join(missing)} (found: {', '.join(found)})",
            "; ".join(f"{name} as {', '.join((name, *config.macro.aliases.get(name, ())))}" for name in missing)
            + f"; or market.macro.allow_missing=[{', '.join(missing)}]",
            line=1,
            column=missing[0],
        )
    columns = [name for name in wanted if complete or name in found] + [name for name in found if name not in wanted]
    dates = np.unique(np.concatenate([days for days, _ in found.values()]))
    values = np.full((len(dates), len(columns)), np.nan)
    for k, name in enumerate(columns):
        if name in found:
            days, numbers = found[name]
            values[np.searchsorted(dates, days), k] = numbers
    return MacroSeries(dates, values, tuple(columns), tuple(lags.get(name, 0) for name in columns)), reports


def _publication(
    table: Table, dates: np.ndarray, own: dict[str, np.ndarray], headers: dict[str, str], config: MacroConfig
) -> tuple[dict[str, int], list[str]]:
    """(series name -> days until its values are published, remarks on them) of one file. Raises MarketDataError where a
    series is not daily and nobody says when it is published."""
    lags, remarks = {}, []
    for name, values in own.items():
        period = period_of(dates, values)
        published = published_config((name, headers[name], *table.stems), config)
        if published is None and period is not None:
            shown = ", ".join(str(day) for day in dates[np.isfinite(values)][:3])
            raise fault(
                table.path,
                f"{name} has a value every {period} ({shown}, ...), and nothing says when it was published: its date "
                "would be taken for the day on which it was known",
                f"daily values, or the days from the date of a value to its publication, for instance "
                f"market.macro.published.{name}.lag_days=35 (an average of a month that is dated on its first)",
                line=int(table.lines[0]),
                column=headers[name],
                place=table.place,
            )
        if published is not None:
            lags[name] = published.lag_days
            every = f", every {period}," if period else ""
            remarks.append(f"{name}{every} is known {published.lag_days} days after its date")
            if published.revised:
                remarks.append(f"{name} is revised after its publication: these values are later knowledge")
    return lags, remarks


def _one_file(
    table: Table, inspection: Inspection, options: FileOptions, config: MarketConfig
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, str], str]:
    """(dates, series name -> values, series name -> header, wording of the timestamps) of one file, checked."""
    roles = locate(table, config.columns)
    if not TIME_ROLES & set(roles):
        raise fault(
            table.path,
            f"column missing: timestamp (the columns are {', '.join(table.columns)})",
            ", ".join(config.columns.date + config.columns.timestamp),
            line=max(1, int(table.lines[0]) - 1),
            column="timestamp",
            place=table.place,
        )
    headers = _series_headers(table, roles, config.macro)
    refuse_doubled(table, headers.values())
    table = with_numbers(table, headers.values(), options, config)
    values = {}
    keep = np.ones(len(table.lines), dtype=bool)
    for name, header in headers.items():
        numbers, unparsable = as_numbers(table, header)
        positive = name in config.macro.positive

        def problem(row: int, header: str = header, positive: bool = positive) -> str:
            text = cell(table, header, row)
            return f"{text!r} is not a {'positive ' if positive else ''}finite number"

        bad = unparsable | np.isinf(numbers) | (positive & (numbers <= 0))
        if inspection.judge(
            bad, "unparsable_values_dropped", header, problem, "a number, or nothing where there is no value"
        ):
            numbers = np.where(bad, np.nan, numbers)
        values[name] = numbers
    clock, _ = read_clock(table, roles, inspection, options, keep)
    if not keep.any():
        raise fault(
            table.path, "not one date is readable", ACCEPTED, line=int(table.lines[0]), column="date", place=table.place
        )
    dates = clock.wall.astype("datetime64[D]")[keep]
    inspection.lines = table.lines[keep]
    values = {name: numbers[keep] for name, numbers in values.items()}
    earliest, latest = np.datetime64(config.plausible.earliest), np.datetime64(config.plausible.latest)
    outside = (dates < earliest) | (dates > latest)
    if inspection.judge(
        outside,
        "impossible_times_dropped",
        "date",
        lambda row: f"{dates[row]} is no date of a value",
        f"dates between {earliest} and {latest} (market.plausible)",
    ):
        dates, values = dates[~outside], {name: numbers[~outside] for name, numbers in values.items()}
        inspection.lines = inspection.lines[~outside]
    order = np.argsort(dates, kind="stable")
    double = np.zeros(len(dates), dtype=bool)
    double[order[1:]] = dates[order][1:] == dates[order][:-1]
    inspection.judge(
        double,
        "duplicates_dropped",
        "date",
        lambda row: f"{dates[row]} stands twice",
        "each date once; or repair, which keeps the later row",
    )
    back = np.zeros(len(dates), dtype=bool)
    back[1:] = dates[1:] < dates[:-1]
    inspection.judge(
        back,
        "unsorted_rows_sorted",
        "date",
        lambda row: f"{dates[row]} comes after a later date",
        "dates in order; or repair, which sorts",
    )
    last = np.ones(len(dates), dtype=bool)
    last[:-1] = ~double[order][1:]
    kept = order[last]
    refuse_large_repairs(inspection, len(table.lines), config.repair, int(table.lines[0]))
    return dates[kept], {name: numbers[kept] for name, numbers in values.items()}, headers, clock.wording


def _named(table: Table, book: NameBook) -> list[str]:
    return next((names for stem in table.stems if (names := book.find_in_file_name(stem))), [])


def _series_headers(table: Table, roles: dict[str, str], config: MacroConfig) -> dict[str, str]:
    """Series name -> header of its values."""
    book = macro_names(config)
    if set(PRICES) <= set(roles):
        names = _named(table, book)
        if len(names) != 1:
            raise fault(
                table.path,
                f"open to close of an unknown series ({table.stems[0]!r})",
                f"a file named after one of {', '.join(config.columns)} or their aliases (market.macro.aliases)",
                line=max(1, int(table.lines[0]) - 1),
                column=roles["close"],
                place=table.place,
            )
        return {names[0]: roles["close"]}
    timestamps = {roles[role] for role in ("timestamp", "date", "time") if role in roles}
    headers: dict[str, str] = {}
    for header in table.columns:
        if header in timestamps or not header:
            continue
        name = book.by_plain.get(plain(header), header.strip().lower())
        if name in headers:
            raise fault(
                table.path,
                f"columns {headers[name]} and {header} are both {name}",
                "each series once",
                line=max(1, int(table.lines[0]) - 1),
                column=header,
                place=table.place,
            )
        headers[name] = header
    known = [name for name in headers if name in config.columns]
    if not known and len(headers) == 1:
        # A lone column of values: the file's name says what it is.
        by_name = _named(table, book)
        if len(by_name) == 1:
            return {by_name[0]: next(iter(headers.values()))}
    return headers
