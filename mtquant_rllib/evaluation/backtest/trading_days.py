"""Bars of a record put together to trading days: what is said of a day is compared with a day.

The desk's VaR is of a day, and so are the limits that people know. On daily bars every bar is a day and nothing
changes; shorter bars are compounded from 17:00 to 17:00 New York.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.evaluation.backtest.record import Record


def bars_per_day(record: Record) -> float:
    """Bars of a trading day that has any; 1 for daily bars and for a record without any."""
    days = record.days
    n_days = sum(len(np.unique(own[played])) for own, played in zip(days, record.played, strict=True))
    return float(record.played.sum() / n_days) if n_days else 1.0


def by_day(record: Record, returns: np.ndarray) -> np.ndarray:
    """Returns of bars (B, T), NaN where not played, compounded to days: (B, J), NaN after a history's last day and on
    days without a bar."""
    days = record.days
    if _are_days(days, record.played):
        return returns
    return _padded([_compounded(own, days[env]) for env, own in enumerate(returns)])


def days_and_forecasts(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """(net returns of days, the VaR forecast with which each began), both (B, J).

    A first or last day with fewer bars than the usual one is cut short by the history and left out: its loss is none
    of a day.
    """
    days, returns, forecast = record.days, record.returns, record.var_forecast_frac
    if _are_days(days, record.played):
        return returns, forecast
    found, expected = [], []
    for env, played in enumerate(record.played):
        own_days, own_returns, own_forecast = days[env][played], returns[env][played], forecast[env][played]
        starts = _starts(own_days)
        lengths = np.diff(np.concatenate((starts, [len(own_days)])))
        whole = np.ones(len(starts), dtype=bool)
        for end in (0, -1) if len(starts) else ():
            whole[end] = lengths[end] >= np.median(lengths)
        found.append(np.where(whole, _compounded(own_returns, own_days), np.nan))
        expected.append(own_forecast[starts])
    return _padded(found), _padded(expected)


def _are_days(days: np.ndarray, played: np.ndarray) -> bool:
    """No environment has played two bars of one day."""
    return all(len(np.unique(own[at])) == at.sum() for own, at in zip(days, played, strict=True))


def _starts(days: np.ndarray) -> np.ndarray:
    """First bar of each day, (J,), of days (T,) in order."""
    return np.flatnonzero(np.concatenate(([True], days[1:] != days[:-1]))) if len(days) else np.zeros(0, dtype=int)


def _compounded(returns: np.ndarray, days: np.ndarray) -> np.ndarray:
    starts = _starts(days)
    if not len(starts):
        return np.zeros(0)
    known = np.isfinite(returns)
    growth = np.multiply.reduceat(np.where(known, 1 + np.where(known, returns, 0.0), 1.0), starts)
    return np.where(np.logical_or.reduceat(known, starts), growth - 1, np.nan)


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
