"""The design document's `agents.yaml`: the desk's table, its networks, its limits and its training numbers."""

from __future__ import annotations

from mtquant_rllib.config.base import Count, Fraction, Positive, Section


class MetaControllerConfig(Section):
    """state_dim: width that its observation is expected to have; None for whatever the layout comes to."""

    state_dim: Count | None = None
    hidden_dim: Count
    hidden_dim_2: Count
    dropout: float
    learning_rate: Positive


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
    hidden_dim: Count
    market_features_dim: Count | None = None
    observation_dim: Count | None = None
    type: str | None = None


class PortfolioRiskConfig(Section):
    max_portfolio_var: Fraction
    max_correlation_exposure: Fraction
    max_sector_allocation: Fraction
    var_confidence: Fraction
    correlation_window: Count


class DocumentTrainingConfig(Section):
    """Budgets in bars and PPO numbers of the document; `learning` says which of them a recipe overrides."""

    phase_1_timesteps: Count
    phase_2_timesteps: Count
    phase_3_timesteps: Count
    batch_size: Count
    n_epochs: Count
    gamma: Fraction
    gae_lambda: float
    clip_range: Positive
