"""Intraday bars that carry a whole day's volume: known at the day's first hour, and made of hours to come.

Some exports put the day's volume (and range) on its first bar. Such a bar has about as much volume as all the others of
its day together, day after day, which no hour of real trading has.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.audit.findings import Check, Leak
from mtquant_rllib.config.sections.evaluation import AuditConfig
from mtquant_rllib.market.bars import VOLUME, MarketData
from mtquant_rllib.market.calendar import trading_day

NAME = "a day's volume on one bar"


def check_day_volume(market: MarketData, config: AuditConfig) -> Check:
    """Compare each bar's volume with that of the other bars of its day, clock hour by clock hour."""
    if market.daily:
        return Check(NAME, "", 0, skipped="daily bars")
    leaks = [leak for i in range(len(market.symbols)) for leak in _of_instrument(market, i, config)]
    traded = market.valid & (market.bars[..., VOLUME] > 0)
    compared = f"volume of each bar and of the others of its day, {int(traded.any(axis=0).sum())} instruments"
    return Check(NAME, compared, int(traded.sum()), tuple(leaks))


def _of_instrument(market: MarketData, i: int, config: AuditConfig) -> list[Leak]:
    """At most one: of the clock hour at which it shows most. Trading days and UTC days are both looked at, because
    exports begin theirs at either."""
    volume = market.bars[:, i, VOLUME]
    rows = np.flatnonzero(market.valid[:, i] & (volume > 0))
    if not len(rows):
        return []
    timestamps = market.timestamps[rows]
    clock = (timestamps - timestamps.astype("datetime64[D]")).astype(int)
    best: tuple[float, int, int] | None = None
    for days in (trading_day(market.timestamps, market.daily)[rows], timestamps.astype("datetime64[D]").astype(int)):
        _, day = np.unique(days, return_inverse=True)
        total, count = np.bincount(day, volume[rows]), np.bincount(day)
        others = total[day] - volume[rows]
        usable = (count[day] >= config.min_day_bars) & (others > 0)
        for hour in np.unique(clock):
            at = usable & (clock == hour)
            if at.sum() < config.min_days:
                continue
            ratio = float(np.median(volume[rows][at] / others[at]))
            if ratio >= config.day_volume_frac and (best is None or ratio > best[0]):
                best = ratio, int(rows[np.argmax(at)]), int(at.sum())
    if best is None:
        return []
    ratio, row, n_days = best
    how = (
        f"the bar of this hour has {ratio:.2f} times the volume of all others of its day, in the median of {n_days} "
        "days: it carries the day's volume; drop these volumes, or take hourly ones"
    )
    return [Leak("volume", market.symbols[i], row, str(market.timestamps[row]), how)]
