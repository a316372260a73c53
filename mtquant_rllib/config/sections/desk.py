"""How the desk decides, sizes, pays and observes: section `desk` of the settings (`configs/desk.yaml`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import (
    NUMBER,
    Amount,
    Count,
    Fraction,
    Loading,
    Multiple,
    NonNegative,
    Positive,
    Section,
    Share,
    ShareBelowOne,
    Where,
    Window,
)


class RiskScaleConfig(Section):
    """A slow factor on sizes that brings the desk to the volatility that is asked for (`env.state.risk_scale`).

    where
        On which markets sizes are scaled.
    target_ann
        Annual volatility of the desk at full appetite.
    half_life_days
        Of the average of the unscaled book's forecast variance.
    largest
        Of the factor.
    """

    where: Where
    target_ann: Fraction
    half_life_days: Positive
    largest: Multiple

    @property
    def exists(self) -> bool:
        return self.where == "always"


class DecisionConfig(Section):
    """From raw actions in [-1, 1] to proposed weights.

    logit_scale
        Softmax temperature is its inverse.
    dead_band
        Shares and appetites under this are zero, so that "nothing" can be said with a finite action.
    allocation_cap
        Largest allocation of a domain; the excess stays in cash.
    vol_target_ann
        Sum of stand-alone annual volatilities at full allocation and conviction.
    stop_atr_min, stop_atr_max
        Range of the stop distance in ATRs.
    meta_every_bars, specialists_every_bars
        Bars between two decisions of that level.
    hierarchy
        Whether the meta-controller and the specialists decide. Where they do not, capital is allocated equally at full
        appetite (a domain that plays alone has what its episode draws), and an instrument's conviction is its agent's
        own signal.
    """

    logit_scale: Positive
    dead_band: ShareBelowOne
    allocation_cap: Fraction
    vol_target_ann: Fraction
    stop_atr_min: Positive
    stop_atr_max: Positive
    meta_every_bars: Window
    specialists_every_bars: Window
    hierarchy: bool
    risk_scale: RiskScaleConfig

    @model_validator(mode="after")
    def _stops_have_a_range(self) -> DecisionConfig:
        if self.stop_atr_min > self.stop_atr_max:
            raise ValueError(f"stop_atr_min {self.stop_atr_min:g} lies above stop_atr_max {self.stop_atr_max:g}")
        return self


class AccountConfig(Section):
    """start_equity_ccy: opening cash in account currency; day_count: days of a financing year."""

    currency: str
    start_equity_ccy: Amount
    day_count: Annotated[float, Field(ge=360, le=366), NUMBER]


class CostConfig(Section):
    """What every instrument shares; the rest is per instrument in `symbols`.

    impact_coefficient
        Market impact as a fraction of traded notional: coefficient * daily sigma * sqrt(size / ADV).
    impact_free_adv_share
        Trades below this share of ADV have no impact.
    rollover_spread_multiplier
        Spreads of intraday bars at the daily rollover are wider by this factor.
    short_rate_columns
        Macro columns that give the account currency's short rate, per cent; the first one with a value is used.
    """

    impact_coefficient: NonNegative
    impact_free_adv_share: Share
    rollover_spread_multiplier: Annotated[float, Field(ge=1, le=1000), NUMBER]
    short_rate_columns: tuple[str, ...]


class FillConfig(Section):
    """band_reference_max_age_bars: an older close is no reference for the price band."""

    band_reference_max_age_bars: Window


class EpisodeConfig(Section):
    """bars: length of a training episode, truncated at its end; breaker_reset: whether an evaluation lifts a full
    trading halt the day after (counting it), or stays flat to its end."""

    bars: Count
    breaker_reset: Literal["next_day", "never"]


class ObservationConfig(Section):
    """Windows and scales of the private parts of the observations; everything is clipped to +-`clip`.

    A value is divided by its scale: drawdown 0.2 at `drawdown_scale` 0.2 is seen as 1.

    feature_means
        Market feature -> what is taken off it, so that it is 0 on average. null: measured over the training bars when a
        run begins, and kept with its settings; {}: nothing.
    messages
        Whether agents see what the levels above them have decided: allocation, appetite, intent, confidence. Where they
        do not, these columns are 0.
    """

    feature_means: dict[str, Loading] | None
    messages: bool
    clip: Positive
    returns_days: Window
    track_record_bars: Window
    sharpe_scale: Positive
    drawdown_scale: Positive
    weight_scale: Positive
    unrealised_atr_scale: Positive
    held_bars_scale: Positive
    stop_atr_scale: Positive
    reward_mean_scale: Positive


class DeskConfig(Section):
    decision: DecisionConfig
    account: AccountConfig
    cost: CostConfig
    fill: FillConfig
    episode: EpisodeConfig
    observation: ObservationConfig


class DifferentialSharpeConfig(Section):
    """Moody & Saffell (2001). horizon_bars: 1 / eta; variance_floor: least B - A^2 in the denominator; clip: of D and
    of the standardised return that enters it."""

    horizon_bars: Count
    variance_floor: Positive
    clip: Positive


class RewardTermConfig(Section):
    """A reward term of one's own.

    term
        `package.module:Class`, or the name by which an installed package offers it.
    weight
        Factor on what it returns.
    options
        Arguments of the class.
    """

    term: str
    weight: Loading = 1.0
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"term": given} if isinstance(given, str) else given


class RewardConfig(Section):
    """Weights of the named reward terms.

    drawdown, var_excess, edits
        Of the risk-adjusted reward: weight of the increment of the episode's maximum drawdown, of the trading day's
        loss beyond its VaR forecast (both in units of the target's bar volatility), and of each unit of weight that
        risk took away.
    cost_factor
        Share of trading costs that the rewards see: below 1 an agent trades on signals that pay their costs on average
        alone, and not on every bar. Books are charged, observed and judged at full costs.
    team_share
        Weight of the portfolio's score in every agent's reward; the rest is its own book's.
    specialist_allocation_low, specialist_allocation_high
        Range of the uniform draw of the allocation of a specialist's training episode.
    terms
        Terms of one's own, added to the rewards of the desk's agents in every phase.
    """

    differential_sharpe: DifferentialSharpeConfig
    drawdown: NonNegative
    var_excess: NonNegative
    edits: NonNegative
    cost_factor: Share
    team_share: Share
    specialist_allocation_low: Fraction
    specialist_allocation_high: Fraction
    terms: tuple[RewardTermConfig, ...] = ()

    @model_validator(mode="after")
    def _allocations_have_a_range(self) -> RewardConfig:
        low, high = self.specialist_allocation_low, self.specialist_allocation_high
        if low > high:
            raise ValueError(f"specialist_allocation_low {low:g} lies above specialist_allocation_high {high:g}")
        return self
