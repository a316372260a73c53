"""When macro series were known: the join of dates to bars, and the dates themselves.

The join is put to the test with other values: what is published after the close of a bar must not change what the bar
knows. A file's own dates can lie too, and no join can know: averages of a month that are dated on its first day are
known a month early, and values filled backwards into holidays or before a series begins are known before they were.
Both show in the dates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtquant_rllib.audit.findings import Check, Leak, first_of_each
from mtquant_rllib.config.sections.evaluation import AuditConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.calendar import utc_time
from mtquant_rllib.market.importing import macro
from mtquant_rllib.market.importing.macro import MacroSeries

NO_FILE = "no macro file; the embedded market draws what is known at each bar"
_OTHER = 1.7
"""What values of later dates are multiplied by."""
_FIRST_DAYS = 3
"""A period's first business day is one of its first three days."""


def check_join(settings: Settings, market: MarketData, published: MacroSeries | None, rows: Sequence[int]) -> Check:
    """Does any bar know a value that is published after it? Known means: `lag_business_days` weekdays after its date,
    on intraday bars from `known_at` New York time on."""
    name = "macro, as it is joined"
    if published is None:
        return Check(name, "", 0, skipped=NO_FILE)
    config = settings.market.macro
    known_on = np.busday_offset(published.dates, config.lag_business_days, roll="backward")
    moments: np.ndarray
    if market.daily:
        known, moments = known_on, market.timestamps.astype("datetime64[D]")
    else:
        hour, minute = map(int, config.known_at.split(":"))
        known = utc_time(known_on.astype("datetime64[s]") + np.timedelta64(hour * 3600 + minute * 60, "s"))
        moments = market.timestamps
    before = macro.as_of(published, market.timestamps, market.daily, config)
    leaks = []
    for row in rows:
        values = np.where((known > moments[row])[:, None], published.values * _OTHER, published.values)
        others = MacroSeries(published.dates, values, published.columns)
        after = macro.as_of(others, market.timestamps, market.daily, config)
        differs = ~(
            (before[: row + 1] == after[: row + 1]) | (np.isnan(before[: row + 1]) & np.isnan(after[: row + 1]))
        )
        for k in np.flatnonzero(differs.any(axis=0)):
            first = int(np.argmax(differs[:, k]))
            how = f"it knows {before[first, k]:g}, which was published after bar {row} ({market.timestamps[row]})"
            leaks.append(Leak("macro", published.columns[k], first, str(market.timestamps[first]), how))
    compared = f"{len(published.columns)} series up to the bar, later dates holding other values"
    return Check(name, compared, len(rows), first_of_each(leaks, settings.evaluation.audit.max_reported_leaks))


def check_dates(settings: Settings, market: MarketData, published: MacroSeries | None) -> Check:
    """Are the dates of every series days on which its values could be known?"""
    name = "macro, as it is dated"
    if published is None:
        return Check(name, "", 0, skipped=NO_FILE)
    leaks: list[Leak] = []
    for k, series in enumerate(published.columns):
        there = np.isfinite(published.values[:, k])
        dates, values = published.dates[there], published.values[there, k]
        if len(dates) > 1:
            leaks += _dated_on_the_first(series, dates, values, market, settings)
            leaks += _filled_backwards(series, dates, values, market, settings)
    compared = f"dates of {len(published.columns)} series: averages dated on their first day, values filled backwards"
    return Check(name, compared, len(market), tuple(leaks))


def _dated_on_the_first(
    series: str, dates: np.ndarray, values: np.ndarray, market: MarketData, settings: Settings
) -> list[Leak]:
    """A value a month (a quarter, a year), on the first day: it is of the month that begins there."""
    config = settings.evaluation.audit
    steps = _changes(dates, values)
    if len(steps) < config.min_days or np.median(np.diff(steps).astype(int)) < config.period_days:
        return []
    day_of_month = (steps - steps.astype("datetime64[M]")).astype(int) + 1
    share = float((day_of_month <= _FIRST_DAYS).mean())
    if share < config.first_of_period_frac:
        return []
    row = int(np.searchsorted(market.timestamps.astype("datetime64[D]"), steps[1], side="right"))
    row = min(row, len(market) - 1)
    how = (
        f"it has a value every {np.median(np.diff(steps).astype(int)):.0f} days, {share:.0%} of them dated on the "
        f"first days of a month, and each is taken for known {settings.market.macro.lag_business_days} business "
        "day(s) later; an average of a period is known after its end: give every value the date of its publication"
    )
    return [Leak("macro", series, row, str(market.timestamps[row]), how)]


def _filled_backwards(
    series: str, dates: np.ndarray, values: np.ndarray, market: MarketData, settings: Settings
) -> list[Leak]:
    """Days without trading, and the time before the series begins, that hold the next value already."""
    config = settings.evaluation.audit
    leaks = _constant_beginning(series, dates, values, market, config)
    inside = np.arange(1, len(dates) - 1)
    closed = inside[_holidays(dates[inside], market)]
    from_before, from_after = values[closed] == values[closed - 1], values[closed] == values[closed + 1]
    telling = closed[from_before != from_after]
    from_after = values[telling] == values[telling + 1]
    if len(telling) >= config.min_days and from_after.mean() >= config.next_value_frac:
        at = telling[np.argmax(from_after)]
        row = int(np.searchsorted(market.timestamps.astype("datetime64[D]"), dates[at]))
        row = min(row, len(market) - 1)
        how = (
            f"on {int(from_after.sum())} of {len(telling)} days without trading it already has the next day's value, "
            f"the first {dates[at]}: filled backwards; leave such days empty"
        )
        leaks.append(Leak("macro", series, row, str(market.timestamps[row]), how))
    return leaks


def _constant_beginning(
    series: str, dates: np.ndarray, values: np.ndarray, market: MarketData, config: AuditConfig
) -> list[Leak]:
    """The first value stands still far longer than any other does."""
    runs = np.diff(np.concatenate(([0], np.flatnonzero(np.diff(values)) + 1, [len(values)])))
    longest_later = int(runs[1:].max(initial=0))
    if len(runs) < config.min_days or runs[0] <= max(config.min_days, 2 * longest_later):
        return []
    how = (
        f"its first value, {values[0]:g}, stands on {runs[0]} dates from {dates[0]} on and none later on more than "
        f"{longest_later}: filled backwards before the series began; leave those dates empty"
    )
    row = int(np.searchsorted(market.timestamps.astype("datetime64[D]"), dates[0]))
    row = min(row, len(market) - 1)
    return [Leak("macro", series, row, str(market.timestamps[row]), how)]


def _changes(dates: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Dates on which a series says something new: a value held over days is one."""
    return dates[np.concatenate(([True], np.diff(values) != 0))]


def _holidays(dates: np.ndarray, market: MarketData) -> np.ndarray:
    """bool (L,): weekdays within the market's span on which some instrument that trades most of them has no bar."""
    days = market.timestamps.astype("datetime64[D]")
    span = np.arange(days[0], days[-1] + 1)
    weekdays = span[np.is_busday(span)]
    closed = np.zeros(len(dates), dtype=bool)
    for i in range(len(market.symbols)):
        own = np.unique(days[market.valid[:, i]])
        if len(own) < 2:
            continue
        expected = weekdays[(weekdays >= own[0]) & (weekdays <= own[-1])]
        closed |= np.isin(dates, expected[~np.isin(expected, own)])
    return closed
