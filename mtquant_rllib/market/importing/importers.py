"""Bars as people hold them, in; aligned, checked `MarketData` out.

One file of one instrument, one long file of all, or a folder of files: text or Parquet, any column order, any of the
names and spellings of `configs/market.yaml`. A file is read whole and judged in stages; what is wrong is one error
that names file, line, column and what would be accepted. With `repair` rows may be dropped, sorted, widened or merged,
and every one is counted. Anomalies that may be real (a frozen feed, a gap, weekend bars, repeated opens) are reported,
never touched.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtquant_rllib.config.sections.market import FileOptions
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.alignment import BarSeries, align
from mtquant_rllib.market.bars import COLUMNS, MarketData
from mtquant_rllib.market.file_errors import Inspection, fault
from mtquant_rllib.market.importing.contents import FileTables, contents
from mtquant_rllib.market.importing.formats import Table, locate, read_table
from mtquant_rllib.market.importing.macro import MacroSeries, as_of, macro_from_tables
from mtquant_rllib.market.importing.reading import read_bars
from mtquant_rllib.market.importing.report import FileReport, ImportReport
from mtquant_rllib.market.importing.sources import Source, expand
from mtquant_rllib.market.spacing import foreign_spacing

T = TypeVar("T")


@dataclass(frozen=True)
class Imported:
    """Everything some files held: bars per instrument, macro series (or None), and how they were read."""

    series: tuple[BarSeries, ...]
    macro: MacroSeries | None
    report: ImportReport


def options_for(table: Table, settings: Settings, explicit: FileOptions | None = None) -> FileOptions:
    """Options of a file: those given in the call, else those of the first pattern in `market.files` that fits, else
    those of its layout."""
    found = next(
        (o for pattern, o in settings.market.files.items() if fnmatch.fnmatch(table.path.name, pattern)), FileOptions()
    )
    given = {
        key: value
        for options in (found, explicit)
        if options is not None
        for key, value in options
        if value is not None
    }
    return table.options.model_copy(update=given)


@dataclass(frozen=True)
class _FileContents:
    """One file, told apart."""

    contents: FileTables
    options: FileOptions

    @property
    def macro(self) -> list[tuple[Table, Inspection, FileOptions]]:
        return [(*part, self.options) for part in self.contents.macro]


def _opened(source: Source, settings: Settings, explicit: FileOptions | None, repair: bool) -> _FileContents:
    table, inspection = read_table(source, settings.market, repair)
    options = options_for(table, settings, explicit)
    return _FileContents(contents(table, inspection, settings, options), options)


def _each(sources: Sequence[Source], read: Callable[[Source], T]) -> tuple[list[T], list[MarketDataError]]:
    """What could be read of all files, and the faults of those that could not."""
    found: list[T] = []
    faults: list[MarketDataError] = []
    for source in sources:
        try:
            found.append(read(source))
        except MarketDataError as error:
            faults.append(error)
    return found, faults


def _refuse(faults: Sequence[MarketDataError], n_files: int) -> None:
    """Raises the one fault, or one error that lists them all."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise MarketDataError(f"{len(faults)} of {n_files} files are refused:\n  " + "\n  ".join(map(str, faults)))


def import_raw(
    path: Path | str,
    settings: Settings,
    *,
    symbol: str | None = None,
    timezone: str | None = None,
    scale: int | None = None,
    date_format: str | None = None,
    repair: bool = False,
) -> tuple[tuple[BarSeries, ...], FileReport]:
    """Bars of one file, one series per instrument in it.

    Parameters
    ----------
    symbol
        Instrument of a file without a symbol column; default: read off the file name.
    timezone
        Clock of timestamps without an offset; default `market.timezone`. Dates of daily bars are not shifted.
    scale
        Divisor of prices stored as whole numbers; default the instrument's. Naming 1 says that whole prices are meant.
    date_format
        strptime pattern where day and month cannot be told apart.
    repair
        Permit to drop, sort, widen and merge rows, counted by kind in the report.

    Raises
    ------
    MarketDataError
        The first fault, with file, line, column and what would be accepted.
    """
    source = Source(Path(path))
    explicit = FileOptions(symbol=symbol, timezone=timezone, scale=scale, date_format=date_format)
    table, inspection = read_table(source, settings.market, repair)
    options = options_for(table, settings, explicit)
    found = contents(table, inspection, settings, options).bars if table.levels else (table, inspection)
    if found is None:
        raise fault(path, "macro series alone", "bars of an instrument")
    return read_bars(*found, settings, options)


def import_paths(
    paths: Path | str | Sequence[Path | str],
    settings: Settings,
    *,
    options: FileOptions | None = None,
    repair: bool = False,
    skip_refused: bool = False,
) -> Imported:
    """Bars and macro series of files, folders and archives, told apart by their tickers, columns and names; series of
    one symbol are joined.

    Parameters
    ----------
    skip_refused
        Take the files that can be read, and name the others in the report, where there is at least one.

    Raises
    ------
    MarketDataError
        The faults of all files that cannot be read.
    """
    sources = expand(paths, settings.market)

    def read(source: Source) -> tuple[_FileContents, tuple[BarSeries, ...], list[FileReport]]:
        file = _opened(source, settings, options, repair)
        if file.contents.bars is None:
            return file, (), []
        series, report = read_bars(*file.contents.bars, settings, file.options)
        return file, series, [report]

    found, faults = _each(sources.found, read)
    if not skip_refused or not found:
        _refuse(faults, len(sources.found))
    reports = [report for _, _, own in found for report in own]
    series, joined = _join([one for _, own, _ in found for one in own], repair)
    if joined:
        reports[-1] = replace(reports[-1], repairs={**reports[-1].repairs, **joined})
    macro = None
    if macro_tables := [table for file, _, _ in found for table in file.macro]:
        macro, macro_reports = macro_from_tables(macro_tables, settings.market, complete=False)
        reports += macro_reports
    skipped = (*sources.skipped, *(f"refused: {error}" for error in faults))
    return Imported(tuple(series), macro, ImportReport(tuple(reports), skipped=skipped))


def load_market(
    settings: Settings,
    bars: Path | str | Sequence[Path | str],
    macro: Path | str | Sequence[Path | str] | None,
    *,
    repair: bool = False,
    allow_missing: Sequence[str] = (),
    options: FileOptions | None = None,
) -> tuple[MarketData, ImportReport]:
    """Aligned bars of the whole universe with causally joined macro series.

    Parameters
    ----------
    bars, macro
        A file, several files or a folder each. Without macro the columns are there and NaN. Macro files found among the
        bars of a folder are left aside, with a note.
    allow_missing
        Instruments that may have no bars (besides `market.allow_missing`); they are masked throughout.

    Raises
    ------
    MarketDataError
        A fault in a file, an instrument without bars, or bars of different lengths.
    """
    parts: list[BarSeries] = []
    reports: list[FileReport] = []
    warnings: list[str] = []
    files = expand(bars, settings.market)

    def read(source: Source) -> None:
        table, inspection = read_table(source, settings.market, repair)
        given = options_for(table, settings, options)
        if len(files.found) > 1 or table.levels or "symbol" in locate(table, settings.market.columns):
            held = contents(table, inspection, settings, given)
            if held.macro:
                names = ", ".join(name for part, _ in held.macro for name in part.columns if name in macro_columns)
                warnings.append(
                    f"{table.path} holds macro series ({names or 'by its name'}), which were left aside; name it as "
                    "the macro file"
                )
            if held.bars is None:
                return
            table, inspection = held.bars
        own, report = read_bars(table, inspection, settings, given)
        parts.extend(own)
        reports.append(report)

    macro_columns = settings.market.macro.columns
    _, faults = _each(files.found, read)
    _refuse(faults, len(files.found))
    series, joined = _join(parts, repair)
    if joined:
        reports[-1] = replace(reports[-1], repairs={**reports[-1].repairs, **joined})
    symbols = settings.universe.symbols
    permitted = {*allow_missing, *settings.market.allow_missing}
    present = {one.symbol for one in series}
    if missing := [s for s in symbols if s not in present and s not in permitted]:
        found = sorted(present) + sorted({n for r in reports for n in r.notes})
        raise fault(
            ", ".join(str(p.path) for p in files.found[:3]) + (" ..." if len(files.found) > 3 else ""),
            f"symbol missing: {', '.join(missing)} (found: {', '.join(found) or 'none'})",
            f"bars of {', '.join(symbols)} under these names or their aliases, or those alone that are there: "
            f"market.instruments=[{', '.join(symbol for symbol in symbols if symbol in present)}]",
            column="symbol",
        )
    market = align([one for one in series if one.symbol in symbols], settings, symbols)
    warnings += [f"{s} has no bars and is masked throughout" for s in symbols if s not in present]
    columns = macro_columns
    skipped = files.skipped
    if macro is None:
        known = np.full((len(market), len(columns)), np.nan)
        warnings.append("no macro file: macro columns are NaN throughout")
    else:
        published, macro_reports, macro_skipped = load_macro(settings, macro, repair=repair)
        skipped += macro_skipped
        reports += macro_reports
        columns = published.columns
        known = as_of(published, market.timestamps, market.daily, settings.market.macro)
        warnings += published.overdue(market.timestamps, settings.market.macro)
    return replace(market, macro=known, macro_columns=columns), ImportReport(tuple(reports), tuple(warnings), skipped)


def load_macro(
    settings: Settings, macro: Path | str | Sequence[Path | str], *, repair: bool = False
) -> tuple[MacroSeries, list[FileReport], tuple[str, ...]]:
    """Macro series as published, what was read of each file, and what was skipped and why.

    Raises
    ------
    MarketDataError
        A fault in a file, or a series that is not daily without the days until it is published.
    """
    files = expand(macro, settings.market)
    tables, faults = _each(files.found, lambda source: _macro_parts(source, settings, repair))
    _refuse(faults, len(files.found))
    published, reports = macro_from_tables([part for own in tables for part in own], settings.market, complete=True)
    return published, list(reports), files.skipped


def bars_table(series: Sequence[BarSeries]) -> pa.Table:
    """Long table timestamp (UTC, ms), symbol, open, high, low, close, volume, sorted by timestamp, then symbol."""
    timestamps = np.concatenate([one.timestamps for one in series])
    names = np.concatenate([np.full(len(one), one.symbol, dtype=object) for one in series])
    bars = np.concatenate([one.bars for one in series])
    order = np.lexsort((names.astype(str), timestamps))
    columns: dict[str, pa.Array] = {
        "timestamp": pa.array(timestamps[order].astype("datetime64[ms]"), pa.timestamp("ms", tz="UTC")),
        "symbol": pa.array(names[order], pa.string()),
    }
    columns |= {name: pa.array(bars[order, k], pa.float64()) for k, name in enumerate(COLUMNS)}
    return pa.table(columns)


def write_bars(series: Sequence[BarSeries], path: Path | str) -> Path:
    """Write series as one long Parquet file, whole or not at all. Import of it gives the same series."""
    return _write(bars_table(series), Path(path))


def write_market(market: MarketData, path: Path | str) -> Path:
    """Write the bars of a market (not its macro) as one long Parquet file."""
    return write_bars(series_of(market, str(path)), path)


def write_macro(macro: MacroSeries, path: Path | str) -> Path:
    """Write macro series as published, one column each, dates as UTC midnights."""
    columns = {"timestamp": pa.array(macro.dates.astype("datetime64[ms]"), pa.timestamp("ms", tz="UTC"))}
    columns |= {name: pa.array(macro.values[:, k]) for k, name in enumerate(macro.columns)}
    return _write(pa.table(columns), Path(path))


def series_of(market: MarketData, source: str = "market") -> tuple[BarSeries, ...]:
    """The instruments of a market, each with its own bars only."""
    parts = []
    for i, symbol in enumerate(market.symbols):
        own = market.valid[:, i]
        parts.append(BarSeries(symbol, market.timestamps[own], market.bars[own, i], market.daily, source))
    return tuple(part for part in parts if len(part))


def _write(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, draft)
    os.replace(draft, path)
    return path


def _macro_parts(source: Source, settings: Settings, repair: bool) -> list[tuple[Table, Inspection, FileOptions]]:
    """Tables of series in a file that was named as the macro file: all of it, or what is beside the bars in it."""
    table, inspection = read_table(source, settings.market, repair)
    options = options_for(table, settings)
    if table.levels or "symbol" in locate(table, settings.market.columns):
        held = contents(table, inspection, settings, options)
        if held.macro:
            return [(*part, options) for part in held.macro]
    return [(table, inspection, options)]


def _join(parts: list[BarSeries], repair: bool) -> tuple[list[BarSeries], dict[str, int]]:
    """Files of one instrument (one a year, say) end to end. Timestamps found in two files are an error, or the later
    file's."""
    repairs: dict[str, int] = {}
    joined = []
    for symbol in dict.fromkeys(part.symbol for part in parts):
        own = [part for part in parts if part.symbol == symbol]
        if len(own) == 1:
            joined.append(own[0])
            continue
        if len({part.daily for part in own}) > 1:
            raise fault(
                own[1].source,
                f"{symbol} has daily and intraday files ({own[0].source})",
                "bars of one length for an instrument",
                line=1,
                column="timestamp",
            )
        timestamps = np.concatenate([part.timestamps for part in own])
        order = np.argsort(timestamps, kind="stable")
        double = timestamps[order][1:] == timestamps[order][:-1]
        if double.any():
            if not repair:
                at = order[1:][int(np.argmax(double))]
                source = np.repeat(np.arange(len(own)), [len(part) for part in own])[at]
                line = int(at - sum(len(part) for part in own[:source])) + 1
                raise fault(
                    own[source].source,
                    f"bar {line}, {timestamps[at]} of {symbol}, stands in another file too ({own[source - 1].source})",
                    "each timestamp in one file; or repair, which keeps the file named later",
                    column="timestamp",
                )
            repairs["overlap_dropped"] = repairs.get("overlap_dropped", 0) + int(double.sum())
            order = order[np.concatenate((~double, [True]))]
        if (found := foreign_spacing(timestamps[order])) is not None:
            at, usual, other = found
            raise fault(
                " and ".join(part.source for part in own[:2]),
                f"bars of {symbol} from {timestamps[order][at]} on are {other} apart, the others {usual}",
                "bars of one length for an instrument",
                column="timestamp",
            )
        bars = np.concatenate([part.bars for part in own])
        joined.append(BarSeries(symbol, timestamps[order], bars[order], own[0].daily, own[0].source))
    return joined, repairs
