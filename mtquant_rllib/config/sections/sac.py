"""SAC as it is run, for every phase whose algorithm it is."""

from __future__ import annotations

from pydantic import Field, model_validator

from mtquant_rllib.config.base import (
    Count,
    CountOrNone,
    Fraction,
    LearningRate,
    NonNegative,
    Positive,
    Section,
    Width,
    Window,
)


class SACRates(Section):
    """Learning rates at the start of the budget; they fall as the recipe says."""

    actor: LearningRate
    critic: LearningRate
    alpha: LearningRate


class CriticConfig(Section):
    """The twin critics of every module: plain trunks with ReLU over an observation and what the environment made of an
    action."""

    hidden: tuple[Width, ...] = Field(min_length=1)
    slope: bool
    """Whether they begin with a product of action and observation, beside the trunk; see `policies.critics.Critic`."""
    slope_penalty: NonNegative
    """lambda of `engine.learning.sac.loss`: ridge penalty on the coefficients of feature times action, over all
    decisions in the replay buffer. A coefficient whose regressor's squares sum to lambda is halved. 0: none, as in the
    paper."""
    last_layer_scale: Positive
    """Gain of the last layer: first values lie near 0."""

    @model_validator(mode="after")
    def _has_what_it_penalises(self) -> CriticConfig:
        if self.slope_penalty and not self.slope:
            raise ValueError(f"slope_penalty {self.slope_penalty} without a slope: set it to 0, or slope to true")
        return self


class MinStdByRegime(Section):
    """Smallest deviation of the raw action while collecting, by the regime of the bar. It does not add to the policy's
    own, and there is none in evaluation."""

    bull: NonNegative
    bear: NonNegative
    volatile: NonNegative
    sideways: NonNegative

    @property
    def in_order(self) -> tuple[float, float, float, float]:
        """In the order of `features.regimes.Regime`."""
        return self.bull, self.bear, self.volatile, self.sideways


class PrioritiesConfig(Section):
    """Prioritised replay, as in Schaul et al. 2016.

    power
        a: 0 would draw uniformly, 1 in proportion to the error.
    weight_power_start, weight_power_final
        b at the beginning and at the end of the budget, a straight line over bars between; 1 corrects fully.
    epsilon
        Added to every error, so that nothing is never drawn again.
    """

    power: Fraction
    weight_power_start: Fraction
    weight_power_final: Fraction
    epsilon: Positive


class SACConfig(Section):
    """Soft actor-critic, one for every module that learns.

    gamma
        Discount of a bar; null follows the recipe.
    bars_per_gradient_step
        Bars sampled for each gradient step; 1 learns after every bar.
    rollout_bars
        Bars sampled between two calls of the learner, which then makes up for all of them.
    bars_per_iteration
        Bars between two reports, each of which may be a checkpoint.
    learning_starts_bars, learning_starts_frac
        Bars collected before the first gradient step, and at most this share of the budget.
    replay_bars
        Bars remembered; the oldest make room.
    n_steps
        Decisions in a return before the critics take over.
    tau
        Share of the critics that the target critics take over with every gradient step.
    initial_alpha
        Weight of entropy at the start. Its target is -ln n, n the width of the agent's action.
    action_penalty
        kappa of `engine.learning.sac.loss`: what a raw mean costs, half of it times its square; a slope of as much
        moves the mean by one. 0 is the paper.
    initial_std, min_std
        As in `networks`, for policies that learn here: the target entropy asks for deviations of about .17.
    grad_clip
        Largest gradient norm of each network.
    """

    gamma: Fraction | None
    learning_rates: SACRates
    batch_size: Count
    bars_per_gradient_step: Count
    rollout_bars: Count
    bars_per_iteration: Count
    learning_starts_bars: CountOrNone
    learning_starts_frac: Fraction
    replay_bars: Count
    priorities: PrioritiesConfig | None
    n_steps: Window
    tau: Fraction
    initial_alpha: Positive
    action_penalty: NonNegative
    initial_std: Positive
    min_std: NonNegative
    min_std_by_regime: MinStdByRegime
    critic: CriticConfig
    grad_clip: Positive

    @model_validator(mode="after")
    def _starts_above_min_std(self) -> SACConfig:
        if self.initial_std <= self.min_std:
            raise ValueError(f"initial_std {self.initial_std} must lie above min_std {self.min_std}")
        return self
