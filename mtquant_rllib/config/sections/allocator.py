"""One agent that weighs a handful of assets: section `allocator` of the settings (`configs/allocator.yaml`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import Count, Fraction, Multiple, NonNegative, Positive, Section, Share, Width
from mtquant_rllib.config.sections.synthetic import OracleTable


class RegimeWeights(Section):
    """Weight of a reward term in each market regime."""

    bull: NonNegative
    bear: NonNegative
    volatile: NonNegative
    sideways: NonNegative


class RegimeAwareConfig(Section):
    """Weights of the terms of the regime-aware reward (`env.rewards.regime_aware`), fractions of equity a bar.

    regime_return alone multiplies the net return: how much a bar of that regime counts.
    """

    regime_return: RegimeWeights
    bull_momentum: RegimeWeights
    bear_defence: RegimeWeights
    volatile_diversification: RegimeWeights
    momentum: RegimeWeights
    volatility: RegimeWeights
    diversification: RegimeWeights
    action_change: RegimeWeights


class AllocatorOracleConfig(Section):
    """How the oracle turns the planted mean into weights.

    risk_aversion
        Of its quadratic programme, max w'mu - a / 2 w'Sw, with a = risk_aversion times the forecast's size, the root
        mean square of mu / sigma.
    urgency
        Share of the gap to that solution which it trades each bar.
    """

    risk_aversion: Positive
    urgency: Fraction


class LeakConfig(Section):
    """The leak of the market variant `leak`: a column of every instrument's block tells a little of the next bar.

    column
        Name of the column, of unit order.
    loading
        What one deviation of the next bar's open-to-close return adds to it.
    """

    column: str
    loading: Multiple


class AllocatorConfig(Section):
    """The allocator's experiment.

    assets
        Instruments that it weighs.
    bars
        Budget of its training.
    algorithm, network
        What it learns by, and the network of its policy: `attention` over the four groups of its observation, or
        `plain`.
    hidden
        Sizes of a plain network, and of the value network beside an attention policy that asks for a plain one.
    linear_skip
        A straight line from the observation to the logits, beside a plain network.
    shared_line
        Whether straight lines, those of policies and the critics' slope (`sac.critic.slope`), read each asset's own
        columns with the same weights for all assets, in place of all columns with weights for each.
    logit_scale
        Logits are scale * action, so that its inverse is the temperature of the softmax. At 3 the largest weight of
        five lies between .2 and .99.
    reward
        `regime_aware`, or `differential_sharpe` of the net return.
    reference_vol_ann
        Annual volatility in whose bar-sized units the reward is given: about that of a book of equal weights.
    reward_clip
        Largest reward, in those units.
    sixty_forty
        Shares of the fixed book that it is compared with; 0 where an asset of a base config is not among `assets`.
    """

    assets: tuple[str, ...] = Field(min_length=2)
    bars: Count
    algorithm: Literal["ppo", "sac"]
    network: Literal["attention", "plain"]
    hidden: tuple[Width, ...] = Field(min_length=1)
    linear_skip: bool
    shared_line: bool
    logit_scale: Positive
    reward: Literal["regime_aware", "differential_sharpe"]
    regime_aware: RegimeAwareConfig
    reference_vol_ann: Fraction
    reward_clip: Positive
    sixty_forty: dict[str, Share]
    planted: OracleTable
    oracle: AllocatorOracleConfig
    leak: LeakConfig

    @model_validator(mode="after")
    def _shares_are_of_the_assets(self) -> AllocatorConfig:
        if len(set(self.assets)) != len(self.assets):
            raise ValueError("assets: an asset stands twice")
        strangers = {asset for asset, share in self.sixty_forty.items() if share} - set(self.assets)
        if strangers or abs(sum(self.sixty_forty.values()) - 1.0) > 1e-9:
            raise ValueError(
                f"sixty_forty {self.sixty_forty}: expected shares of {', '.join(self.assets)} that sum to 1; a share "
                "of 0 takes an asset out"
            )
        return self
