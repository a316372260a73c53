"""Bars as people hold them, in; aligned, checked `MarketData` out.

One file of one instrument, one long file of all, or a folder of files: text or Parquet, any column order, any of the
names and spellings of `configs/market.yaml`. A file is read whole and judged in stages; what is wrong is one error
that names file, line, column and what would be accepted. With `repair` rows may be dropped, sorted, widened or merged,
and every one is counted. Oddities that may be real (a frozen feed, a gap, weekend bars, repeated opens) are reported,
never touched.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtquant_rllib.config.market import FileOptions
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.alignment import BarSeries, align
from mtquant_rllib.market.bars import COLUMNS, MarketData
from mtquant_rllib.market.formats import PARQUET_SUFFIXES, TEXT_SUFFIXES, Table, locate, read_table
from mtquant_rllib.market.import_errors import Inspection, fault
from mtquant_rllib.market.macro import MacroSeries, as_of, is_macro, macro_from_tables
from mtquant_rllib.market.reading import instrument_names, read_bars
from mtquant_rllib.market.report import FileReport, ImportReport
from mtquant_rllib.market.spacing import foreign_spacing


@dataclass(frozen=True)
class Imported:
    """Everything some files held: bars per instrument, macro series (or None), and how they were read."""

    series: tuple[BarSeries, ...]
    macro: MacroSeries | None
    report: ImportReport


def expand(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """Files named, and the bar files inside folders named (not below), in order of name. Raises MarketDataError if
    none."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files: list[Path] = []
    for entry in map(Path, given):
        if entry.is_dir():
            inside = sorted(p for p in entry.iterdir() if p.suffix.lower() in (*TEXT_SUFFIXES, *PARQUET_SUFFIXES))
            if not inside:
                raise fault(
                    entry,
                    "no bar files in this folder",
                    f"files ending in {', '.join((*TEXT_SUFFIXES, *PARQUET_SUFFIXES))}",
                )
            files += inside
        else:
            files.append(entry)
    if not files:
        raise MarketDataError("no bar file was named; accepted: a file, several files or a folder")
    return files


def options_for(path: Path, settings: Settings, explicit: FileOptions | None = None) -> FileOptions:
    """Options of a file: those given in the call, else those of the first matching pattern in `market.files`."""
    found = next(
        (o for pattern, o in settings.market.files.items() if fnmatch.fnmatch(path.name, pattern)), FileOptions()
    )
    given = {} if explicit is None else {k: v for k, v in explicit.model_dump().items() if v is not None}
    return found.model_copy(update=given)


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
        Clock of stamps without an offset; default `market.timezone`. Dates of daily bars are not shifted.
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
    path = Path(path)
    table, inspection = read_table(path, repair)
    explicit = FileOptions(symbol=symbol, timezone=timezone, scale=scale, date_format=date_format)
    return read_bars(table, inspection, settings, options_for(path, settings, explicit))


def import_paths(
    paths: Path | str | Sequence[Path | str],
    settings: Settings,
    *,
    options: FileOptions | None = None,
    repair: bool = False,
) -> Imported:
    """Bars and macro series of files or folders, told apart by their columns and names; series of one symbol are
    joined."""
    bar_parts: list[BarSeries] = []
    macro_tables: list[tuple[Table, Inspection]] = []
    reports: list[FileReport] = []
    for path in expand(paths):
        table, inspection = read_table(path, repair)
        if _holds_macro(table, settings):
            macro_tables.append((table, inspection))
            continue
        own, report = read_bars(table, inspection, settings, options_for(path, settings, options))
        bar_parts += own
        reports.append(report)
    macro = None
    if macro_tables:
        macro, macro_reports = macro_from_tables(macro_tables, settings.market, complete=False)
        reports += macro_reports
    series, joined = _join(bar_parts, repair)
    if joined:
        reports[-1] = replace(reports[-1], repairs={**reports[-1].repairs, **joined})
    return Imported(tuple(series), macro, ImportReport(tuple(reports)))


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
    files = expand(bars)
    for path in files:
        table, inspection = read_table(path, repair)
        if len(files) > 1 and _holds_macro(table, settings):
            warnings.append(f"{path} holds macro series, not bars, and was left aside; name it as the macro file")
            continue
        own, report = read_bars(table, inspection, settings, options_for(path, settings, options))
        parts += own
        reports.append(report)
    series, joined = _join(parts, repair)
    if joined:
        reports[-1] = replace(reports[-1], repairs={**reports[-1].repairs, **joined})
    symbols = settings.universe.symbols
    permitted = {*allow_missing, *settings.market.allow_missing}
    present = {one.symbol for one in series}
    if missing := [s for s in symbols if s not in present and s not in permitted]:
        found = sorted(present) + sorted({n for r in reports for n in r.notes})
        raise fault(
            ", ".join(str(p) for p in files[:3]) + (" ..." if len(files) > 3 else ""),
            f"symbol missing: {', '.join(missing)} (found: {', '.join(found) or 'none'})",
            f"bars of {', '.join(symbols)} under these names or their aliases, or those alone that are there: "
            f"market.instruments=[{', '.join(symbol for symbol in symbols if symbol in present)}]",
            column="symbol",
        )
    market = align([one for one in series if one.symbol in symbols], settings, symbols)
    warnings += [f"{s} has no bars and is masked throughout" for s in symbols if s not in present]
    columns = settings.market.macro.columns
    if macro is None:
        known = np.full((len(market), len(columns)), np.nan)
        warnings.append("no macro file: macro columns are NaN throughout")
    else:
        tables = [read_table(path, repair) for path in expand(macro)]
        published, macro_reports = macro_from_tables(tables, settings.market, complete=True)
        reports += macro_reports
        columns = published.columns
        known = as_of(published, market.stamps, market.daily, settings.market.macro)
        warnings += published.overdue(market.stamps, settings.market.macro)
    return replace(market, macro=known, macro_columns=columns), ImportReport(tuple(reports), tuple(warnings))


def bars_table(series: Sequence[BarSeries]) -> pa.Table:
    """Long table timestamp (UTC, ms), symbol, open, high, low, close, volume, sorted by timestamp, then symbol."""
    stamps = np.concatenate([one.stamps for one in series])
    names = np.concatenate([np.full(len(one), one.symbol, dtype=object) for one in series])
    bars = np.concatenate([one.bars for one in series])
    order = np.lexsort((names.astype(str), stamps))
    columns: dict[str, pa.Array] = {
        "timestamp": pa.array(stamps[order].astype("datetime64[ms]"), pa.timestamp("ms", tz="UTC")),
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
        parts.append(BarSeries(symbol, market.stamps[own], market.bars[own, i], market.daily, source))
    return tuple(part for part in parts if len(part))


def _write(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, draft)
    os.replace(draft, path)
    return path


def _holds_macro(table: Table, settings: Settings) -> bool:
    roles = locate(table.columns, settings.market.columns)
    bars = all(name in roles for name in ("open", "high", "low", "close"))
    if bars and ("symbol" in roles or instrument_names(settings).find_in_file_name(table.path.stem)):
        return False
    return is_macro(table, settings.market)


def _join(parts: list[BarSeries], repair: bool) -> tuple[list[BarSeries], dict[str, int]]:
    """Files of one instrument (one a year, say) end to end. Stamps found in two files are an error, or the later
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
        stamps = np.concatenate([part.stamps for part in own])
        order = np.argsort(stamps, kind="stable")
        double = stamps[order][1:] == stamps[order][:-1]
        if double.any():
            if not repair:
                at = order[1:][int(np.argmax(double))]
                source = np.repeat(np.arange(len(own)), [len(part) for part in own])[at]
                line = int(at - sum(len(part) for part in own[:source])) + 1
                raise fault(
                    own[source].source,
                    f"bar {line}, {stamps[at]} of {symbol}, stands in another file too ({own[source - 1].source})",
                    "each stamp in one file; or repair, which keeps the file named later",
                    column="timestamp",
                )
            repairs["overlap_dropped"] = repairs.get("overlap_dropped", 0) + int(double.sum())
            order = order[np.concatenate((~double, [True]))]
        if (found := foreign_spacing(stamps[order])) is not None:
            at, usual, other = found
            raise fault(
                " and ".join(part.source for part in own[:2]),
                f"bars of {symbol} from {stamps[order][at]} on are {other} apart, the others {usual}",
                "bars of one length for an instrument",
                column="timestamp",
            )
        bars = np.concatenate([part.bars for part in own])
        joined.append(BarSeries(symbol, stamps[order], bars[order], own[0].daily, own[0].source))
    return joined, repairs
