"""The design document's `agents.yaml`: the desk's table, its networks, its limits and its training numbers."""

from __future__ import annotations

from mtquant_rllib.config.base import (
    Count,
    Fraction,
    LearningRate,
    Section,
    Share,
    ShareBelowOne,
    VarConfidence,
    Width,
    Window,
)


class MetaControllerConfig(Section):
    """state_dim: width that its observation is expected to have; None for whatever the layout comes to."""

    state_dim: Width | None = None
    hidden_dim: Width
    hidden_dim_2: Width
    dropout: ShareBelowOne
    learning_rate: LearningRate


class SpecialistConfig(Section):
    """A row of the table of specialists.

    market_features_dim, observation_dim
        Widths that the domain's features and an instrument's block are expected to have; None for whatever the layout
        comes to.
    type
        The design document's class name, which has to be that of the domain (`ForexSpecialist`): there is one class for
        all of them, made by their rows.
    """

    instruments: tuple[str, ...]
    hidden_dim: Width
    market_features_dim: Width | None = None
    observation_dim: Width | None = None
    type: str | None = None


class PortfolioRiskConfig(Section):
    max_portfolio_var: Fraction
    max_correlation_exposure: Fraction
    max_sector_allocation: Fraction
    var_confidence: VarConfidence
    correlation_window: Window


class DocumentTrainingConfig(Section):
    """Budgets in bars and PPO numbers of the document; `recipe` has those that are used in place of some of them."""

    phase_1_timesteps: Count
    phase_2_timesteps: Count
    phase_3_timesteps: Count
    batch_size: Count
    n_epochs: Count
    gamma: Fraction
    gae_lambda: Share
    clip_range: Fraction
