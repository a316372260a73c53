"""How a rollout is judged: intervals, baselines, what is left out, and the picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import (
    NUMBER,
    Count,
    CountOrNone,
    Date,
    Fraction,
    Multiple,
    OpenShare,
    Positive,
    Section,
    Share,
    Sharpe,
    Window,
    Years,
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


class VerdictConfig(Section):
    """The rule of the verdict on a book; `evaluation.statistics.verdict` says it in words.

    significance
        Probability with which a book without skill may be said to earn.
    max_overfitting
        Largest probability of backtest overfitting of a search whose best trial may beat the rules.
    overfitting_blocks
        Blocks of bars, an even number, from which every half is chosen in turn.
    """

    significance: Annotated[float, Field(gt=0, lt=0.5), NUMBER]
    max_overfitting: Fraction
    overfitting_blocks: Annotated[int, Field(ge=2, le=20, multiple_of=2), NUMBER]


class ErrorRatesConfig(Section):
    """`mtquant audit verdict`: the worlds on which the verdict's errors are counted.

    null_worlds, planted_worlds
        Worlds without skill, and with each of the `planted_sharpes` (annual).
    years
        Of each world's record.
    trials
        Numbers of trials of which the best is judged.
    half_life_bars
        Of the random signals that the books follow.
    max_excess
        How far the share of false claims may lie above the rule's significance.
    """

    null_worlds: Count
    planted_worlds: Count
    planted_sharpes: tuple[Sharpe, ...]
    years: Years
    trials: tuple[Count, ...]
    half_life_bars: Positive
    max_excess: Fraction


class ControlsConfig(Section):
    """`mtquant audit controls`: markets whose truth is known, and what must come out on them.

    train_paths, train_years, test_paths, test_years
        Sizes of the markets; the null test's limits hold for some 300 test years.
    ridge_rows
        Weight of the penalty on coefficients, in rows.
    leak_column, leak_loading
        Column of every instrument's block that tells the next bar's move on the leaking market, and how much of it.
    min_share
        Least share of the oracle's net Sharpe, at the lower end of its interval, on the planted market.
    gain_tolerance
        How far the gain of a structure's oracle, in net Sharpe, may be from the stated one (`oracle_gain`).
    cost_multiples
        Of spreads, commissions, slippage and impact, ascending from 1.
    """

    train_paths: Count
    train_years: Years
    test_paths: Count
    test_years: Years
    ridge_rows: Positive
    leak_column: str
    leak_loading: Positive
    min_share: Fraction
    gain_tolerance: Positive
    cost_multiples: tuple[Annotated[float, Field(ge=1, le=1000), NUMBER], ...]


class AuditConfig(Section):
    """`mtquant audit leakage`: how much is compared, and from where on a file is suspect.

    bars
        Random bars after which the future is changed.
    played_bars
        Bars that are played up to each of them.
    random_books
        Books that fill at the open after each of them.
    max_reported_leaks
        Leaks that a check names; there may be hundreds of one cause.
    first_of_period_frac
        Share of a macro series' values that stand on the first days of a month or longer period, from which on the
        series is taken for averages of the periods that begin there, which nobody knows yet.
    period_days
        Calendar days from one value to the next, in the median, from which on a series is one of periods.
    next_value_frac
        Share of the days without trading on which a series already has the next day's value, from which on it is
        taken for filled backwards.
    min_days
        Such days, or days of intraday bars, below which nothing is concluded.
    day_volume_frac
        Median of a bar's volume over that of all other bars of its day, from which on the bar is taken to carry the
        day's.
    min_day_bars
        Bars of a day below which its bars are not compared.
    """

    bars: Count
    played_bars: Count
    random_books: Count
    max_reported_leaks: Count
    first_of_period_frac: Fraction
    period_days: Positive
    next_value_frac: Fraction
    min_days: Count
    day_volume_frac: Positive
    min_day_bars: Annotated[int, Field(ge=2, le=100_000), NUMBER]


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


class WalkForwardConfig(Section):
    """A walk-forward test (`training.walk_forward`), and the rule of its verdict beside that of `verdict`.

    first_test
        First day that is judged.
    validation_years
        Between the training bars of a fold and its test bars.
    behind_at_most
        The ensemble is not behind the reference where the lower end of the interval of the difference of their Sharpe
        ratios lies above minus this.
    """

    first_test: Date
    validation_years: Years
    behind_at_most: Sharpe


class EvaluationConfig(Section):
    excluded_dates: tuple[Date, ...]
    var_test_significance: OpenShare
    bootstrap: BootstrapConfig
    null_test: NullTestConfig
    verdict: VerdictConfig
    walk_forward: WalkForwardConfig
    error_rates: ErrorRatesConfig
    audit: AuditConfig
    controls: ControlsConfig
    baselines: BaselineConfig
    plot: PlotConfig
    explain: ExplainConfig
    inference: InferenceConfig
