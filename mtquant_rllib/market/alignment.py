"""From one series per instrument to one axis for all: the union of their timestamps, with a mask instead of filling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.bars import VOLUME, MarketData
from mtquant_rllib.market.spacing import usual_step_s


@dataclass(frozen=True)
class BarSeries:
    """Bars of one instrument.

    Attributes
    ----------
    timestamps
        datetime64[s] (R,), UTC, strictly increasing: dates if `daily`, else the moment of the open.
    bars
        float64 (R, 5): open, high, low, close, volume; only volume may be NaN.
    source
        Where it came from, for messages.
    """

    symbol: str
    timestamps: np.ndarray
    bars: np.ndarray
    daily: bool
    source: str

    def __len__(self) -> int:
        return len(self.timestamps)


def align(series: Sequence[BarSeries], settings: Settings, symbols: Sequence[str] | None = None) -> MarketData:
    """Put series on the union of their timestamps. Macro is left out (zero columns).

    Parameters
    ----------
    symbols
        The instrument axis; default: the series at hand, in universe order. A symbol without a series is masked
        throughout.

    Raises
    ------
    MarketDataError
        If there is no series, if daily and intraday series meet, or if bar lengths differ.
    """
    by_symbol = {one.symbol: one for one in series}
    if symbols is None:
        symbols = [s for s in settings.universe.symbols if s in by_symbol] + [
            s for s in by_symbol if s not in settings.universe.symbols
        ]
    present = [by_symbol[s] for s in symbols if s in by_symbol]
    if not present:
        raise MarketDataError(f"no bars of {', '.join(symbols) or 'any instrument'}; accepted: bars of at least one")
    _refuse_mixtures(present)
    timestamps = np.unique(np.concatenate([one.timestamps for one in present]))
    bars = np.full((len(timestamps), len(symbols), 5), np.nan)
    valid = np.zeros((len(timestamps), len(symbols)), dtype=bool)
    volume_proxy = np.zeros(len(symbols), dtype=bool)
    daily = present[0].daily
    for i, symbol in enumerate(symbols):
        row = settings.symbols.get(symbol)
        volume_proxy[i] = row is not None and row.volume_proxy
        if symbol not in by_symbol:
            continue
        at = np.searchsorted(timestamps, by_symbol[symbol].timestamps)
        bars[at, i] = by_symbol[symbol].bars
        valid[at, i] = True
        # A series without a single traded unit has no volume to speak of, whatever its row says.
        volume_proxy[i] |= not np.any(by_symbol[symbol].bars[:, VOLUME] > 0)
    stale_open = opens_are_stale(settings, symbols, timestamps[:, None], daily) & valid
    return MarketData(
        symbols=tuple(symbols),
        timestamps=timestamps,
        bars=bars,
        valid=valid,
        macro=np.empty((len(timestamps), 0)),
        macro_columns=(),
        stale_open=stale_open,
        volume_proxy=volume_proxy,
        daily=daily,
    )


def opens_are_stale(
    settings: Settings, symbols: Sequence[str], timestamps: np.ndarray | np.datetime64, daily: bool
) -> np.ndarray:
    """Which opens are not tradable, bool (..., n), of bars with timestamps (..., 1) or one timestamp: those of daily
    bars up to `stale_opens_until`."""
    rows = [settings.symbols.get(symbol) for symbol in symbols]
    until = [None if row is None or not daily else row.stale_opens_until for row in rows]
    last = np.array([np.datetime64("NaT") if day is None else np.datetime64(day) for day in until], "datetime64[D]")
    return np.asarray(np.asarray(timestamps).astype("datetime64[D]") <= last)


def _refuse_mixtures(series: Sequence[BarSeries]) -> None:
    first = series[0]
    for other in series[1:]:
        if other.daily != first.daily:
            words = {True: "daily", False: "intraday"}
            raise MarketDataError(
                f"{other.source}: {other.symbol} is {words[other.daily]} where {first.symbol} ({first.source}) is "
                f"{words[first.daily]}; accepted: bars of one length for all instruments"
            )
    lengths = {one.symbol: usual_step_s(one.timestamps) for one in series if len(one) > 1}
    if not first.daily and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{symbol} {seconds // 60} min" for symbol, seconds in lengths.items())
        raise MarketDataError(f"bar lengths differ ({listed}); accepted: bars of one length for all instruments")
