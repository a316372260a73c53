"""How a rollout is judged: intervals, baselines, what is left out, and the picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import (
    NUMBER,
    CountOrNone,
    Date,
    Fraction,
    Multiple,
    OpenShare,
    Section,
    Share,
    Sharpe,
    Window,
)

Points = Annotated[int, Field(ge=10, le=1_000_000), NUMBER]
"""Points or rows that a picture is made of."""


class BootstrapConfig(Section):
    """Resampling of returns. `mean_block_bars` is the mean length of a block of the stationary bootstrap in daily bars;
    of shorter bars a block has as many days."""

    resamples: Annotated[int, Field(ge=100, le=1_000_000), NUMBER]
    mean_block_bars: Annotated[float, Field(ge=1, le=100_000), NUMBER]
    confidence: OpenShare

    def of_bars(self, bars_per_day: float) -> BootstrapConfig:
        """The same blocks in bars of which a trading day has so many."""
        return self.model_copy(update={"mean_block_bars": self.mean_block_bars * bars_per_day})


class MomentumConfig(Section):
    """Sign of the move from `lookback_days` ago to `skip_days` ago, trading days."""

    lookback_days: Window
    skip_days: Annotated[int, Field(ge=0, le=100_000), NUMBER]

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> MomentumConfig:
        if self.skip_days >= self.lookback_days:
            raise ValueError(f"skip_days {self.skip_days} leaves nothing of lookback_days {self.lookback_days}")
        return self


class BaselineConfig(Section):
    """Rules the desk is compared with. Weights are fractions of equity."""

    no_trade_band: Share
    held_weight: Multiple
    momentum: dict[str, MomentumConfig]


class NullTestConfig(Section):
    """What a book may earn on a market with nothing to predict: mean gross Sharpe either way, and the upper end of the
    net Sharpe's interval."""

    max_gross_sharpe: Sharpe
    max_net_upper: Sharpe


class PlotConfig(Section):
    width_in: Multiple
    height_in: Multiple
    dpi: Annotated[int, Field(ge=1, le=2400), NUMBER]
    band_quantile: Annotated[float, Field(gt=0, lt=0.5), NUMBER]


class ExplainConfig(Section):
    """The page of `mtquant explain`.

    line_points
        Points kept of a drawn line: the extremes of equal stretches, so that no peak is lost.
    attention_points
        Stretches into which attention over time is averaged.
    importance_rows
        Decisions, evenly spread, on which importance is measured.
    occlusion_draws
        Shufflings that replace a group's columns; their effects are averaged.
    faithful_agreement
        Rank agreement with occlusion from which on attention is called faithful, and not just better than chance.
    """

    line_points: Points
    attention_points: Points
    importance_rows: Points
    occlusion_draws: Window
    faithful_agreement: Fraction


class InferenceConfig(Section):
    """How policies that no longer learn are asked; learning and its sampling are not touched.

    precision
        Of the weights of linear layers: `float32`, `bfloat16` or `int8` (`policies.inference`). The cheaper ones move
        answers a little, and pay with large networks alone.
    cached_rows
        Answers that each attention network keeps by observation, so that asking again costs a look-up; 0 for none.
    """

    precision: Literal["float32", "bfloat16", "int8"]
    cached_rows: CountOrNone


class EvaluationConfig(Section):
    excluded_dates: tuple[Date, ...]
    var_test_significance: OpenShare
    bootstrap: BootstrapConfig
    null_test: NullTestConfig
    baselines: BaselineConfig
    plot: PlotConfig
    explain: ExplainConfig
    inference: InferenceConfig
