"""What a trial adds to the configuration of an RLlib algorithm."""

from __future__ import annotations

from pydantic import Field

from mtquant_rllib.config.base import Count, CountOrNone, Positive, Section, Share
from mtquant_rllib.config.sections.sac import SACConfig
from mtquant_rllib.config.sections.training import GrowthFactor, LearnerConfig, WindowSoftminConfig


class ModuleSACRates(Section):
    """Learning rates of a module at the start of the budget: those of the settings times the phase's fraction."""

    actor: Positive
    critic: Positive
    alpha: Positive


class TrialConfig(Section):
    """Set by `training(...)` of the desk's algorithm configurations, read as their `trial`.

    budget_bars
        Bars after which the trial is done. Learning rates and minibatches follow the share of it that was sampled.
    validations
        How many times, evenly over the budget, the policies are validated; 0 never.
    patience, learning_rate_final_frac, batch_size_final_factor, explore_frozen, ema_updates
        As in `recipe`.
    use_final_ema
        Whether the newest average of weights counts as the best, whatever validation says.
    best_from_start
        Whether the states that it starts from compete for "best on validation".
    learner
        Precision, checkpointing and compilation, and when a module counts as diverged.
    learning_rates
        Of each module at the start of the budget; with SAC those of actor, critics and alpha.
    base_rates
        RLlib's settings (`lr`, or `actor_lr`, `critic_lr`, `alpha_lr`) when `learning_rates` were given: a changed `lr`
        changes every module's rate in proportion. RLlib's per-module overrides would do the same, but each copies the
        copies made before it: with twelve modules a checkpoint then has 130 MB of configuration.
    learner_threads
        PPO: with more than one, stacks learn side by side, with the same result.
    window_softmin
        PPO: as in `recipe`; None weighs all windows alike.
    sac
        SAC: its numbers.
    copied_sections
        Hashes of the sections of the environment's settings that the configuration was made from, so that a change of
        them there, which nobody would read, is noticed.
    """

    budget_bars: Count
    validations: CountOrNone
    patience: Count | None
    learning_rate_final_frac: Share
    batch_size_final_factor: GrowthFactor
    explore_frozen: bool
    ema_updates: Count | None
    use_final_ema: bool
    best_from_start: bool
    learner: LearnerConfig
    learning_rates: dict[str, Positive | ModuleSACRates] = Field(default_factory=dict)
    base_rates: dict[str, Positive] = Field(default_factory=dict)
    learner_threads: Count = 1
    window_softmin: WindowSoftminConfig | None = None
    sac: SACConfig | None = None
    copied_sections: dict[str, str] = Field(default_factory=dict)
