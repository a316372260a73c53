"""`BarHistory`: bars as they come, and the features of the last close computed from all of them.

A close is computed by the code that prepares a market for training, on the bars that are there; so the rows are those
that a preparation of the whole history has, to the last bit: no feature reads a later bar. The whole history is read at
every close, a third of a second for twenty years of daily bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.features.building import build_features
from mtquant_rllib.market.alignment import opens_are_stale
from mtquant_rllib.market.bars import COLUMNS, MarketData
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.serving.closes import Market, TwoCloses

if TYPE_CHECKING:
    import pandas as pd


class BarHistory:
    """A market that grows by one bar at a time.

    Parameters
    ----------
    settings
        Of the policies that decide on it.
    market
        Bars up to and including the last close, a year of them at least.
    keep_bars
        Read the last so many bars alone, so that a close takes a time that does not grow. Features whose windows reach
        further back then differ slightly from those of the whole history. None: read all.
    """

    def __init__(self, settings: Settings, market: MarketData, *, keep_bars: int | None = None) -> None:
        if market.symbols != settings.universe.symbols:
            raise MarketDataError(
                f"the bars are of {', '.join(market.symbols)}; these policies trade "
                f"{', '.join(settings.universe.symbols)}"
            )
        if keep_bars is not None and keep_bars < 2:
            raise MarketDataError(f"keep_bars = {keep_bars}: expected 2 or more, or None for all")
        self.settings, self.keep_bars = settings, keep_bars
        self.market = market
        self._closes: TwoCloses | None = None

    @classmethod
    def from_files(
        cls,
        settings: Settings,
        bars: Path | str | Sequence[Path | str],
        macro: Path | str | Sequence[Path | str] | None = None,
        *,
        keep_bars: int | None = None,
    ) -> BarHistory:
        """Of files, as `mtquant train --market` reads them. Raises MarketDataError for a fault in one."""
        from mtquant_rllib.market.importing.importers import load_market

        return cls(settings, load_market(settings, bars, macro)[0], keep_bars=keep_bars)

    @classmethod
    def from_frames(
        cls,
        settings: Settings,
        bars: Mapping[str, pd.DataFrame] | pd.DataFrame,
        macro: pd.DataFrame | None = None,
        *,
        keep_bars: int | None = None,
    ) -> BarHistory:
        """Of pandas frames; see `market.frames.market_of_frames`."""
        from mtquant_rllib.market.frames import market_of_frames

        return cls(settings, market_of_frames(settings, bars, macro), keep_bars=keep_bars)

    def __len__(self) -> int:
        return len(self.market)

    @property
    def closed_at(self) -> np.datetime64:
        """Timestamp of the last bar, datetime64[s]."""
        return np.datetime64(self.market.timestamps[-1], "s")

    def append(
        self,
        timestamp: str | np.datetime64,
        bars: Mapping[str, Sequence[float]],
        macro: Mapping[str, float] | None = None,
    ) -> None:
        """Add the bar that has just closed.

        Parameters
        ----------
        timestamp
            Its label, UTC: of a daily bar its date, of a shorter one the moment of its open. Later than the last.
        bars
            By symbol: open, high, low, close, volume. Instruments that are left out have no bar.
        macro
            Values that have become known by this close, by column; the others stand.

        Raises
        ------
        MarketDataError
            When the bar is not later than the last, or is none. Nothing has changed then.
        """
        market, moment = self.market, _moment(timestamp)
        if np.isnat(moment) or not moment > market.timestamps[-1]:
            raise MarketDataError(f"the bar of {moment}: expected one later than {market.timestamps[-1]}")
        if market.daily and moment != moment.astype("datetime64[D]"):
            raise MarketDataError(f"the bar of {moment}: these bars are daily; expected a date")
        row, valid = self._row(moment, bars)
        known = self._known(macro or {})
        stale = opens_are_stale(self.settings, market.symbols, moment, market.daily) & valid
        self.market = replace(
            market,
            timestamps=np.append(market.timestamps, moment.astype(market.timestamps.dtype)),
            bars=np.concatenate((market.bars, row[None])),
            valid=np.concatenate((market.valid, valid[None])),
            macro=np.concatenate((market.macro, known[None])),
            stale_open=np.concatenate((market.stale_open, stale[None])),
        )
        self._closes = None

    def _row(self, moment: np.datetime64, bars: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
        """Bars (n, 5), and which instruments have one, (n,)."""
        from mtquant_rllib.market.frames import bar_fault, is_bar

        symbols = self.market.symbols
        if unknown := [symbol for symbol in bars if symbol not in symbols]:
            raise MarketDataError(
                f"the bar of {moment}: no instrument {', '.join(unknown)}; expected some of {', '.join(symbols)}"
            )
        if not bars:
            raise MarketDataError(f"the bar of {moment}: no instrument has one; expected some of {', '.join(symbols)}")
        row = np.full((len(symbols), len(COLUMNS)), np.nan)
        for symbol, values in bars.items():
            own = np.asarray(values, dtype=np.float64)
            if own.shape != (len(COLUMNS),):
                raise MarketDataError(
                    f"the bar of {moment}: {symbol} has {own.size} values; expected {len(COLUMNS)}: "
                    f"{', '.join(COLUMNS)}"
                )
            instrument = self.settings.symbols[symbol]
            if not is_bar(own):
                raise MarketDataError(f"the bar of {moment}: {symbol}: {bar_fault(own)}")
            if not instrument.allow_non_positive and (own[:-1] <= 0).any():
                raise MarketDataError(f"the bar of {moment}: {symbol}: {bar_fault(own)}, above 0")
            row[symbols.index(symbol)] = own
        return row, np.isfinite(row[:, 0])

    def _known(self, macro: Mapping[str, float]) -> np.ndarray:
        """Macro values at the new close, (M,)."""
        known, columns = self.market.macro[-1].copy(), self.market.macro_columns
        for name, value in macro.items():
            if name not in columns:
                raise MarketDataError(f"macro: no series {name}; expected some of {', '.join(columns) or 'none'}")
            if not np.isfinite(value):
                raise MarketDataError(f"macro.{name} = {value}: expected a finite number")
            known[columns.index(name)] = value
        return known

    def closes(self) -> TwoCloses:
        """The close just seen and the one before.

        Raises
        ------
        MarketDataError
            When there are too few bars for every feature to be known.
        """
        if self._closes is None:
            first = 0 if self.keep_bars is None else max(len(self.market) - self.keep_bars, 0)
            market = self.market.rows(first, len(self.market))
            features = build_features(self.settings, [market], None)
            last = len(market) - 1
            if last - 1 < features.warmup:
                raise MarketDataError(
                    f"{len(market)} bars: features are known from bar {features.warmup + 1} on, and a decision needs "
                    "them at two closes; expected a longer history"
                )
            execution = ExecutionData.build(self.settings, [market]).traded_from(features.warm_from)
            self._closes = TwoCloses.of(self.settings, execution, features, last)
        return self._closes


def _moment(timestamp: str | np.datetime64) -> np.datetime64:
    """datetime64[s], from text that may end in Z."""
    try:
        return np.datetime64(str(timestamp).removesuffix("Z"), "s")
    except ValueError:
        raise MarketDataError(
            f"the bar of {timestamp}: expected a date such as 2023-01-02 or a moment, 2023-01-02T15:00"
        ) from None


def closes_of(market: Market | MarketData | Mapping[str, pd.DataFrame] | pd.DataFrame, settings: Settings) -> TwoCloses:
    """The last two closes of whatever bars a decision is asked for on.

    market: what shows closes itself, bars that were read (`market.importing.importers.load_market`), or frames as of
    `BarHistory.from_frames`.
    """
    if isinstance(market, MarketData):
        return BarHistory(settings, market).closes()
    show = getattr(market, "closes", None)
    if callable(show):
        shown: TwoCloses = show()
        return shown
    frames = cast("Mapping[str, pd.DataFrame] | pd.DataFrame", market)
    return BarHistory.from_frames(settings, frames).closes()
