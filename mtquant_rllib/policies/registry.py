"""The registry of networks, and the network of each module.

A new network is a file and a line in `NETWORKS`, or outside the package a `NetworkKind` that the settings name. A
module's configuration is a plain dictionary (`network`, `shape`, `options`) that JSON and checkpoints can hold, so that
a module can be rebuilt anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from mtquant_rllib.agents.action_maps import LOGITS_PER_INSTRUMENT
from mtquant_rllib.agents.groups import AgentGroup, agent_groups, module_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.networks import NetworksConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import extension
from mtquant_rllib.features.layout import Layout
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.attention.policy import AttentionOptions, AttentionPolicy, attention_value
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

ATTENTION = "attention"
"""Name of the attention network."""


@dataclass(frozen=True)
class NetworkKind:
    """A policy class, its shape, its value network, and the options of both.

    stackable: the policy accepts parameters with a leading axis (`networks.stack`).
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
    # Large enough that stacking gains nothing.
    ATTENTION: NetworkKind(GroupedShape, AttentionPolicy, attention_value, AttentionOptions, stackable=False),
}


ENTRY_POINTS = "mtquant_rllib.networks"
"""Group of the entry points by which installed packages register networks."""


def kind_of(config: Mapping[str, Any]) -> NetworkKind:
    """The kind of a configuration's `network`: a name of the registry, or `package.module:KIND`.

    Raises
    ------
    ConfigError
        When there is no such network.
    """
    name = config["network"]
    if name in NETWORKS:
        return NETWORKS[name]
    try:
        kind = extension("networks.names", name, ENTRY_POINTS)
    except ConfigError as error:
        raise ConfigError(f"networks.names: no network {name!r}; there are {', '.join(NETWORKS)} ({error})") from error
    if not isinstance(kind, NetworkKind):
        raise ConfigError(f"networks.names: {name} is a {type(kind).__name__}; expected a NetworkKind")
    return kind


def shape_of(config: Mapping[str, Any]) -> Shape:
    return kind_of(config).shape(**_tuples(config["shape"]))


def grouped_shape(columns: Layout, actions: int) -> GroupedShape:
    """The shape of a layout's groups, with its columns `regime_bull`, `regime_bear`, ... if it has them all."""
    names = [f"regime_{regime.name.lower()}" for regime in Regime]
    carries = set(names) <= set(columns.names)
    return GroupedShape(
        groups=tuple(columns.widths.items()),
        actions=actions,
        regime_columns=tuple(columns.column(name) for name in names) if carries else (),
    )


def flat_shape(columns: Layout, actions: int) -> FlatShape:
    return FlatShape(columns.width, actions)


def specialist_shape(columns: Layout, actions: int) -> SpecialistShape:
    """The shape of a layout of domain features, a block per instrument and own state, in this order.

    Raises
    ------
    ConfigError
        When the layout is not of this form.
    """
    domain, *blocks, state = columns.widths.values()
    if len(set(blocks)) != 1 or actions != LOGITS_PER_INSTRUMENT * len(blocks) + 1:
        raise ConfigError("networks.names: a specialist's network reads domain features, equal blocks and a state")
    return SpecialistShape(domain, len(blocks), blocks[0], state)


SHAPES: dict[type[Shape], Callable[[Layout, int], Shape]] = {
    FlatShape: flat_shape,
    SpecialistShape: specialist_shape,
    GroupedShape: grouped_shape,
}
"""Shape -> its constructor from an observation's layout and the number of actions."""


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


def network_configs(settings: Settings) -> dict[str, dict[str, Any]]:
    """Module id -> plain dictionary from which `build_policy` and `build_value` make its networks.

    In the order of `universe.policies(settings.networks.sharing)`.
    """
    return {module: _network_config(settings.networks, group) for module, group in module_groups(settings).items()}


def _network_config(networks: NetworksConfig, group: AgentGroup) -> dict[str, Any]:
    choice = group.network
    kind = kind_of({"network": choice.name})
    options: dict[str, Any] = dict(
        hidden=choice.hidden,
        value_hidden=choice.value_hidden or choice.hidden,
        value_dropout=choice.dropout,
        activation=networks.activation,
        linear_skip=choice.linear_skip,
        initial_std=networks.initial_std,
        min_std=networks.min_std,
        last_layer_scale=networks.last_layer_scale,
        initial_mean=choice.initial_mean,
        own_columns=choice.own_columns,
        reference=_reference_columns(group, kind.shape),
    )
    if choice.reference:
        # An untrained policy is the reference.
        options["last_layer_scale"] = 0.0
    if kind.options is AttentionOptions:
        options |= {"attention": networks.attention.model_dump(), "linear_skip": networks.attention.linear_skip}
    options |= networks.options.get(choice.name, {})
    if unknown := sorted(options.keys() - {field.name for field in fields(kind.options)}):
        raise ConfigError(f"networks.options.{choice.name}: there is no option {unknown[0]}")
    shape = SHAPES[kind.shape](group.observation, len(group.actions))
    config = {"network": choice.name, "shape": _plain(asdict(shape)), "options": _plain(options)}
    return config | ({"reference_kl_coeff": choice.kl_coeff} if choice.reference else {})


def _reference_columns(group: AgentGroup, shape: type[Shape]) -> tuple[tuple[int, float], ...]:
    """`NetworkOptions.reference` of a group's modules."""
    columns = tuple(
        (0, 0.0) if named is None else (group.observation.column(named[0]), named[1])
        for named in group.network.reference
    )
    if shape is not SpecialistShape or not columns:
        return columns
    own = specialist_shape(group.observation, len(group.actions))
    *views, confidence = columns
    first = views[:LOGITS_PER_INSTRUMENT]
    return (*((column - own.domain, factor) for column, factor in first), confidence)


def network_names(settings: Settings) -> dict[str, str]:
    """Agent -> name of its network, in the order of the universe's agents."""
    return {agent: group.network.name for group in agent_groups(settings) for agent in group.agents}


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
