"""The regimes of a history of bars: shares, durations, transitions a year, and any year or month on its own.

Bars count on which every instrument trades, from where the first window is full: the label of a bar stands for the
equal-weight return of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.regimes.figures import REGIME_NAMES, RegimeFigures, regime_figures
from mtquant_rllib.features.building import build_features
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.calendar import bars_per_year


@dataclass(frozen=True)
class MarketRegimes:
    """Figures of a history's labels, (k,) bars of timestamps datetime64[s], and the detector that gave them."""

    figures: RegimeFigures
    labels: np.ndarray
    timestamps: np.ndarray
    detector: str

    @property
    def bars_per_year(self) -> float:
        return bars_per_year(self.timestamps)

    @property
    def transitions_per_year(self) -> float:
        return self.figures.n_changes * self.bars_per_year / len(self.labels)

    def shares_in(self, period: str) -> np.ndarray:
        """Shares of the regimes in `2017` or `2020-03`, (R,).

        Raises
        ------
        ConfigError
            When it is neither a year nor a month, or the history has no bar in it.
        """
        if not re.fullmatch(r"\d{4}(-(0[1-9]|1[0-2]))?", period):
            raise ConfigError(f"period {period!r}: expected a year or a month, such as 2017 or 2020-03")
        inside = self.timestamps.astype("datetime64[Y]" if len(period) == 4 else "datetime64[M]") == np.datetime64(
            period
        )
        if not inside.any():
            raise ConfigError(f"period {period}: no bars; they reach from {self._day(0)} to {self._day(-1)}")
        return np.bincount(self.labels[inside], minlength=len(REGIME_NAMES)) / inside.sum()

    def years(self) -> list[str]:
        return [str(year) for year in np.unique(self.timestamps.astype("datetime64[Y]"))]

    def _day(self, row: int) -> str:
        return str(self.timestamps[row].astype("datetime64[D]"))

    def lines(self, periods: Sequence[str] = ()) -> Iterator[str]:
        figures, per_year = self.figures, self.bars_per_year
        yield (
            f"{len(self.labels):,} bars on which every instrument trades, {self._day(0)} to {self._day(-1)}, "
            f"{per_year:.0f} a year; detector: {self.detector}"
        )
        yield _row("", REGIME_NAMES)
        yield _row("share", [f"{share:.1%}" for share in figures.shares])
        yield _row("mean duration, bars", [f"{bars:.1f}" for bars in figures.mean_duration_bars])
        yield _row("segments", [f"{count}" for count in figures.spells])
        yield _row("mean confidence", [f"{value:.2f}" for value in figures.confidence])
        yield f"{figures.n_changes} transitions, {self.transitions_per_year:.1f} a year; from, to:"
        for name, counts in zip(REGIME_NAMES, figures.transitions, strict=True):
            yield _row(f"  {name}", [f"{count:,}" for count in counts])
        yield "shares by year:"
        for period in (*self.years(), *periods):
            yield _row(f"  {period}", [f"{share:.1%}" for share in self.shares_in(period)])
        yield "A label uses bars up to its own: it describes the market and does not predict it."

    def to_dict(self, periods: Sequence[str] = ()) -> dict[str, Any]:
        def by_regime(values: np.ndarray) -> dict[str, float | None]:
            return {name: float(v) if np.isfinite(v) else None for name, v in zip(REGIME_NAMES, values, strict=True)}

        figures = self.figures
        return {
            "detector": self.detector,
            "first": self._day(0),
            "last": self._day(-1),
            "bars": len(self.labels),
            "bars_per_year": self.bars_per_year,
            "shares": by_regime(figures.shares),
            "mean_duration_bars": by_regime(figures.mean_duration_bars),
            "mean_confidence": by_regime(figures.confidence),
            "transitions": {
                name: dict(zip(REGIME_NAMES, row.tolist(), strict=True))
                for name, row in zip(REGIME_NAMES, figures.transitions, strict=True)
            },
            "transitions_per_year": self.transitions_per_year,
            "periods": {period: by_regime(self.shares_in(period)) for period in (*self.years(), *periods)},
        }


def market_regimes(settings: Settings, market: MarketData) -> MarketRegimes:
    """Label a history as the desk sees it.

    Raises
    ------
    MarketDataError
        When the history is too short for its features.
    """
    config = settings.features.regimes
    table = build_features(settings, [market], None)
    common = np.flatnonzero(market.valid.all(axis=1))[config.window_bars :]
    labels = np.asarray(table.regime)[common]
    return MarketRegimes(
        figures=regime_figures(labels, np.asarray(table.regime_confidence)[common]),
        labels=labels,
        timestamps=market.timestamps[common],
        detector=f"{config.detector}, window {config.window_bars}",
    )


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:<22}" + "".join(f"{cell:>10}" for cell in cells)
