"""What bars of one file could have been: times that exist, one spacing, hours in which the market is open, prices at
which a trade is possible.

What is impossible is refused, or with repair left out and counted; a bar that is left out is masked on the common axis.
What is only suspect is told (`quality`). Bounds are in units of each series' own robust deviation, so that a crisis,
whose neighbours are wild too, does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.bars import CLOSE, COLUMNS, VOLUME
from mtquant_rllib.market.calendar import closed_hours, trading_day
from mtquant_rllib.market.checking.bad_ticks import impossible, level_change
from mtquant_rllib.market.checking.checks import Rows, refuse_mixed
from mtquant_rllib.market.file_errors import Inspection, fault
from mtquant_rllib.market.spacing import foreign_spacing, in_runs, stray

_IDLE_RUN = 4
"""Flat bars of unknown volume in a row that are a closed market."""


def plausible(rows: Rows, daily: bool, names: list[str | None], settings: Settings, inspection: Inspection) -> Rows:
    """Rows in order of time, series by series, without what cannot be; names: of the codes of `rows`."""
    rows = _existing_times(rows, names, settings, inspection)
    refuse_mixed(rows, daily, names, inspection)
    _one_spacing(rows, names, inspection)
    if not daily:
        rows = _open_hours(rows, names, settings, inspection)
    rows = _paid_prices(rows, names, settings, inspection)
    _one_level(rows, names, settings, inspection)
    return rows


def _series(rows: Rows, names: list[str | None]) -> Iterator[tuple[str, np.ndarray]]:
    """(instrument, its rows, in order of time)."""
    for name in dict.fromkeys(name for name in names if name is not None):
        own = np.flatnonzero(np.isin(rows.codes, [code for code, other in enumerate(names) if other == name]))
        if len(own):
            yield name, own


def _marked(rows: Rows, names: list[str | None], mark: Callable[[str, np.ndarray], np.ndarray]) -> np.ndarray:
    """bool (R,): what `mark` says of each series' rows."""
    out = np.zeros(len(rows.timestamps), dtype=bool)
    for name, own in _series(rows, names):
        out[own] = mark(name, own)
    return out


def _without(rows: Rows, bad: np.ndarray, inspection: Inspection) -> Rows:
    inspection.lines = inspection.lines[~bad]
    return rows.take(~bad)


def _existing_times(rows: Rows, names: list[str | None], settings: Settings, inspection: Inspection) -> Rows:
    config = settings.market.plausible
    first, last = (np.datetime64(date, "s") for date in (config.earliest, config.latest))
    outside = (rows.timestamps < first) | (rows.timestamps > last)
    if inspection.judge(
        outside,
        "impossible_times_dropped",
        "timestamp",
        lambda row: f"{rows.timestamps[row]} is no time of a bar",
        f"timestamps between {config.earliest} and {config.latest} (market.plausible)",
    ):
        rows = _without(rows, outside, inspection)
    alone = _marked(rows, names, lambda _, own: stray(rows.timestamps[own], config.max_hole_days))
    if inspection.judge(
        alone,
        "impossible_times_dropped",
        "timestamp",
        lambda row: (
            f"{rows.timestamps[row]} of {names[int(rows.codes[row])]} lies more than {config.max_hole_days:g} days "
            "from the rest of its bars"
        ),
        "bars of one history; or a longer market.plausible.max_hole_days",
    ):
        rows = _without(rows, alone, inspection)
    return rows


def _one_spacing(rows: Rows, names: list[str | None], inspection: Inspection) -> None:
    """The most frequent distance decides; a stretch of another one is another file's, and no repair could choose."""
    for name, own in _series(rows, names):
        if (found := foreign_spacing(rows.timestamps[own])) is not None:
            at, usual, other = found
            raise fault(
                inspection.path,
                f"bars of {name} from {rows.timestamps[own[at]]} on are {other} apart, the others {usual}",
                "bars of one length in a file",
                line=int(inspection.lines[own[at]]),
                column="timestamp",
                place=inspection.place,
            )


def _open_hours(rows: Rows, names: list[str | None], settings: Settings, inspection: Inspection) -> Rows:
    """Flat bars without volume while the market is closed, by its hours or for a whole day, are no bars: they are left
    out, asked or not."""

    def shut(name: str, own: np.ndarray) -> np.ndarray:
        bars, row = rows.bars[own], settings.symbols[name]
        idle = (np.ptp(bars[:, :VOLUME], axis=1) == 0) & ~(bars[:, VOLUME] > 0)
        # What is traded on all seven days has no closed hours.
        if not idle.any() or row.triple_day is None:
            return np.zeros(len(own), dtype=bool)
        holiday = idle & (bars[:, VOLUME] == 0) & _whole_days(rows.timestamps[own], idle)
        idle[idle] = closed_hours(rows.timestamps[own[idle]], row.session.open, row.session.close)
        # A thin hour at the edge of a session is flat too: where the file has no volume, a stretch must say it.
        return holiday | (idle & ((bars[:, VOLUME] == 0) | in_runs(idle, _IDLE_RUN)))

    closed = _marked(rows, names, shut)
    if closed.any():
        inspection.repairs["closed_hours_masked"] = int(closed.sum())
        rows = _without(rows, closed, inspection)
    return rows


def _whole_days(timestamps: np.ndarray, idle: np.ndarray) -> np.ndarray:
    """bool (R,): every bar of the trading day is idle, and there are some: Christmas, New Year."""
    day = trading_day(timestamps, daily=False)
    _, at, count = np.unique(day, return_inverse=True, return_counts=True)
    return np.asarray(((np.bincount(at, weights=idle) == count) & (count >= _IDLE_RUN))[at])


def _paid_prices(rows: Rows, names: list[str | None], settings: Settings, inspection: Inspection) -> Rows:
    config = settings.market.plausible
    column = np.full(len(rows.timestamps), -1)
    for _, own in _series(rows, names):
        column[own] = impossible(rows.bars[own], config)
    bad = column >= 0

    def problem(row: int) -> str:
        near = rows.bars[max(row - 1, 0), CLOSE]
        return (
            f"{COLUMNS[column[row]]} {rows.bars[row, column[row]]:g} of {names[int(rows.codes[row])]} at "
            f"{rows.timestamps[row]} is impossible beside its neighbours (the close before is {near:g})"
        )

    if inspection.judge(
        bad,
        "impossible_bars_masked",
        lambda row: COLUMNS[column[row]],
        problem,
        "prices that somebody paid; or repair, which leaves such bars out (bounds: market.plausible)",
    ):
        rows = _without(rows, bad, inspection)
    return rows


def _one_level(rows: Rows, names: list[str | None], settings: Settings, inspection: Inspection) -> None:
    """Prices that go on at a multiple are of another scale or contract; leaving bars out would not help."""
    for name, own in _series(rows, names):
        if (found := level_change(rows.bars[own], settings.market.plausible)) is not None:
            at, factor = found
            raise fault(
                inspection.path,
                f"from {rows.timestamps[own[at]]} on prices of {name} are {factor:.4g} times those before",
                "prices of one scale and one contract (bounds: market.plausible)",
                line=int(inspection.lines[own[at]]),
                column="close",
                place=inspection.place,
            )
