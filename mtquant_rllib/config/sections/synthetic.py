"""What the embedded synthetic market is drawn from (`configs/synthetic.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

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


def _interpolated(wanted: float, strengths: Mapping[float, float]) -> float:
    """The strength of a wanted Sharpe ratio, linear between the rows of a table that begins at 0: 0."""
    for (low, at_low), (high, at_high) in pairwise([(0.0, 0.0), *sorted(strengths.items())]):
        if wanted <= high:
            return at_low + (at_high - at_low) * (wanted - low) / (high - low)
    raise AssertionError("checked when the settings were read")


class OracleTable(Section):
    """oracle_sharpe: net Sharpe ratio that an oracle is to earn; strength_of_sharpe: the strength of the planted part
    at which it does, measured by replaying it."""

    oracle_sharpe: Annotated[float, Field(ge=0, le=100), NUMBER]
    strength_of_sharpe: dict[Sharpe, Positive]

    @property
    def strength(self) -> float:
        """The strength at which the oracle earns `oracle_sharpe`, linear between the rows of the table."""
        return _interpolated(self.oracle_sharpe, self.strength_of_sharpe)

    @model_validator(mode="after")
    def _sharpe_is_in_the_table(self) -> OracleTable:
        best = max(self.strength_of_sharpe, default=0.0)
        if self.oracle_sharpe > best:
            raise ValueError(
                f"oracle_sharpe {self.oracle_sharpe:g} lies beyond strength_of_sharpe: its last is {best:g}"
            )
        return self


class GainTable(Section):
    """oracle_gain: what the oracle of a structure adds to its net Sharpe ratio over the book that does not know of the
    structure, 0 for no structure; strength_of_gain: the strength at which it does, measured by replaying both."""

    oracle_gain: Annotated[float, Field(ge=0, le=100), NUMBER]
    strength_of_gain: dict[Sharpe, Fraction]

    @property
    def strength(self) -> float:
        """The strength at which the oracle gains `oracle_gain`, linear between the rows of the table."""
        return _interpolated(self.oracle_gain, self.strength_of_gain)

    @model_validator(mode="after")
    def _gain_is_in_the_table(self) -> GainTable:
        best = max(self.strength_of_gain, default=0.0)
        if self.oracle_gain > best:
            raise ValueError(f"oracle_gain {self.oracle_gain:g} lies beyond strength_of_gain: its last is {best:g}")
        return self


class PredictabilityStructure(GainTable):
    """How predictable a domain is comes and goes (`market.synthetic.predictability`): its planted mean is multiplied by
    1 + strength * tanh(steepness * state).

    steepness
        Of the way from one extreme to the other, for a state of variance 1.
    shown_by
        Domain -> interest rates. The state is the part of the first one that the others do not tell. A domain that is
        not named stays as predictable as it is.
    """

    steepness: Positive
    shown_by: dict[str, tuple[str, ...]]


class OverlapStructure(GainTable):
    """Signals and shocks that instruments of different domains share (`market.synthetic.overlap`).

    instruments
        Those that overlap, at most one of each domain. The strength is the correlation of their latents, of their
        proxies and, beside what they have anyway, of their shocks.
    """

    instruments: tuple[str, ...]


class PlantedStructure(OracleTable):
    half_life_bars: Positive
    proxy_loading: Fraction
    momentum: MomentumStructure
    predictability: PredictabilityStructure
    overlap: OverlapStructure

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures that are there."""
        return tuple(name for name in STRUCTURES if getattr(self, name).strength > 0)


STRUCTURES = ("predictability", "overlap")
"""Structures of the planted part that concern the desk as a whole, each with an oracle of its own."""


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

    def drawn_from(self) -> dict[str, Any]:
        """What a market is drawn from, as plain values: without structures that are not there, so that settings which
        draw the same bars are seen to."""
        tree = self.model_dump(mode="json")
        for name in STRUCTURES:
            if name not in self.planted.structures:
                del tree["planted"][name]
        return tree

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
        for domain, named in self.planted.predictability.shown_by.items():
            if not named or not set(named) <= set(self.macro.rates.names) or len(set(named)) < len(named):
                raise ValueError(
                    f"planted.predictability.shown_by.{domain} = [{', '.join(named)}]: expected one or several of "
                    f"{', '.join(self.macro.rates.names)}"
                )
        for symbol in self.planted.overlap.instruments:
            if symbol not in self.instruments:
                raise ValueError(f"planted.overlap.instruments: there is no row for {symbol}")
        for key, name in (("vix.index", self.macro.vix.index), ("dxy.currency", self.macro.dxy.currency)):
            if name not in self.instruments:
                raise ValueError(f"macro.{key} = {name}: expected one of {', '.join(self.instruments)}")
        return self
