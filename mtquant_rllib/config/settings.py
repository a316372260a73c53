"""The whole of the settings, one section per concern, as one frozen tree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pydantic import model_validator

from mtquant_rllib.config.base import CalendarYear, RatePct, Section, Seed
from mtquant_rllib.config.loader import apply_overrides, read_tree, validate
from mtquant_rllib.config.sections.agents import (
    DocumentTrainingConfig,
    MetaControllerConfig,
    PortfolioRiskConfig,
    SpecialistConfig,
)
from mtquant_rllib.config.sections.allocator import AllocatorConfig
from mtquant_rllib.config.sections.desk import DeskConfig, RewardConfig
from mtquant_rllib.config.sections.embedded import EmbeddedConfig
from mtquant_rllib.config.sections.evaluation import EvaluationConfig
from mtquant_rllib.config.sections.features import FeaturesConfig
from mtquant_rllib.config.sections.instruments import InstrumentConfig
from mtquant_rllib.config.sections.market import MarketConfig
from mtquant_rllib.config.sections.networks import NetworksConfig
from mtquant_rllib.config.sections.reference import ReferenceConfig
from mtquant_rllib.config.sections.risk import RiskConfig
from mtquant_rllib.config.sections.sac import SACConfig
from mtquant_rllib.config.sections.search import SearchConfig
from mtquant_rllib.config.sections.serving import ServingConfig
from mtquant_rllib.config.sections.synthetic import OracleTable, SyntheticConfig
from mtquant_rllib.config.sections.training import (
    CheckpointsConfig,
    LearnerConfig,
    RecipeConfig,
    ResourcesConfig,
    TrackingConfig,
)
from mtquant_rllib.universe import ALLOCATOR, INSTRUMENTS, JOINT, META, Universe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What RLlib takes as a module's id, and a file system as a folder's name."""
_COLUMN = re.compile(r"[A-Za-z]\w*", re.ASCII)
"""What a column of an observation may be called."""


BY_MARKET = ("reference.where", "desk.decision.risk_scale.where", "recipe.use_final_ema")
"""Settings that depend on the market where they are `files` (`config.base.Where`)."""


class Settings(Section):
    """Everything a run depends on. `Settings.load()` reads `configs/default.yaml`."""

    seed: Seed
    symbols: dict[str, InstrumentConfig]
    policy_rates: dict[str, dict[CalendarYear, RatePct]]
    market: MarketConfig
    synthetic: SyntheticConfig
    meta_controller: MetaControllerConfig
    specialists: dict[str, SpecialistConfig]
    portfolio_risk: PortfolioRiskConfig
    risk: RiskConfig
    training: DocumentTrainingConfig
    features: FeaturesConfig
    networks: NetworksConfig
    reference: ReferenceConfig
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
    search: SearchConfig
    serving: ServingConfig
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
        chosen = self.market.instruments
        for key, named in (("allocator.assets", assets), ("market.instruments", chosen or ())):
            for symbol in named:
                if symbol not in known:
                    raise ValueError(f"{key}: no specialist trades {symbol}; there are {', '.join(known)}")
            if repeated := [symbol for symbol in known if tuple(named).count(symbol) > 1]:
                raise ValueError(f"{key}: {', '.join(repeated)} stands there more than once")
        if chosen is not None and not chosen:
            raise ValueError("market.instruments: expected one instrument at least, or null for all")
        if chosen is not None and assets:
            raise ValueError("market.instruments: an allocator trades allocator.assets; set those")
        index = self.features.roles.index
        if assets and index not in assets:
            raise ValueError(f"features.roles.index = {index}: expected one of allocator.assets, {', '.join(assets)}")
        return self

    @model_validator(mode="after")
    def _reference_is_the_desks(self) -> Settings:
        if self.allocator is not None and self.reference.exists:
            raise ValueError("reference.where = always: an allocator has no reference policy")
        for symbol in self.reference.premia:
            if symbol not in self.symbols:
                raise ValueError(f"reference.premia: {symbol} has no row under symbols")
        return self

    @model_validator(mode="after")
    def _brokers_trade_what_there_is(self) -> Settings:
        for name, broker in self.serving.brokers.items():
            if unknown := [symbol for symbol in broker.symbols if symbol not in self.symbols]:
                raise ValueError(f"serving.brokers.{name}.symbols: {unknown[0]} has no row under symbols")
        return self

    @model_validator(mode="after")
    def _structures_are_the_desks(self) -> Settings:
        planted, universe = self.synthetic.planted, self.universe
        if self.allocator is not None and planted.structures:
            raise ValueError(
                f"synthetic.planted.{planted.structures[0]}.oracle_gain: an allocator has no meta-controller and "
                "no specialists that it could concern; expected 0"
            )
        if planted.overlap.strength > 0:
            shared = [symbol for symbol in planted.overlap.instruments if symbol in universe.symbols]
            domains = {universe.domain_of[universe.symbols.index(symbol)] for symbol in shared}
            if len(shared) < 2 or len(domains) < len(shared):
                raise ValueError(
                    f"synthetic.planted.overlap.instruments = [{', '.join(planted.overlap.instruments)}]: expected two "
                    "traded instruments at least, and each of another domain"
                )
        return self

    @model_validator(mode="after")
    def _an_allocator_has_no_others(self) -> Settings:
        if self.allocator is not None and self.features.others_lag_bars > 0:
            raise ValueError(
                f"features.others_lag_bars = {self.features.others_lag_bars}: an allocator weighs all that it sees, so "
                "that nothing is of others; expected 0"
            )
        return self

    @model_validator(mode="after")
    def _own_features_have_a_place(self) -> Settings:
        own = self.features.own
        if self.allocator is not None and (own.instrument or any(own.domains.values())):
            raise ValueError("features.own: an allocator sees none of them; it sees part of the block alone")
        for domain in own.domains:
            if domain not in self.specialists:
                raise ValueError(f"features.own.domains: no domain {domain!r}; there are {', '.join(self.specialists)}")
        for key, names in {"instrument": own.instrument, **{f"domains.{d}": v for d, v in own.domains.items()}}.items():
            for name in names:
                if not _COLUMN.fullmatch(name):
                    raise ValueError(f"features.own.{key}: {name!r} is no name: expected letters, digits and _")
        return self

    @model_validator(mode="after")
    def _every_role_has_a_row(self) -> Settings:
        for role, symbol in self.features.roles:
            if symbol not in self.symbols:
                raise ValueError(f"features.roles.{role}: {symbol} has no row under symbols")
        return self

    @model_validator(mode="after")
    def _every_traded_symbol_has_a_row_and_one_specialist(self) -> Settings:
        owner: dict[str, str] = {}
        for name, row in self.specialists.items():
            written = f"{''.join(part.capitalize() for part in name.split('_'))}Specialist"
            if row.type not in (None, written):
                raise ValueError(f"specialists.{name}.type = {row.type}: expected {written}, or nothing")
            for symbol in row.instruments:
                if symbol not in self.symbols:
                    raise ValueError(f"specialists.{name} trades {symbol}, which has no row under symbols")
                if symbol in owner:
                    both = "twice" if owner[symbol] == name else f"beside specialists.{owner[symbol]}"
                    raise ValueError(f"specialists.{name} trades {symbol} {both}; an instrument has one agent")
                owner[symbol] = name
        if not owner:
            raise ValueError("specialists: no instrument is traded")
        return self

    @model_validator(mode="after")
    def _names_are_no_others(self) -> Settings:
        """Names of domains and instruments become ids of agents and modules, and folders of a run."""
        universe = Universe.from_specialists(self.specialists)
        domains = [domain.name for domain in universe.domains]
        for key, names in (("specialists", domains), ("symbols", universe.symbols)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{key}: {name!r} is no name: expected letters, digits, _ and -")
        shared = [f"{name}_{INSTRUMENTS}" for name in domains]
        taken = {META, ALLOCATOR, JOINT, INSTRUMENTS, *shared, *(domain.specialist for domain in universe.domains)}
        for key, names in (("specialists", domains), ("symbols", universe.symbols)):
            if both := taken.intersection(names):
                raise ValueError(f"{key}: {sorted(both)[0]!r} is the name of another agent, module or trial")
        return self

    @classmethod
    def load(cls, config: str | Path = "default.yaml", overrides: Iterable[str] = ()) -> Settings:
        """Read a config file with its bases, apply `key=value` overrides, and check every key and value."""
        tree = apply_overrides(read_tree(config), overrides)
        return validate(cls, tree, str(config))
