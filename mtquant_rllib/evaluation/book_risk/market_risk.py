"""What the risk rules know of a market at a day's close: covariance, correlation, and the daily returns before it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.prepared.rows import MarketRows
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.features.moments import Days
from mtquant_rllib.market.bars import CLOSE, MarketData
from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.repair.packed import PackedIndex


@dataclass(frozen=True)
class MarketRisk:
    """timestamp: of the close. covariance: of daily simple returns, and correlation, of bars, both (n, n), as the rules
    see them there. days, returns: trading days up to the close on which every instrument was traded, (S,), and their
    simple returns, (S, n). past: what a historical VaR rule knows there, None where the rule's is another."""

    timestamp: np.datetime64
    covariance: np.ndarray
    correlation: np.ndarray
    days: np.ndarray
    returns: np.ndarray
    past: PastReturns | None = None

    def between(self, first: dt.date, last: dt.date) -> tuple[np.ndarray, np.ndarray]:
        """Days and returns from one day to another, both included."""
        inside = (self.days >= np.datetime64(first)) & (self.days <= np.datetime64(last))
        return self.days[inside], self.returns[inside]


def load_market_risk(settings: Settings, bars: Path, macro: Path | None, at: dt.date | None) -> MarketRisk:
    """From files. at: the last day that is known; None for the last of the file.

    Raises
    ------
    MarketDataError
        When the files cannot be used, or too little is known on that day.
    """
    from mtquant_rllib.market.importing.importers import load_market

    market, _ = load_market(settings, bars, macro)
    return market_risk(settings, market, at)


def market_risk(settings: Settings, market: MarketData, at: dt.date | None = None) -> MarketRisk:
    """Of one history; parameters and errors as of `load_market_risk`."""
    if at is not None:
        stop = int(np.searchsorted(market.timestamps, np.datetime64(at) + 1, side="left"))
        if not stop:
            raise MarketDataError(f"--at {at}: the bars begin on {market.timestamps[0].astype('datetime64[D]')}")
        market = market.rows(0, stop)
    # The rules read no book of the reference policy.
    settings = settings_with(settings, {"reference.where": "never"})
    data = DeskData.of(settings, [market])
    last, ready = len(market) - 1, max(data.features.warm_from)
    if last < ready:
        raise MarketDataError(
            f"{len(market):,} bars to {market.timestamps[-1].astype('datetime64[D]')}: covariances of all instruments "
            f"are known after {ready:,}; name a later day, or fewer instruments by market.instruments"
        )
    index = PackedIndex(len(market.symbols))
    correlation = index.hollow_matrices(np.asarray(data.features.correlation[last], dtype=np.float64))
    days, returns = daily_returns(market)
    return MarketRisk(
        timestamp=market.timestamps[last],
        covariance=index.matrices(np.asarray(data.features.covariance[last])),
        correlation=correlation + np.eye(index.n),
        days=days,
        returns=returns,
        past=MarketRows(data.execution, data.features).at(np.array([last])).past,
    )


def daily_returns(market: MarketData) -> tuple[np.ndarray, np.ndarray]:
    """Days on which every instrument was traded (S,), and simple returns from one to the next, (S, n); a price at or
    below zero makes a return of the size of the change over the price before it."""
    days = Days.of(market.timestamps, market.daily)
    common = days.traded(market.valid).all(axis=-1)
    closes = _last_good(market)[days.last][common]
    names = market.timestamps[days.last][common].astype("datetime64[D]")
    before = closes[:-1]
    known = np.isfinite(before) & (before != 0)
    change = np.divide(np.diff(closes, axis=0), np.abs(before), out=np.zeros_like(before), where=known)
    return names[1:], np.nan_to_num(change)


def _last_good(market: MarketData) -> np.ndarray:
    """Closes (T, n) in which a missing bar repeats the last one."""
    closes = market.bars[:, :, CLOSE]
    rows = np.where(market.valid, np.arange(len(closes))[:, None], 0)
    np.maximum.accumulate(rows, axis=0, out=rows)
    return np.take_along_axis(closes, rows, axis=0)
