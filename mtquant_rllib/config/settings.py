"""The whole of the settings, one section per concern, as one frozen tree."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pydantic import Field, model_validator

from mtquant_rllib.config.agents import (
    DocumentTrainingConfig,
    MetaControllerConfig,
    PortfolioRiskConfig,
    SpecialistConfig,
)
from mtquant_rllib.config.allocator import AllocatorConfig
from mtquant_rllib.config.base import Section
from mtquant_rllib.config.desk import DeskConfig, RewardConfig
from mtquant_rllib.config.embedded import EmbeddedConfig
from mtquant_rllib.config.evaluation import EvaluationConfig
from mtquant_rllib.config.features import FeaturesConfig
from mtquant_rllib.config.instruments import InstrumentConfig
from mtquant_rllib.config.loader import apply_overrides, read_tree, validate
from mtquant_rllib.config.market import MarketConfig
from mtquant_rllib.config.networks import NetworksConfig
from mtquant_rllib.config.risk import RiskConfig
from mtquant_rllib.config.sac import SACConfig
from mtquant_rllib.config.synthetic import OracleTable, SyntheticConfig
from mtquant_rllib.config.training import (
    CheckpointsConfig,
    LearnerConfig,
    RecipeConfig,
    ResourcesConfig,
    TrackingConfig,
)
from mtquant_rllib.universe import Universe


class Settings(Section):
    """Everything a run depends on. `Settings.load()` reads `configs/default.yaml`."""

    seed: int = Field(ge=0)
    symbols: dict[str, InstrumentConfig]
    policy_rates: dict[str, dict[int, float]]
    market: MarketConfig
    synthetic: SyntheticConfig
    meta_controller: MetaControllerConfig
    specialists: dict[str, SpecialistConfig]
    portfolio_risk: PortfolioRiskConfig
    risk: RiskConfig
    training: DocumentTrainingConfig
    features: FeaturesConfig
    networks: NetworksConfig
    embedded: EmbeddedConfig
    desk: DeskConfig
    rewards: RewardConfig
    evaluation: EvaluationConfig
    recipe: RecipeConfig
    sac: SACConfig
    learner: LearnerConfig
    resources: ResourcesConfig
    checkpoints: CheckpointsConfig
    tracking: TrackingConfig
    allocator: AllocatorConfig | None = None
    """Where it stands, one agent weighs some of the instruments in place of the desk of twelve."""

    @cached_property
    def universe(self) -> Universe:
        everything = Universe.from_specialists(self.specialists)
        if self.allocator is not None:
            return everything.allocated(self.allocator.assets)
        return everything if self.market.instruments is None else everything.restricted(self.market.instruments)

    @cached_property
    def traded_roles(self) -> frozenset[str]:
        """Roles of `features.roles` whose instrument is traded."""
        return frozenset(role for role, symbol in self.features.roles if symbol in self.universe.symbols)

    @property
    def planted(self) -> OracleTable:
        """How strong the planted part of a synthetic market is, by what an oracle earns from it: that of whoever
        plays."""
        return self.synthetic.planted if self.allocator is None else self.allocator.planted

    @cached_property
    def instruments(self) -> tuple[InstrumentConfig, ...]:
        """Rows of `symbols` in the order of the universe."""
        return tuple(self.symbols[symbol] for symbol in self.universe.symbols)

    @model_validator(mode="after")
    def _every_asset_belongs_to_a_domain(self) -> Settings:
        known = Universe.from_specialists(self.specialists).symbols
        assets = () if self.allocator is None else self.allocator.assets
        for key, named in (("allocator.assets", assets), ("market.instruments", self.market.instruments)):
            for symbol in named or ():
                if symbol not in known:
                    raise ValueError(f"{key}: no specialist trades {symbol}; there are {', '.join(known)}")
        for role, symbol in self.features.roles:
            if symbol not in self.symbols:
                raise ValueError(f"features.roles.{role}: {symbol} has no row under symbols")
        index = self.features.roles.index
        if assets and index not in assets:
            raise ValueError(f"features.roles.index = {index}: expected one of allocator.assets, {', '.join(assets)}")
        if self.market.instruments is not None and not self.market.instruments:
            raise ValueError("market.instruments: expected one instrument at least, or null for all")
        return self

    @model_validator(mode="after")
    def _every_traded_symbol_has_a_row(self) -> Settings:
        for domain in self.universe.domains:
            for symbol in domain.symbols:
                if symbol not in self.symbols:
                    raise ValueError(f"specialists.{domain.name} trades {symbol}, which has no row under symbols")
        if len(set(self.universe.symbols)) != self.universe.n_instruments:
            raise ValueError("an instrument belongs to two specialists")
        return self

    @classmethod
    def load(cls, config: str | Path = "default.yaml", overrides: Iterable[str] = ()) -> Settings:
        """Read a config file with its bases, apply `key=value` overrides, and check every key and value."""
        tree = apply_overrides(read_tree(config), overrides)
        return validate(cls, tree, str(config))
