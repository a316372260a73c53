"""Limits, breakers and alerts that the design document leaves open. Its own four limits are `PortfolioRiskConfig`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import NUMBER, Date, Fraction, Multiple, Section, Seed, Window

Rounds = Annotated[int, Field(ge=1, le=1000), NUMBER]
"""Of a repair that is repeated."""


class TimedLevelConfig(Section):
    """A breaker level that wears off: its day-loss threshold (inclusive) and how many bars it binds."""

    loss_frac: Fraction
    cooldown_bars: Window


class LatchedLevelConfig(Section):
    """A breaker level that halts the desk until it is reset."""

    loss_frac: Fraction


class BreakersConfig(Section):
    level_1: TimedLevelConfig
    level_2: TimedLevelConfig
    level_3: LatchedLevelConfig
    level_4: LatchedLevelConfig
    level_1_position_frac: Fraction
    level_2_var_frac: Fraction

    @property
    def thresholds(self) -> tuple[float, float, float, float]:
        """Day-loss thresholds of levels 1 to 4, positive fractions."""
        return self.level_1.loss_frac, self.level_2.loss_frac, self.level_3.loss_frac, self.level_4.loss_frac

    @model_validator(mode="after")
    def _thresholds_rise(self) -> BreakersConfig:
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"breaker thresholds must rise from level 1 to level 4, found {self.thresholds}")
        return self


class AlertsConfig(Section):
    position_loss_frac: Fraction
    day_loss_frac: Fraction
    correlation_shift: Annotated[float, Field(gt=0, le=2), NUMBER]


class CustomRuleConfig(Section):
    """A rule of one's own.

    rule
        `package.module:Class`, or the name by which an installed package offers it.
    options
        Arguments of the class.
    """

    rule: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"rule": given} if isinstance(given, str) else given


VarMethod = Literal[
    "parametric",
    "historical",
    "historical_age_weighted",
    "historical_volatility_filtered",
    "monte_carlo_normal",
    "monte_carlo_student_t",
]
"""How the VaR that limits books is measured."""


class VaRMethodsConfig(Section):
    """Numbers of the methods that measure value at risk and expected shortfall: of all of them in `mtquant risk`, and
    of the one that limits books, `risk.var_method`.

    history_days, history_min_days
        Past trading days of the historical methods, and how many the rule must have before an instrument is traded.
    age_decay, volatility_decay
        A day: of a past day's weight, and of the volatility that scales past days to the present.
    draws, draws_seed, degrees_of_freedom
        Of Monte Carlo; the seed of the rule's draws, which are the same in every run; of its Student t.
    interval_confidence, resamples
        Of the bootstrap intervals.
    """

    history_days: Window
    history_min_days: Window
    age_decay: Annotated[float, Field(gt=0, lt=1), NUMBER]
    volatility_decay: Annotated[float, Field(gt=0, lt=1), NUMBER]
    draws: Annotated[int, Field(ge=100, le=10_000_000), NUMBER]
    draws_seed: Seed
    degrees_of_freedom: Annotated[float, Field(gt=2, le=1000), NUMBER]
    interval_confidence: Annotated[float, Field(gt=0, lt=1), NUMBER]
    resamples: Annotated[int, Field(ge=100, le=1_000_000), NUMBER]

    @model_validator(mode="after")
    def _days_fit(self) -> VaRMethodsConfig:
        if self.history_min_days > self.history_days:
            raise ValueError(f"history_min_days {self.history_min_days} is more than history_days {self.history_days}")
        return self


class VaRCalibrationConfig(Section):
    """Scaling of the VaR that limits books by the quantile of past losses over their forecasts (`risk.calibration`).

    enabled
        Whether the rule is held to the scaled forecast. `mtquant risk report` shows both in any case.
    window_days, min_days
        Days of the quantile, and how many there must be before the factor is other than 1.
    min_factor, max_factor
        Bounds of the factor.
    """

    enabled: bool
    window_days: Window
    min_days: Window
    min_factor: Annotated[float, Field(gt=0, le=1), NUMBER]
    max_factor: Annotated[float, Field(ge=1, le=100), NUMBER]

    @model_validator(mode="after")
    def _days_fit(self) -> VaRCalibrationConfig:
        if self.min_days > self.window_days:
            raise ValueError(f"min_days {self.min_days} is more than window_days {self.window_days}")
        return self


class StressWindowConfig(Section):
    """Days of history, both included."""

    first: Date
    last: Date

    @model_validator(mode="after")
    def _in_order(self) -> StressWindowConfig:
        if self.first > self.last:
            raise ValueError(f"first {self.first} is after last {self.last}")
        return self


class StressConfig(Section):
    """windows: by name. shocks: by name, the simple return of a symbol, or of each instrument of a domain."""

    windows: dict[str, StressWindowConfig]
    shocks: dict[str, dict[str, Annotated[float, Field(ge=-10, le=10), NUMBER]]]


class RiskConfig(Section):
    """See `configs/risk.yaml` for the meaning of each line."""

    gross_budget: Multiple
    max_concentration_frac: Fraction
    correlation_floor_frac: Fraction
    correlation_rounds: Rounds
    max_sweeps: Rounds
    var_method: VarMethod
    var_horizon_days: Annotated[float, Field(gt=0, le=366), NUMBER]
    margin_buffer: Annotated[float, Field(ge=1, le=100), NUMBER]
    margin_stop_out_frac: Fraction
    max_adv_frac: Fraction
    rules: tuple[CustomRuleConfig, ...] = ()
    breakers: BreakersConfig
    alerts: AlertsConfig
    var_methods: VaRMethodsConfig
    var_calibration: VaRCalibrationConfig
    stress: StressConfig

    @property
    def past_returns(self) -> dict[str, Any] | None:
        """What shapes the past returns that a market is prepared with; None where the rule does not look at them."""
        if not self.var_method.startswith("historical"):
            return None
        methods = self.var_methods
        shape: dict[str, Any] = {"days": methods.history_days, "min_days": methods.history_min_days}
        if self.var_method == "historical_volatility_filtered":
            shape["volatility_decay"] = methods.volatility_decay
        return shape
