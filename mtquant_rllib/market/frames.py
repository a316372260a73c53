"""Bars and macro series that are in memory already, as pandas frames: `MarketData` without a file.

Files pass the importer, which repairs and explains; a frame is taken as it is, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.alignment import BarSeries, align
from mtquant_rllib.market.bars import CLOSE, COLUMNS, HIGH, LOW, OPEN, VOLUME, MarketData
from mtquant_rllib.market.importing.macro import MacroSeries, as_of
from mtquant_rllib.market.importing.publication import period_of, published_config


def market_of_frames(
    settings: Settings, bars: Mapping[str, pd.DataFrame] | pd.DataFrame, macro: pd.DataFrame | None = None
) -> MarketData:
    """Aligned bars of the settings' instruments.

    Parameters
    ----------
    bars
        By symbol: a frame with columns open, high, low, close, volume, indexed by UTC timestamp or date, increasing.
        Or one frame of all with columns `timestamp` and `symbol` besides, as `mtquant data import` writes it.
    macro
        Columns by name (`market.macro.columns`), indexed by the date that a value is about, or with a column
        `timestamp` of it. When it is known follows
        from `market.macro`, as for files. Without it the columns are NaN.

    Raises
    ------
    MarketDataError
        When an instrument or a column is missing, or a bar is none.
    """
    if isinstance(bars, pd.DataFrame):
        if missing := [name for name in ("timestamp", "symbol") if name not in bars]:
            raise MarketDataError(f"bars: no column {', '.join(missing)}; expected timestamp, symbol, {_LIST}")
        bars = {str(symbol): own.set_index("timestamp") for symbol, own in bars.groupby("symbol", sort=False)}
    symbols = settings.universe.symbols
    permitted = settings.market.allow_missing
    if absent := [symbol for symbol in symbols if symbol not in bars and symbol not in permitted]:
        raise MarketDataError(f"bars: no frame of {', '.join(absent)}; expected one of each of {', '.join(symbols)}")
    clocks = {symbol: _moments(symbol, bars[symbol].index) for symbol in symbols if symbol in bars}
    daily = all((moments == moments.astype("datetime64[D]")).all() for moments in clocks.values())
    market = align([_series(symbol, bars[symbol], clocks[symbol], daily) for symbol in clocks], settings, symbols)
    columns = settings.market.macro.columns
    if macro is None:
        return replace(market, macro=np.full((len(market), len(columns)), np.nan), macro_columns=tuple(columns))
    macro = macro.set_index("timestamp") if "timestamp" in macro else macro
    dates = _moments("macro", macro.index).astype("datetime64[D]")
    values, names = macro.to_numpy(dtype=np.float64), tuple(map(str, macro.columns))
    lags = tuple(_lag_days(settings, name, dates, column) for name, column in zip(names, values.T))
    series = MacroSeries(dates, values, names, lags)
    known = as_of(series, market.timestamps, market.daily, settings.market.macro)
    return replace(market, macro=known, macro_columns=series.columns)


_LIST = ", ".join(COLUMNS)


def _lag_days(settings: Settings, name: str, dates: np.ndarray, values: np.ndarray) -> int:
    """Calendar days from the dates of a series to their publication; 0 for a daily one."""
    published, period = published_config((name,), settings.market.macro), period_of(dates, values)
    if published is None and period is not None:
        raise MarketDataError(
            f"macro: {name} has a value every {period}, and nothing says when it was published; expected daily values, "
            f"or market.macro.published.{name}.lag_days"
        )
    return 0 if published is None else published.lag_days


def _moments(what: str, index: pd.Index) -> np.ndarray:
    """UTC datetime64[s], strictly increasing."""
    stamps = pd.DatetimeIndex(index)
    if stamps.tz is not None:
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    moments = stamps.to_numpy().astype("datetime64[s]")
    if np.isnat(moments).any() or (np.diff(moments) <= np.timedelta64(0, "s")).any():
        raise MarketDataError(f"{what}: its timestamps are not strictly increasing; expected each once, in order")
    return moments


def _series(symbol: str, frame: pd.DataFrame, moments: np.ndarray, daily: bool) -> BarSeries:
    if missing := [name for name in COLUMNS if name not in frame]:
        raise MarketDataError(f"{symbol}: no column {', '.join(missing)}; expected {_LIST}")
    bars = frame[list(COLUMNS)].to_numpy(dtype=np.float64)
    for row in np.flatnonzero(~is_bar(bars)):
        raise MarketDataError(f"{symbol}: {moments[row]}: {bar_fault(bars[row])}")
    return BarSeries(symbol, moments, bars, daily, "frame")


def is_bar(bars: np.ndarray) -> np.ndarray:
    """bool (...): prices (..., 5) are finite, the high is the highest and the low the lowest; volume is NaN or not
    negative."""
    prices = bars[..., :VOLUME]
    ordered = (bars[..., HIGH] >= prices.max(axis=-1)) & (bars[..., LOW] <= prices.min(axis=-1))
    return np.isfinite(prices).all(axis=-1) & ordered & ~(bars[..., VOLUME] < 0) & ~np.isinf(bars[..., VOLUME])


def bar_fault(bar: np.ndarray) -> str:
    """What is wrong with a bar (5,) that is none, and what is expected."""
    opened, high, low, close, volume = bar[OPEN], bar[HIGH], bar[LOW], bar[CLOSE], bar[VOLUME]
    return (
        f"open {opened:g}, high {high:g}, low {low:g}, close {close:g}, volume {volume:g}: expected finite prices with "
        "low <= open, close <= high, and a volume that is not negative"
    )
