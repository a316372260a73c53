"""Which networks exist, and which one each module of the desk gets.

A new network is a file and a line in `NETWORKS`. What a module is built from travels as a plain dictionary
(`network`, `shape`, `options`), which survives JSON and a checkpoint, so that a module can be rebuilt anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features import layout
from mtquant_rllib.features.layout import Layout
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.attention_policy import AttentionOptions, AttentionPolicy, attention_value
from mtquant_rllib.policies.networks import (
    FlatPolicy,
    FlatShape,
    GaussianPolicy,
    GroupedShape,
    InstrumentNetwork,
    MetaNetwork,
    NetworkOptions,
    Shape,
    SpecialistNetwork,
    SpecialistShape,
    ValueFunction,
    ValueNetwork,
)
from mtquant_rllib.universe import ALLOCATOR, META, Universe

ATTENTION = "attention"
"""Name of the network that `policies.looking` can look into."""

RISK_APPETITE = 1
INSTRUMENT_ACTIONS = 3
"""Signal, urgency, stop distance."""


@dataclass(frozen=True)
class NetworkKind:
    """A policy class, the shape it reads, the value network beside it and what both are told besides the shape.

    `stackable`: the policy accepts parameters with a leading axis (`networks.stack`).
    """

    shape: type[FlatShape] | type[SpecialistShape] | type[GroupedShape]
    policy: Callable[[Any, Any], GaussianPolicy]
    value: Callable[[Any, Any], ValueFunction] = ValueNetwork
    options: type[NetworkOptions] = NetworkOptions
    stackable: bool = True


NETWORKS: dict[str, NetworkKind] = {
    "plain": NetworkKind(FlatShape, FlatPolicy),
    "meta": NetworkKind(FlatShape, MetaNetwork),
    "specialist": NetworkKind(SpecialistShape, SpecialistNetwork),
    "instrument": NetworkKind(FlatShape, InstrumentNetwork),
    # Large enough that a batch of rows fills the machine: nothing is won by stacking.
    ATTENTION: NetworkKind(GroupedShape, AttentionPolicy, attention_value, AttentionOptions, stackable=False),
}


@dataclass(frozen=True)
class DeskWidths:
    """Widths of the observations, as the feature layout defines them. Domain widths stand in the universe."""

    meta: int
    block: int
    specialist_state: int
    instrument_state: int

    @classmethod
    def of(cls, settings: Settings) -> DeskWidths:
        return cls(
            meta=layout.meta_layout(settings.universe, settings.desk.observation.returns_days).width,
            block=layout.BLOCK.width,
            specialist_state=layout.SPECIALIST_STATE.width,
            instrument_state=layout.INSTRUMENT_STATE.width,
        )


def kind_of(config: Mapping[str, Any]) -> NetworkKind:
    name = config["network"]
    if name not in NETWORKS:
        raise ConfigError(f"networks.names: no network {name!r}; the registry has {', '.join(NETWORKS)}")
    return NETWORKS[name]


def shape_of(config: Mapping[str, Any]) -> Shape:
    return kind_of(config).shape(**_tuples(config["shape"]))


def grouped_shape(columns: Layout, actions: int) -> GroupedShape:
    """A layout's groups, and its columns `regime_bull`, `regime_bear`, ... if it has them all."""
    names = [f"regime_{regime.name.lower()}" for regime in Regime]
    carries = set(names) <= set(columns.names)
    return GroupedShape(
        groups=tuple(columns.widths.items()),
        actions=actions,
        regime_columns=tuple(columns.column(name) for name in names) if carries else (),
    )


def _options(config: Mapping[str, Any]) -> NetworkOptions:
    return kind_of(config).options(**_tuples(config["options"]))


def _plain(item: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(item, Mapping):
        return {key: _plain(value) for key, value in item.items()}
    return [_plain(value) for value in item] if isinstance(item, tuple | list) else item


def _tuples(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {key: _tuples(value) for key, value in item.items()}
    return tuple(_tuples(value) for value in item) if isinstance(item, tuple | list) else item


def build_policy(config: Mapping[str, Any]) -> GaussianPolicy:
    return kind_of(config).policy(shape_of(config), _options(config))


def build_value(config: Mapping[str, Any]) -> ValueFunction:
    return kind_of(config).value(shape_of(config), _options(config))


def network_configs(universe: Universe, widths: DeskWidths, settings: Settings) -> dict[str, dict[str, Any]]:
    """Module id -> plain dictionary from which `build_policy` and `build_value` make its networks.

    In the order of `universe.policies(settings.networks.sharing)`. Meta hidden sizes and dropout, and the hidden size
    of each specialist, come from the agents' table, an allocator's from its own; the rest from `networks`.
    """
    networks, meta = settings.networks, settings.meta_controller
    if not universe.allocates and widths.meta != meta.state_dim:
        raise ConfigError(f"meta_controller.state_dim = {meta.state_dim}: the feature layout is {widths.meta} wide")
    if any(settings.specialists[domain.name].observation_dim != widths.block for domain in universe.domains):
        raise ConfigError(f"specialists.*.observation_dim: an instrument's block is {widths.block} wide")

    def config(
        network: str,
        shape: FlatShape | SpecialistShape,
        columns: Layout,
        hidden: tuple[int, ...],
        value_hidden: tuple[int, ...] | None,
        linear_skip: bool,
        dropout: float = 0.0,
        initial_mean: tuple[float, ...] = (),
        own_columns: tuple[tuple[int, ...], ...] = (),
    ) -> dict[str, Any]:
        kind = kind_of({"network": network})
        options: dict[str, Any] = dict(
            hidden=hidden,
            value_hidden=value_hidden or hidden,
            value_dropout=dropout,
            activation=networks.activation,
            linear_skip=linear_skip,
            initial_std=networks.initial_std,
            std_floor=networks.std_floor,
            last_layer_scale=networks.last_layer_scale,
            initial_mean=initial_mean,
            own_columns=own_columns,
        )
        if kind.options is AttentionOptions:
            options |= {"attention": networks.attention.model_dump(), "linear_skip": networks.attention.linear_skip}
        built = grouped_shape(columns, shape.actions) if kind.shape is GroupedShape else shape
        return {"network": network, "shape": _plain(asdict(built)), "options": _plain(options)}

    if settings.allocator is not None:
        own = settings.allocator
        columns = layout.allocator_layout(universe.symbols)
        flat = FlatShape(columns.width, universe.n_instruments)
        shared = layout.columns_by_asset(universe.symbols) if own.shared_line else ()
        return {ALLOCATOR: config(own.network, flat, columns, own.hidden, None, own.linear_skip, own_columns=shared)}
    configs = {
        META: config(
            networks.names.meta,
            FlatShape(widths.meta, universe.n_domains + RISK_APPETITE),
            layout.meta_layout(universe, settings.desk.observation.returns_days),
            (meta.hidden_dim, meta.hidden_dim_2),
            networks.value_hidden.meta,
            networks.linear_skip.meta,
            meta.dropout,
            (*[0.0] * universe.n_domains, 2.0 * networks.initial_appetite - 1.0),
        )
    }
    for domain in universe.domains:
        configs[domain.specialist] = config(
            networks.names.specialist,
            SpecialistShape(domain.features_dim, len(domain.symbols), widths.block, widths.specialist_state),
            layout.specialist_layout(domain),
            (settings.specialists[domain.name].hidden_dim,),
            networks.value_hidden.specialist,
            networks.linear_skip.specialist,
        )
    for symbol in universe.symbols:
        configs[universe.policy_of(symbol, networks.sharing)] = config(
            networks.names.instrument,
            FlatShape(widths.block + widths.instrument_state, INSTRUMENT_ACTIONS),
            layout.INSTRUMENT,
            networks.instrument_hidden,
            networks.value_hidden.instrument,
            networks.linear_skip.instrument,
        )
    return configs


def network_names(settings: Settings) -> dict[str, str]:
    """Agent -> name of its network, in the order of the universe's agents."""
    universe, names = settings.universe, settings.networks.names
    if settings.allocator is not None:
        return {ALLOCATOR: settings.allocator.network}
    levels = {META: names.meta, **dict.fromkeys(universe.specialists, names.specialist)}
    return {agent: levels.get(agent, names.instrument) for agent in universe.agent_ids}


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
