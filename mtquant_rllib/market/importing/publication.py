"""When a macro value was published, which is not the date that it bears.

A value of a day is out on the next business day. An average or a count of a week, a month or a quarter bears the date
of its period, usually the first day, and is published after its last: whoever takes that date for the day of knowledge
trades on the month to come. So a series that comes less often than daily needs the days from its dates to their
publication (`market.macro.published`); without them it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtquant_rllib.config.sections.market import MacroConfig, PublishedConfig
from mtquant_rllib.market.aliases import plain
from mtquant_rllib.market.spacing import in_runs

_SELDOM_DAYS = 5
"""From this distance on neighbours are no business days with a long weekend between them."""
_SELDOM_RUN = 3
"""So many such distances in a row are a frequency and not a hole."""
_SELDOM_ALONE_DAYS = 25
"""Fewer distances than that are a frequency if all of them are this long."""
_FREQUENCIES = {7: "week", 30: "month", 91: "quarter", 182: "half-year", 365: "year"}


def published_config(names: Sequence[str], config: MacroConfig) -> PublishedConfig | None:
    """What is known of a series' publication, by the first of its names (its own, its header's, its file's) that
    `macro.published` knows."""
    by_plain = {plain(name): row for name, row in config.published.items()}
    return next((by_plain[plain(name)] for name in names if plain(name) in by_plain), None)


def period_of(dates: np.ndarray, values: np.ndarray) -> str | None:
    """ "month", say, of a series that comes less often than daily, all of it or a stretch, or a daily one that repeats
    such a series; None for a daily one.

    Parameters
    ----------
    dates
        datetime64[D] (L,), strictly increasing.
    values
        float64 (L,), NaN where the series has none.
    """
    own = dates[np.isfinite(values)]
    days = np.diff(own).astype(np.int64)
    seldom = in_runs(days >= _SELDOM_DAYS, _SELDOM_RUN)
    if seldom.any():
        return _name(float(np.median(days[seldom])))
    if 0 < len(days) < _SELDOM_RUN and days.min() >= _SELDOM_ALONE_DAYS:
        return _name(float(np.median(days)))
    return "month" if _steps_monthly(own, values[np.isfinite(values)]) else None


def _name(days: float) -> str:
    nearest = min(_FREQUENCIES, key=lambda usual: abs(np.log(days / usual)))
    return _FREQUENCIES[nearest] if 0.7 < days / nearest < 1.4 else f"{days:.0f} days"


def _steps_monthly(dates: np.ndarray, values: np.ndarray) -> bool:
    """Daily rows that carry a month's value: nearly every month, and at its first row alone, there is another."""
    month = dates.astype("datetime64[M]")
    begins = np.concatenate(([False], month[1:] != month[:-1]))
    changes = np.concatenate(([False], values[1:] != values[:-1]))
    n_months, n_changes = int(begins.sum()), int(changes.sum())
    if n_months < _SELDOM_RUN or n_changes < n_months / 2 or len(dates) < 10 * n_months:
        return False
    return bool((changes & begins).sum() >= 0.95 * n_changes)


def known_on(dates: np.ndarray, lag_business_days: int, lag_days: int) -> np.ndarray:
    """datetime64[D] (L,): the first day on which a value of each date is known: so many weekdays after it, and not
    before so many calendar days, on a weekday."""
    usual = np.busday_offset(dates, lag_business_days, roll="backward")
    if not lag_days:
        return usual
    return np.maximum(usual, np.busday_offset(dates + np.timedelta64(lag_days, "D"), 0, roll="forward"))
