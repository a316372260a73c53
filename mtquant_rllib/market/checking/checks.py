"""What bars of one file must satisfy: real prices, sane ranges, one series in order of time, one length of bar.

Functions over all rows at once. Each passes rows on, names the first at fault, or, where repair is permitted, mends
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mtquant_rllib.config.sections.market import FileOptions
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market import timestamps as clocks
from mtquant_rllib.market.bars import CLOSE, COLUMNS, HIGH, LOW, OPEN, VOLUME
from mtquant_rllib.market.calendar import local_time, weekday
from mtquant_rllib.market.checking.column_faults import column_fault
from mtquant_rllib.market.file_errors import Inspection, fault, option_hint

_DAY_S = 86_400
# From here on rows that contradict themselves may be a column's fault.
_MANY_ROWS, _MANY_FRAC = 10, 0.1
# Daily bars between hourly ones: at least so many dates in a row with a single bar at the same time.
_MIXED_RUN = 5


@dataclass(frozen=True)
class Rows:
    """Rows of one file on their way to bars; all arrays have the rows still in play as first axis."""

    codes: np.ndarray
    timestamps: np.ndarray
    bars: np.ndarray

    def take(self, keep: np.ndarray) -> Rows:
        return Rows(self.codes[keep], self.timestamps[keep], self.bars[keep])


def descale(
    rows: Rows, names: list[str | None], settings: Settings, options: FileOptions, inspection: Inspection
) -> tuple[Rows, dict[str, int]]:
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
                f"prices, or scale={round(1 / row.tick)} (scale=1 if whole numbers are meant): "
                + option_hint(inspection.path, scale=round(1 / row.tick)),
                line=int(inspection.lines[first]),
                column="open",
                place=inspection.place,
            )
    return replace(rows, bars=bars), scales


def positive(
    rows: Rows, offset_s: np.ndarray | None, names: list[str | None], settings: Settings, inspection: Inspection
) -> tuple[Rows, np.ndarray | None]:
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


def consistent(rows: Rows, tolerance_frac: float, inspection: Inspection) -> Rows:
    """High is the highest, low the lowest. Rounding is mended silently, the rest on request; a fault of a whole column
    is named and never mended."""
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

    bad = above | below
    if bad.sum() >= _MANY_ROWS and bad.mean() > _MANY_FRAC and (named := column_fault(prices, slack)) is not None:
        raise fault(
            inspection.path,
            named,
            "each price in its column; no repair mends a whole column",
            line=int(inspection.lines[int(np.argmax(bad))]),
            column="high" if above[int(np.argmax(bad))] else "low",
            place=inspection.place,
        )
    inspection.judge(
        bad,
        "high_low_widened",
        lambda row: "high" if above[row] else "low",
        problem,
        "low <= open, close <= high; or repair, which widens high and low to hold open and close",
    )
    bars = rows.bars.copy()
    bars[:, HIGH], bars[:, LOW] = top, bottom
    return replace(rows, bars=bars)


def moments(rows: Rows, offset_s: np.ndarray | None, timezone: str, inspection: Inspection) -> tuple[Rows, bool, str]:
    """Timestamps as UTC moments, or as dates if the bars are daily: (rows, daily, wording)."""
    wall = rows.timestamps
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
            "the time zone of the server that wrote the file, such as UTC, Europe/Athens or New York+7: "
            + option_hint(inspection.path, timezone="New York+7"),
        )
        if found:
            rows, utc = rows.take(~missing), utc[~missing]
            inspection.lines = inspection.lines[~missing]
    # Twenty hours: days of 23 hours exist, and Sunday's bar may open later than the others.
    if shortest >= 20 * 3600:
        if clocks.at_rollover(utc).all():
            dates = local_time(utc).astype("datetime64[D]") + 1
            return (
                replace(rows, timestamps=dates.astype("datetime64[s]")),
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
    return replace(rows, timestamps=utc), False, ""


def ordered(rows: Rows, names: list[str | None], inspection: Inspection) -> Rows:
    """Rows of each instrument in strictly increasing time."""
    # Two labels of one instrument (GOLD and XAUUSD) are one series.
    order_of: dict[str | None, int] = {}
    group = np.array([order_of.setdefault(name, len(order_of)) for name in names])[rows.codes]
    by_group = np.argsort(group, kind="stable")
    timestamps, groups = rows.timestamps[by_group], group[by_group]
    neighbours = groups[1:] == groups[:-1]
    back = np.zeros(len(timestamps), dtype=bool)
    back[1:] = neighbours & (timestamps[1:] < timestamps[:-1])
    by_time = np.lexsort((rows.timestamps, group))
    doubled = np.zeros(len(timestamps), dtype=bool)
    doubled[by_time[1:]] = (rows.timestamps[by_time][1:] == rows.timestamps[by_time][:-1]) & (
        group[by_time][1:] == group[by_time][:-1]
    )
    out_of_order = np.zeros(len(timestamps), dtype=bool)
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
        lambda row: f"{rows.timestamps[row]} stands twice for {names[int(rows.codes[row])]}",
        "each timestamp once; or repair, which keeps the later row",
    )
    inspection.judge(
        out_of_order & ~doubled,
        "unsorted_rows_sorted",
        "timestamp",
        lambda row: f"{rows.timestamps[row]} of {names[int(rows.codes[row])]} comes after a later timestamp",
        "rows in order of time; or repair, which sorts",
    )
    # The last row of a timestamp in the file's order is the one kept: a later export corrects an earlier one.
    last = np.ones(len(by_time), dtype=bool)
    last[:-1] = ~doubled[by_time][1:]
    kept = by_time[last]
    inspection.lines = inspection.lines[kept]
    return rows.take(kept)


def weekdays_only(rows: Rows, names: list[str | None], settings: Settings, inspection: Inspection) -> Rows:
    """Daily bars dated on a weekend become part of the Monday they lead to: its open, the wider range, the sum of
    volumes. Those of an instrument that is traded on all seven days stay. names: of the codes of `rows`."""
    every_day = np.array([name in settings.symbols and settings.symbols[name].triple_day is None for name in names])
    stays = every_day[rows.codes]
    weekend = (weekday(rows.timestamps) >= 5) & ~stays
    if not inspection.judge(weekend, "weekend_bars_merged", "timestamp", str, ""):
        return rows
    mondays = np.busday_offset(rows.timestamps.astype("datetime64[D]"), 0, roll="forward").astype("datetime64[s]")
    dates = np.where(stays, rows.timestamps.astype("datetime64[s]"), mondays)
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
    return Rows(rows.codes[starts], dates[starts], bars)


def refuse_mixed(rows: Rows, daily: bool, names: list[str | None], inspection: Inspection) -> None:
    """A stretch of daily bars inside an intraday history: old MetaTrader exports begin so."""
    if daily or len(rows.timestamps) < _MIXED_RUN:
        return
    dates = rows.timestamps.astype("datetime64[D]").astype(np.int64) + rows.codes * 10_000_000
    fresh = np.ones(len(dates), dtype=bool)
    fresh[1:] = dates[1:] != dates[:-1]
    starts = np.flatnonzero(fresh)
    # A day of one bar is a lone bar if the neighbours are days of one bar as well; it is daily if it always opens then.
    lone = np.diff(np.concatenate((starts, [len(dates)]))) == 1
    of_day = (rows.timestamps[starts] - rows.timestamps[starts].astype("datetime64[D]")).astype(np.int64)
    same = np.ones(len(starts), dtype=bool)
    same[1:] = of_day[1:] == of_day[:-1]
    run = np.convolve((lone & same).astype(int), np.ones(_MIXED_RUN, dtype=int), mode="valid") == _MIXED_RUN
    if run.any():
        row = int(starts[int(np.argmax(run))])
        raise fault(
            inspection.path,
            f"daily bars of {names[int(rows.codes[row])]} from {rows.timestamps[row]} stand among intraday ones",
            "bars of one length in a file",
            line=int(inspection.lines[row]) if len(inspection.lines) == len(rows.timestamps) else None,
            column="timestamp",
            place=inspection.place,
        )
