"""Which clock a file's timestamps are on, told by its weeks.

Foreign exchange, metals and index futures open on Sunday evening and close on Friday afternoon, New York time. Whoever
reads a server's clock for UTC sees weeks open and close hours away from that; the clock on which they do not is the
one that wrote the file. Two files of one market tell the same by the lag at which their returns agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.instruments import SessionConfig
from mtquant_rllib.config.sections.market import ClockConfig
from mtquant_rllib.market.alignment import BarSeries, usual_step_s
from mtquant_rllib.market.bars import CLOSE
from mtquant_rllib.market.calendar import local_time, weekday
from mtquant_rllib.market.timestamps import to_utc

_HOUR_S = 3600
_FRIDAY, _SUNDAY = 4, 6
# From a Friday's last bar to a Sunday's first; a holiday on either side makes it longer.
_WEEKEND_H = (40, 60)
_SLACK_S = 900
_SEASONS = {"winter": (12, 1, 2), "summer": (6, 7, 8)}


@dataclass(frozen=True)
class Weekends:
    """Last moments before weekends and first ones after, datetime64[s] (W,) each, on the clock of the file."""

    closings: np.ndarray
    openings: np.ndarray
    step_s: int

    @classmethod
    def of(cls, wall: np.ndarray) -> Weekends:
        """From timestamps datetime64[s] (R,) of one series in order; none for bars of more than four hours."""
        step_s = usual_step_s(wall)
        hours = np.diff(wall).astype(np.int64) / _HOUR_S
        at = np.flatnonzero((hours >= _WEEKEND_H[0]) & (hours <= _WEEKEND_H[1]) & (0 < step_s <= 4 * _HOUR_S))
        return cls(wall[at] + np.timedelta64(step_s, "s"), wall[at + 1], step_s)

    def fit(self, timezone: str, session: SessionConfig) -> tuple[float, float]:
        """Shares of openings and of closings that are the session's if the clock is that of `timezone`, 0..1 each."""
        opened = _seconds_after(self.openings, timezone, _SUNDAY, session.open)
        closed = _seconds_after(self.closings, timezone, _FRIDAY, session.close)
        # The first bar holds the opening, or begins soon after it; the last holds the close, or ends soon before.
        in_time = (opened > -self.step_s) & (opened <= _SLACK_S)
        on_time = (closed < self.step_s) & (closed >= -_SLACK_S)
        return float(in_time.mean()), float(on_time.mean())


def clock_doubt(wall: np.ndarray, timezone: str, session: SessionConfig, config: ClockConfig) -> str | None:
    """What is odd about taking the timestamps of one series for those of a clock; None if nothing is, or nobody can
    tell.

    Parameters
    ----------
    wall
        datetime64[s] (R,) as written, in order.
    timezone
        The clock that the timestamps were taken for.
    """
    weekends = Weekends.of(wall)
    n = len(weekends.openings)
    if n < config.min_weekends:
        return None
    shares = {zone: weekends.fit(zone, session) for zone in dict.fromkeys((timezone, *config.candidates))}
    fits = {zone: sum(pair) / 2 for zone, pair in shares.items()}
    own = fits.pop(timezone)
    best = max(fits, key=lambda zone: fits[zone])
    # Brokers that open with the market may close an hour before it, so that one of the two is enough.
    if max(shares[best]) < config.fits_frac or fits[best] < own + config.margin_frac:
        return None
    named = [zone for zone, fit in fits.items() if fit >= fits[best] - config.tie_frac]
    fitting, read_as = (f"{max(shares[zone]):.0%}" for zone in (best, timezone))
    return (
        f"its weeks open and close as on a clock of {' or '.join(named)} ({fitting} of {n} weekends), not of "
        f"{timezone} ({read_as}), which it was read as: name the clock (timezone), or --reference a file whose clock "
        "is known"
    )


@dataclass(frozen=True)
class Agreement:
    """How the returns of two series agree: at which lag best, and how well there and as they stand.

    lag_h: hours to add to the timestamps of the first; correlation and as_is in -1..1; bars: compared at the lag.
    """

    lag_h: int
    correlation: float
    as_is: float
    bars: int


def agreement(
    series: BarSeries, reference: BarSeries, config: ClockConfig, months: Sequence[int] = ()
) -> Agreement | None:
    """The lag of best agreement between hourly returns of two intraday series; None for fewer than `min_common` bars.

    months: of the year that count; none: all."""
    if months:
        month = series.timestamps.astype("datetime64[M]").astype(np.int64) % 12 + 1
        own = np.isin(month, months)
        timestamps, closes = series.timestamps[own], series.bars[own, CLOSE]
    else:
        timestamps, closes = series.timestamps, series.bars[:, CLOSE]
    found = {}
    for lag_h in range(-config.furthest_lag_h, config.furthest_lag_h + 1):
        moved = timestamps + np.timedelta64(lag_h, "h")
        common, mine, theirs = np.intersect1d(moved, reference.timestamps, return_indices=True)
        on_hour = common.astype(np.int64) % _HOUR_S == common[0].astype(np.int64) % _HOUR_S if len(common) else mine
        mine, theirs = mine[on_hour.astype(bool)], theirs[on_hour.astype(bool)]
        if len(mine) >= config.min_common:
            found[lag_h] = _correlation(closes[mine], reference.bars[theirs, CLOSE]), len(mine)
    if not found:
        return None
    lag_h = max(found, key=lambda lag: (found[lag][0], -abs(lag)))
    return Agreement(lag_h, found[lag_h][0], found.get(0, (float("nan"), 0))[0], found[lag_h][1])


def agreement_line(series: BarSeries, reference: BarSeries, config: ClockConfig) -> str:
    """What a comparison with a file whose clock is known says, in a sentence."""
    whole = agreement(series, reference, config)
    if whole is None:
        return f"{series.symbol}: fewer than {config.min_common} hours in common with {reference.source} at any lag"
    if whole.lag_h == 0:
        return f"{series.symbol}: agrees with {reference.source} as it stands (correlation {whole.correlation:.2f})"
    seasons = {name: agreement(series, reference, config, months) for name, months in _SEASONS.items()}
    lags_h = {name: one.lag_h for name, one in seasons.items() if one is not None}
    apart = (
        f"; {', '.join(f'{lag:+d} h in {name}' for name, lag in lags_h.items())}"
        if len(set(lags_h.values())) > 1
        else ""
    )
    return (
        f"{series.symbol}: agrees best with {reference.source} when its timestamps are moved by {whole.lag_h:+d} h "
        f"(correlation {whole.correlation:.2f}, {whole.as_is:.2f} as they stand{apart}): its clock is another"
    )


def _correlation(closes: np.ndarray, others: np.ndarray) -> float:
    moves, theirs = np.diff(closes), np.diff(others)
    if moves.std() == 0 or theirs.std() == 0:
        return 0.0
    return float(np.corrcoef(moves, theirs)[0, 1])


def _seconds_after(moments: np.ndarray, timezone: str, day: int, clock: str) -> np.ndarray:
    """int64 (W,): seconds from that weekday's clock time in New York to each moment, the nearest week's."""
    utc, _ = to_utc(moments, timezone, np.arange(len(moments)))
    local = local_time(utc)
    hour, minute = map(int, clock.split(":"))
    of_week = weekday(local) * 86_400 + (local - local.astype("datetime64[D]")).astype(np.int64)
    week = 7 * 86_400
    return (of_week - (day * 86_400 + hour * _HOUR_S + minute * 60) + week // 2) % week - week // 2
