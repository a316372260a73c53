"""What the agents see: section `features` of the settings (`configs/features.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import NUMBER, Fraction, Lag, Loading, OpenShare, Positive, RatePct, Section, Window


class SizingConfig(Section):
    """Floors of the annualised volatility that sizes positions: it is never below either of them."""

    floor_window_bars: Window
    floor_share: Fraction
    floor_ann: Fraction


class GarchConfig(Section):
    """GARCH(1,1) of each instrument, fitted every `refit_days` to the `window_days` before.

    min_days
        Returns before the first fit; until then the exponentially weighted covariance stands in.
    dcc_shock, dcc_persistence
        Weights of the last day's products and of the correlations before it, of `garch_dcc`.
    """

    window_days: Annotated[int, Field(ge=50, le=100_000), NUMBER]
    min_days: Annotated[int, Field(ge=50, le=100_000), NUMBER]
    refit_days: Window
    dcc_shock: OpenShare
    dcc_persistence: OpenShare

    @model_validator(mode="after")
    def _consistent(self) -> GarchConfig:
        if self.min_days > self.window_days:
            raise ValueError(f"min_days {self.min_days} is more than window_days {self.window_days}")
        if self.dcc_shock + self.dcc_persistence >= 1:
            raise ValueError("dcc_shock and dcc_persistence must sum to less than 1, else nothing returns to its level")
        return self


class MomentsConfig(Section):
    """How covariances of daily returns are estimated (`features.covariance` has the estimators), and the correlation's
    shift.

    covariance_decay
        Weight kept from one day to the next.
    covariance_window_days
        Of `sample` and `ledoit_wolf`.
    regime_window_days
        Days from which `regime_switching` takes the covariance of each regime and how often one follows another.
    correlation_short_bars
        The recent side of the shift.
    """

    covariance: Literal["ewma", "sample", "ledoit_wolf", "regime_switching", "garch_constant", "garch_dcc"]
    covariance_decay: OpenShare
    covariance_min_days: Window
    covariance_window_days: Window
    regime_window_days: Window
    garch: GarchConfig
    correlation_short_bars: Window


class RolesConfig(Section):
    """Which instrument stands for what in the domain features."""

    index: str
    growth: str
    value: str
    gold: str
    oil: str


class MacroFeaturesConfig(Section):
    """Names of the macro columns, how their levels are standardised, and what stands in for an absent one."""

    vix: str
    dxy: str
    rate_short: str
    rate_2y: str
    rate_10y: str
    vix_centre: Positive
    vix_log_deviation: Positive
    dxy_window_bars: Window
    rate_centre_pct: RatePct
    rate_scale_pct: Positive
    vix_proxy_window_bars: Window
    vix_proxy_premium: Positive
    dxy_proxy_weights: dict[str, Loading]


class FixedRegimeConfig(Section):
    """volatility: daily standard deviation; trend: total fitted move over the window. Fractions."""

    volatility: Positive
    trend: Positive


class AdaptiveRegimeConfig(Section):
    """Quantiles of the trailing window, entered above one and left below another; bars that confirm a change."""

    quantile_window_bars: Window
    quantile_min_bars: Window
    enter_volatile: Fraction
    stay_volatile: Fraction
    enter_trend: Fraction
    stay_trend: Fraction
    confirm_bars: Window

    @model_validator(mode="after")
    def _staying_is_easier_than_entering(self) -> AdaptiveRegimeConfig:
        if self.stay_volatile > self.enter_volatile or self.stay_trend > self.enter_trend:
            raise ValueError("a regime must be left at or below the quantile at which it is entered")
        return self


class RegimesConfig(Section):
    detector: Literal["adaptive", "fixed"]
    window_bars: Annotated[int, Field(ge=2, le=100_000), NUMBER]
    """A deviation and a slope need two."""
    fixed: FixedRegimeConfig
    adaptive: AdaptiveRegimeConfig


class OwnFeaturesConfig(Section):
    """Features of one's own: column name -> `package.module:function`, or the name by which an installed package offers
    it. They stand after the built-in ones.

    instrument
        Of every instrument; each function is called with its `features.own_bars.OwnBars`.
    domains
        Of a domain, by its name; each function is called with its `features.domains.DomainView`.
    """

    instrument: dict[str, str]
    domains: dict[str, dict[str, str]]


class FeaturesConfig(Section):
    """See `configs/features.yaml` for the meaning of each line.

    others_lag_bars
        Bars by which an agent sees other instruments' columns and macro series later than its own instruments' (module
        `features.lagging`); 0 for no lag.
    """

    block_clip: Positive
    domain_clip: Positive
    macro_clip: Positive
    z_cap: Positive
    return_clip: Positive
    volatility_span_bars: Window
    long_window_bars: Window
    long_window_min_frac: Fraction
    domain_window_min_frac: Fraction
    others_lag_bars: Lag
    sizing: SizingConfig
    moments: MomentsConfig
    roles: RolesConfig
    macro: MacroFeaturesConfig
    regimes: RegimesConfig
    own: OwnFeaturesConfig

    def block_minimum(self, window: int) -> int:
        """Values that a window of an instrument's feature needs before it speaks."""
        return round(window * self.long_window_min_frac) if window >= self.long_window_bars else window

    def domain_minimum(self, window: int) -> int:
        """Values that a window of a domain feature needs before it speaks."""
        return max(round(window * self.domain_window_min_frac), 1)
