"""What the embedded synthetic market is drawn from (`configs/synthetic.yaml`)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from mtquant_rllib.config.base import (
    NUMBER,
    Amount,
    Correlation,
    Date,
    Fraction,
    NonNegative,
    Positive,
    RatePct,
    Section,
    Share,
    ShareBelowOne,
    Sharpe,
    Window,
)

REGIMES = ("bull", "bear", "volatile", "sideways")
"""Names of the market's states, in the order of every regime axis."""

Drift = Annotated[float, Field(ge=-1000, le=1000), NUMBER]
Volatility = Annotated[float, Field(gt=0, le=200), NUMBER]
Tail = Annotated[float, Field(gt=2, le=1e6, description="a variance exists only above two degrees of freedom"), NUMBER]


class SyntheticInstrument(Section):
    """One instrument's law. Four numbers: one per regime, in the order of `REGIMES`."""

    start_price: Amount
    volume: Amount
    drift_pct: tuple[Drift, Drift, Drift, Drift]
    volatility_pct: tuple[Volatility, Volatility, Volatility, Volatility]
    tail_df: tuple[Tail, Tail, Tail, Tail]
    garch_alpha: ShareBelowOne
    gap_share: ShareBelowOne


class SyntheticVolatility(Section):
    persistence: ShareBelowOne
    trailing_span_bars: Window
    tail_cut: Fraction
    largest_news_sd: Positive
    largest_move_frac: Annotated[float, Field(gt=0, lt=0.5), NUMBER]


class MomentumStructure(Section):
    """Mean `strength * sigma * q * m / rms(q m)`, m the return of `window_bars` in deviations, q = tanh(slope *
    (|trend| - pivot)), trend the return of `trend_bars` in deviations. With strength 0 it is not there."""

    strength: NonNegative
    window_bars: Window
    trend_bars: Window
    slope: Positive
    pivot: NonNegative


class OracleTable(Section):
    """oracle_sharpe: net Sharpe ratio that an oracle is to earn; strength_of_sharpe: the strength of the planted part
    at which it does, measured by replaying it."""

    oracle_sharpe: Annotated[float, Field(ge=0, le=100), NUMBER]
    strength_of_sharpe: dict[Sharpe, Positive]

    @property
    def strength(self) -> float:
        """The strength at which the oracle earns `oracle_sharpe`, linear between the rows of the table."""
        knots = [(0.0, 0.0), *sorted(self.strength_of_sharpe.items())]
        for (low, at_low), (high, at_high) in pairwise(knots):
            if self.oracle_sharpe <= high:
                return at_low + (at_high - at_low) * (self.oracle_sharpe - low) / (high - low)
        raise AssertionError("checked when the settings were read")

    @model_validator(mode="after")
    def _sharpe_is_in_the_table(self) -> OracleTable:
        best = max(self.strength_of_sharpe, default=0.0)
        if self.oracle_sharpe > best:
            raise ValueError(
                f"oracle_sharpe {self.oracle_sharpe:g} lies beyond strength_of_sharpe: its last is {best:g}"
            )
        return self


class PlantedStructure(OracleTable):
    half_life_bars: Positive
    proxy_loading: Fraction
    momentum: MomentumStructure


class OracleConfig(Section):
    """How the desk's oracle turns the planted mean into actions.

    slope
        Conviction per standard deviation of the forecast.
    urgency
        Share of the gap to the target traded each bar.
    """

    slope: Positive
    urgency: Fraction


class SyntheticVolume(Section):
    memory: ShareBelowOne
    memory_span_bars: Window
    noise: NonNegative
    move_loading: NonNegative
    proxy_loading: NonNegative


class SyntheticVix(Section):
    """ln VIX is an AR(1); `regime_loading` is how far it follows the log volatility of `index`'s regime."""

    mean: Amount
    deviation: Positive
    persistence: ShareBelowOne
    correlation: Correlation
    index: str
    regime_loading: NonNegative
    bounds: tuple[Positive, Positive]

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> SyntheticVix:
        if self.bounds[0] >= self.bounds[1]:
            raise ValueError(f"bounds {self.bounds[0]:g} to {self.bounds[1]:g}: expected the lower one first")
        return self


class SyntheticDxy(Section):
    start: Amount
    volatility_pct: Volatility
    correlation: Correlation
    currency: str


class SyntheticRates(Section):
    names: tuple[str, str, str]
    mean_pct: tuple[RatePct, RatePct, RatePct]
    deviation_bp: NonNegative
    reversion: Fraction
    floor_pct: RatePct
    correlations: tuple[Correlation, Correlation, Correlation]


class SyntheticMacro(Section):
    vix: SyntheticVix
    dxy: SyntheticDxy
    rates: SyntheticRates

    @property
    def columns(self) -> tuple[str, ...]:
        return ("vix", "dxy", *self.rates.names)


class SyntheticConfig(Section):
    start: Date
    instruments: dict[str, SyntheticInstrument]
    transitions: dict[str, tuple[Share, Share, Share, Share]]
    correlations: dict[str, tuple[Correlation, Correlation, Correlation, Correlation]]
    drift_divisor: Positive
    volatility: SyntheticVolatility
    planted: PlantedStructure
    oracle: OracleConfig
    volume: SyntheticVolume
    macro: SyntheticMacro

    @model_validator(mode="after")
    def _tables_fit_together(self) -> SyntheticConfig:
        if tuple(self.transitions) != REGIMES:
            raise ValueError(f"transitions needs one row per regime, in this order: {', '.join(REGIMES)}")
        for name, row in self.transitions.items():
            if abs(sum(row) - 1) > 0.01:
                raise ValueError(f"transitions.{name} sums to {sum(row):g}: expected probabilities that sum to 1")
        for pair in self.correlations:
            names = pair.split()
            if len(names) != 2 or not set(names) <= set(self.instruments):
                raise ValueError(f"correlations: {pair!r} does not name two of {', '.join(self.instruments)}")
        for name, instrument in self.instruments.items():
            if instrument.garch_alpha > self.volatility.persistence:
                raise ValueError(f"instruments.{name}.garch_alpha exceeds volatility.persistence, its whole")
        for key, name in (("vix.index", self.macro.vix.index), ("dxy.currency", self.macro.dxy.currency)):
            if name not in self.instruments:
                raise ValueError(f"macro.{key} = {name}: expected one of {', '.join(self.instruments)}")
        return self
