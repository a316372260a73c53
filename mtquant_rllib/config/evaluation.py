"""How a rollout is judged: intervals, baselines, what is left out, and the picture."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import Count, Fraction, NonNegative, Positive, Section


class BootstrapConfig(Section):
    """Resampling of returns. `mean_block_bars` is the mean length of a block of the stationary bootstrap."""

    resamples: Annotated[int, Field(ge=100)]
    mean_block_bars: Annotated[float, Field(ge=1)]
    confidence: Fraction


class MomentumConfig(Section):
    """Sign of the move from `lookback_bars` ago to `skip_bars` ago."""

    lookback_bars: Count
    skip_bars: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> MomentumConfig:
        if self.skip_bars >= self.lookback_bars:
            raise ValueError(f"skip_bars {self.skip_bars} leaves nothing of lookback_bars {self.lookback_bars}")
        return self


class BaselineConfig(Section):
    """Rules the desk is compared with. Weights are fractions of equity."""

    no_trade_band: NonNegative
    held_weight: Positive
    momentum: dict[str, MomentumConfig]


class NullTestConfig(Section):
    """What a book may earn on a market with nothing to predict: mean gross Sharpe either way, and the upper end of the
    net Sharpe's interval."""

    max_gross_sharpe: Positive
    max_net_upper: Positive


class PlotConfig(Section):
    width_in: Positive
    height_in: Positive
    dpi: Count
    band_quantile: Annotated[float, Field(gt=0, lt=0.5)]


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

    line_points: Annotated[int, Field(ge=10)]
    attention_points: Annotated[int, Field(ge=10)]
    importance_rows: Annotated[int, Field(ge=10)]
    occlusion_draws: Count
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
    cached_rows: int = Field(ge=0)


class EvaluationConfig(Section):
    excluded_dates: tuple[dt.date, ...]
    var_test_significance: Fraction
    bootstrap: BootstrapConfig
    null_test: NullTestConfig
    baselines: BaselineConfig
    plot: PlotConfig
    explain: ExplainConfig
    inference: InferenceConfig
