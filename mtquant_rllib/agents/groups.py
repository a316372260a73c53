"""`AgentGroup`: agents that decide together, see the same columns and act in the same way. One row each.

Spaces, observations, networks, runners, players and reports loop over the rows; none of them asks what kind of agent
it has before it. Another level of the hierarchy, or another allocator, is another row, and the levels of its core
(`env.levels`) that observe and decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features import layout
from mtquant_rllib.features.layout import Layout
from mtquant_rllib.universe import ALLOCATOR, INSTRUMENTS, META, Domain, Universe


@dataclass(frozen=True)
class ActionComponent:
    """One number of an action, in [-1, 1], and what the environment makes of it."""

    name: str
    meaning: str


@dataclass(frozen=True)
class NetworkChoice:
    """What the group's modules are built from; see `config.sections.networks` and `config.sections.allocator`.

    own_columns
        Columns of each asset that straight lines read with the same weights; empty where they read all columns.
    reference
        Of each action, the column whose value the reference policy adds to `initial_mean` and the factor of that; None
        where it adds nothing. Empty without a reference policy: the network's own last layer then begins at
        `initial_mean`.
    kl_coeff
        Coefficient of KL(policy || reference) in the loss; see `config.sections.reference`.
    """

    name: str
    hidden: tuple[int, ...]
    value_hidden: tuple[int, ...] | None
    linear_skip: bool
    dropout: float = 0.0
    initial_mean: tuple[float, ...] = ()
    own_columns: tuple[tuple[int, ...], ...] = ()
    reference: tuple[tuple[str, float] | None, ...] = ()
    kl_coeff: float = 0.0


@dataclass(frozen=True)
class AgentGroup:
    """One row of the desk.

    name
        Of the group: its only agent's, or `instruments`.
    agents
        Ids, in the universe's order.
    decision_order
        When it decides within a bar: groups of the same number decide side by side, and see what lower ones have
        decided.
    first_phase
        Of the curriculum: it learns there with those of the same first phase, is absent before, and frozen after until
        the last phase, in which all learn.
    domain
        Index of the domain that it belongs to; None for a group of all.
    observation
        Named columns of each agent's observation.
    state_groups
        Groups of those columns that are the desk's own state; the others are a function of the market's row alone.
    market_view
        Key of `env.observations.reconstruction.MARKET_VIEWS`: what is seen of that row.
    actions
        Components of each agent's action.
    action_map
        Key of `action_maps.ACTION_MAPS`.
    every_bars
        Bars between two decisions.
    network
        What its modules are built from.
    learning_rate
        Of its modules; None for the recipe's.
    """

    name: str
    agents: tuple[str, ...]
    decision_order: int
    first_phase: int
    domain: int | None
    observation: Layout
    state_groups: tuple[str, ...]
    market_view: str
    actions: tuple[ActionComponent, ...]
    action_map: str
    every_bars: int
    network: NetworkChoice
    learning_rate: float | None = None

    @cached_property
    def state_columns(self) -> np.ndarray:
        """Columns of an observation that are no function of the market's row, int64 (p,)."""
        parts = [self.observation[name] for name in self.state_groups]
        columns = [np.arange(part.start, part.stop) for part in parts]
        return np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)

    def agents_in(self, universe: Universe, domain: int | None) -> tuple[str, ...]:
        """Those of its agents that play where one domain does; all of them where every domain does (None)."""
        if domain is None or self.domain == domain:
            return self.agents
        own = universe.domains[domain].symbols if self.domain is None else ()
        return tuple(agent for agent in self.agents if agent in own)


def agent_groups(settings: Settings) -> tuple[AgentGroup, ...]:
    """The rows, in the order of decision.

    Raises
    ------
    ConfigError
        When a width in the agents' table is not that of the layout.
    """
    if settings.allocator is not None:
        return (_allocator(settings),)
    universe = settings.universe
    specialists = (_specialist(settings, number) for number in range(universe.n_domains))
    return (_meta_controller(settings), *specialists, _instruments(settings))


def group_of(settings: Settings, agent: str) -> AgentGroup:
    """The row that an agent stands in.

    Raises
    ------
    ConfigError
        When there is no such agent.
    """
    for group in agent_groups(settings):
        if agent in group.agents:
            return group
    raise ConfigError(f"no agent {agent!r}; there are {', '.join(settings.universe.agent_ids)}")


def _meta_controller(settings: Settings) -> AgentGroup:
    universe, decision, own = settings.universe, settings.desk.decision, settings.meta_controller
    seen = layout.meta_layout(universe, settings.desk.observation.returns_days)
    _expect_width("meta_controller.state_dim", own.state_dim, seen.width)
    snapped = f"below {decision.dead_band:g} it is 0"
    share = (
        f"logit of the domain's share of capital: softmax({decision.logit_scale:g} * logits), at most "
        f"{decision.allocation_cap:g}, the excess stays in cash; {snapped}"
    )
    shares = (ActionComponent(f"allocation_{domain.name}", share) for domain in universe.domains)
    networks = settings.networks
    return AgentGroup(
        name=META,
        agents=(META,),
        decision_order=0,
        first_phase=2,
        domain=None,
        observation=seen,
        state_groups=("portfolio", "specialists"),
        market_view="correlation_and_macro",
        actions=(*shares, ActionComponent("appetite", f"risk appetite in [0, 1]: (a + 1) / 2; {snapped}")),
        action_map="allocation",
        every_bars=decision.meta_every_bars,
        network=NetworkChoice(
            networks.names.meta,
            (own.hidden_dim, own.hidden_dim_2),
            networks.value_hidden.meta,
            networks.linear_skip.meta,
            own.dropout,
            (*[0.0] * universe.n_domains, 2.0 * networks.initial_appetite - 1.0),
            reference=(None,) * (universe.n_domains + 1) if settings.reference.exists else (),
            kl_coeff=settings.reference.kl_coeff.meta,
        ),
        learning_rate=settings.recipe.learning_rates.meta_controller,
    )


def _specialist(settings: Settings, number: int) -> AgentGroup:
    universe, decision, networks = settings.universe, settings.desk.decision, settings.networks
    domain = universe.domains[number]
    own = settings.specialists[domain.name]
    key, features = f"specialists.{domain.name}", layout.domain_layout(domain, settings)
    _expect_width(f"{key}.observation_dim", own.observation_dim, layout.block_layout(settings).width)
    _expect_width(f"{key}.market_features_dim", own.market_features_dim, features.width)
    view = f"logit of a view on the instrument: P = softmax({decision.logit_scale:g} * [buy, hold, sell])"
    logits = (
        ActionComponent(f"{symbol}.{side}", f"{view}; intent = P(buy) - P(sell)")
        for symbol in domain.symbols
        for side in ("buy", "hold", "sell")
    )
    blend = "(a + 1) / 2; conviction = confidence * intent + (1 - confidence) * the instrument's signal"
    return AgentGroup(
        name=domain.specialist,
        agents=(domain.specialist,),
        decision_order=1,
        first_phase=1,
        domain=number,
        observation=layout.specialist_layout(domain, settings),
        state_groups=("state",),
        market_view="domain_and_blocks",
        actions=(*logits, ActionComponent("confidence", f"confidence in [0, 1]: {blend}")),
        action_map="views",
        every_bars=decision.specialists_every_bars,
        network=NetworkChoice(
            networks.names.specialist,
            (own.hidden_dim,),
            networks.value_hidden.specialist,
            networks.linear_skip.specialist,
            reference=_views_of_reference(domain) if settings.reference.exists else (),
            kl_coeff=settings.reference.kl_coeff.specialist,
        ),
        learning_rate=settings.recipe.learning_rates.specialists,
    )


def _views_of_reference(domain: Domain) -> tuple[tuple[str, float] | None, ...]:
    """(buy, hold, sell) of each instrument by the reference's view; its confidence is even."""
    views = [(f"{symbol}.reference_view", factor) for symbol in domain.symbols for factor in (1.0, 0.0, -1.0)]
    return (*views, None)


def _expect_width(key: str, expected: int | None, width: int) -> None:
    if expected is not None and expected != width:
        raise ConfigError(f"{key} = {expected}: the layout is {width} wide; {key}=null takes that")


def _instruments(settings: Settings) -> AgentGroup:
    decision, networks = settings.desk.decision, settings.networks
    low, high = decision.stop_atr_min, decision.stop_atr_max
    return AgentGroup(
        name=INSTRUMENTS,
        agents=settings.universe.symbols,
        decision_order=2,
        first_phase=1,
        domain=None,
        observation=layout.instrument_layout(settings),
        state_groups=("state",),
        market_view="own_block",
        actions=(
            ActionComponent("signal", "signal in [-1, 1], short to long, as it is"),
            ActionComponent("urgency", "share of the way to the target weight that is traded now: (a + 1) / 2"),
            ActionComponent("stop", f"stop distance in ATRs: {low:g} + {high - low:g} * (a + 1) / 2"),
        ),
        action_map="bounded",
        every_bars=1,
        network=NetworkChoice(
            networks.names.instrument,
            networks.instrument_hidden,
            networks.value_hidden.instrument,
            networks.linear_skip.instrument,
            # Its own stop is none: as far away as stops go.
            initial_mean=(0.0, 2.0 * settings.reference.urgency - 1.0, 1.0) if settings.reference.exists else (),
            reference=(("reference", 1.0), None, None) if settings.reference.exists else (),
            kl_coeff=settings.reference.kl_coeff.instrument,
        ),
        learning_rate=settings.recipe.learning_rates.instruments,
    )


def _allocator(settings: Settings) -> AgentGroup:
    own, symbols = settings.allocator, settings.universe.symbols
    assert own is not None
    meaning = f"logit of its weight: weights = softmax({own.logit_scale:g} * actions), long only, summing to 1"
    return AgentGroup(
        name=ALLOCATOR,
        agents=(ALLOCATOR,),
        decision_order=0,
        first_phase=1,
        domain=None,
        observation=layout.allocator_layout(symbols),
        state_groups=(),
        market_view="asset_columns",
        actions=tuple(ActionComponent(f"logit_{symbol}", meaning) for symbol in symbols),
        action_map="simplex",
        every_bars=1,
        network=NetworkChoice(
            own.network,
            own.hidden,
            None,
            own.linear_skip,
            own_columns=layout.columns_by_asset(symbols) if own.shared_line else (),
        ),
    )


def module_groups(settings: Settings) -> dict[str, AgentGroup]:
    """Module id -> the row whose agents it serves, in the order of `Universe.policies`."""
    universe: Universe = settings.universe
    sharing = settings.networks.sharing
    return {universe.policy_of(agent, sharing): group for group in agent_groups(settings) for agent in group.agents}


def map_numbers(settings: Settings) -> dict[str, float]:
    """The numbers that the action maps need, as a plain dictionary."""
    if settings.allocator is not None:
        return {"logit_scale": settings.allocator.logit_scale}
    config = settings.desk.decision
    return {name: getattr(config, name) for name in ("logit_scale", "dead_band", "allocation_cap")}
