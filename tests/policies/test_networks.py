"""The plain networks: what they compute, how they start, and that stacking them changes nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.networks import (
    Dense,
    FlatShape,
    InstrumentNetwork,
    MetaNetwork,
    NetworkOptions,
    PerActionLinear,
    SpecialistNetwork,
    SpecialistShape,
    ValueNetwork,
    stack,
    stacked_parameters,
)
from mtquant_rllib.policies.registry import (
    NETWORKS,
    build_policy,
    build_value,
    network_configs,
    shape_of,
)
from mtquant_rllib.universe import ALLOCATOR, META, Sharing

OPTIONS = NetworkOptions(
    hidden=(8,),
    value_hidden=(8, 4),
    value_dropout=0.5,
    activation="tanh",
    linear_skip=False,
    initial_std=0.7,
    min_std=0.3,
    last_layer_scale=0.01,
    initial_mean=(),
    own_columns=(),
)
FOREX = SpecialistShape(domain=8, n_instruments=3, block=5, state=2)
BOTH = pytest.mark.parametrize("linear_skip", [False, True])


def awake(network: nn.Module) -> nn.Module:
    """The network with weights of ordinary size, so that a difference anywhere is seen at the output."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("level", list(NETWORKS))
@BOTH
def test_every_network_starts_near_its_first_mean_with_the_configured_deviation(level, linear_skip, widths):
    serves = level if level in ("meta", "specialist", "instrument") else "meta"
    settings = Settings.load(overrides=[f"networks.names.{serves}={level}"])
    configs = network_configs(settings)
    config = next(config for config in configs.values() if config["network"] == level)
    config = {**config, "options": {**config["options"], "linear_skip": linear_skip}}
    obs = torch.randn(64, shape_of(config).observation)
    mean, log_std = build_policy(config)(obs).chunk(2, dim=-1)
    first = torch.tensor(config["options"]["initial_mean"] or [0.0] * mean.shape[1])
    assert (mean - first).abs().max() < 0.3
    np.testing.assert_allclose(log_std.exp().detach(), settings.networks.initial_std, rtol=1e-6)
    assert build_value(config)(obs).abs().max() < 0.3


def test_the_desk_has_the_documented_widths(settings, widths):
    configs = network_configs(settings)
    outputs = {name: build_policy(config).mean(torch.zeros(2, shape_of(config).observation)).shape
               for name, config in configs.items()}  # fmt: skip
    assert outputs[META] == (2, 4)
    assert outputs["forex_specialist"] == outputs["equity_specialist"] == (2, 10)
    assert outputs["commodities_specialist"] == (2, 7)
    assert all(outputs[symbol] == (2, 3) for symbol in settings.universe.symbols)
    assert shape_of(configs["forex_specialist"]).observation == 8 + 3 * 50 + 10
    meta = build_policy(configs[META])
    assert [tuple(layer.weight.shape) for layer in meta.modules() if isinstance(layer, Dense)] == [
        (256, 74), (128, 256), (4, 128)
    ]  # fmt: skip


@pytest.mark.parametrize("meta", ["meta", "attention"])
def test_network_configs_survive_json(meta, widths):
    settings = Settings.load(overrides=[f"networks.names.meta={meta}"])
    configs = network_configs(settings)
    rebuilt = json.loads(json.dumps(configs))
    assert rebuilt == configs
    assert shape_of(rebuilt[META]) == shape_of(configs[META])


@pytest.mark.parametrize(("sharing", "n_instrument_modules"), [("none", 8), ("domain", 3), ("all", 1)])
def test_sharing_decides_how_many_instrument_modules_there_are(sharing, n_instrument_modules, widths):
    settings = Settings.load(overrides=[f"networks.sharing={sharing}"])
    configs = network_configs(settings)
    assert tuple(configs) == settings.universe.policies(Sharing(sharing))
    assert sum(config["network"] == "instrument" for config in configs.values()) == n_instrument_modules


@BOTH
def test_a_specialist_reads_every_instrument_with_the_same_weights(linear_skip):
    network = awake(SpecialistNetwork(FOREX, replace(OPTIONS, linear_skip=linear_skip)))
    domain, blocks, state = torch.randn(4, 8), torch.randn(4, 3, 5), torch.randn(4, 2)
    mean = network.mean(torch.cat((domain, blocks.flatten(1), state), dim=1))
    swapped = network.mean(torch.cat((domain, blocks[:, [2, 0, 1]].flatten(1), state), dim=1))
    logits, swapped_logits = mean[:, :9].unflatten(1, (3, 3)), swapped[:, :9].unflatten(1, (3, 3))
    torch.testing.assert_close(swapped_logits, logits[:, [2, 0, 1]])
    torch.testing.assert_close(swapped[:, 9], mean[:, 9])


def test_a_specialists_logits_of_one_instrument_ignore_the_blocks_of_the_others():
    network = awake(SpecialistNetwork(FOREX, OPTIONS))
    obs = torch.randn(1, FOREX.observation)
    other = obs.clone()
    other[:, 8:13] += 1.0  # the first instrument's block
    change = (network.mean(other) - network.mean(obs)).abs()[0]
    assert (change[:3] > 1e-3).all()
    assert (change[3:9] == 0).all()
    assert change[9] > 1e-4  # confidence sees them all


def test_the_deviation_approaches_its_floor_and_never_loses_its_gradient():
    network = InstrumentNetwork(FlatShape(6, 3), OPTIONS)
    nn.init.constant_(network.rho, -8.0)
    network.log_std().sum().backward()
    std = network.log_std().exp()
    assert (std > 0.3).all()
    assert (std < 0.301).all()
    assert (network.rho.grad > 0).all()


def test_a_floor_of_zero_leaves_a_plain_log_deviation():
    network = InstrumentNetwork(FlatShape(6, 3), replace(OPTIONS, min_std=0.0, initial_std=0.5))
    np.testing.assert_allclose(network.log_std().detach(), math.log(0.5), rtol=1e-6)
    assert torch.equal(network.log_std(), network.rho)


def test_the_skip_alone_can_carry_a_linear_rule():
    network = InstrumentNetwork(FlatShape(6, 3), replace(OPTIONS, linear_skip=True))
    nn.init.zeros_(network.head.weight)
    rule = torch.randn(3, 6)
    with torch.no_grad():
        network.skip.weight.copy_(rule)
    obs = torch.randn(5, 6)
    torch.testing.assert_close(network.mean(obs), obs @ rule.T)


def test_an_own_line_reads_each_actions_columns_with_the_same_weights():
    line = awake(PerActionLinear(((0, 3), (1, 4), (2, 5)), gain=1.0))
    obs = torch.randn(7, 6)
    by_hand = torch.stack([obs[:, [a, a + 3]] @ line.line.weight[0] for a in range(3)], dim=1)
    torch.testing.assert_close(line(obs), by_hand)


@pytest.mark.parametrize("network", ["plain", "attention"])
def test_with_a_shared_line_an_allocator_takes_each_asset_for_the_other(network):
    """All but the line silent: assets that change places change weights."""
    settings = Settings.load(
        "allocator.yaml",
        [f"allocator.network={network}", "allocator.linear_skip=true", "networks.attention.linear_skip=true"],
    )
    config = network_configs(settings)[ALLOCATOR]
    policy = awake(build_policy(config))
    for name, parameter in policy.named_parameters():
        if not name.startswith("skip"):
            nn.init.zeros_(parameter)
    obs = torch.randn(9, 50)
    columns = torch.tensor(config["options"]["own_columns"])
    order = [1, 2, 3, 4, 0]
    moved = obs.clone()
    moved[:, columns.flatten()] = obs[:, columns[order].flatten()]
    torch.testing.assert_close(policy.mean(moved), policy.mean(obs)[:, order])
    assert policy.mean(obs).std(dim=1).min() > 0.01


def test_dropout_acts_in_the_value_pass_only_when_asked_for():
    value = awake(ValueNetwork(FlatShape(6, 3), OPTIONS)).train()
    obs = torch.randn(32, 6)
    assert torch.equal(value(obs), value(obs))
    assert not torch.equal(value(obs, drop=True), value(obs, drop=True))
    policy = awake(MetaNetwork(FlatShape(6, 3), OPTIONS)).train()
    assert torch.equal(policy(obs), policy(obs))
    assert not any(isinstance(layer, nn.Dropout) for layer in policy.modules())


def test_the_value_loss_leaves_the_policy_alone(settings, widths):
    for config in network_configs(settings).values():
        policy, value = build_policy(config), build_value(config)
        value(torch.randn(3, shape_of(config).observation)).sum().backward()
        assert all(parameter.grad is not None for parameter in value.parameters())
        assert all(parameter.grad is None for parameter in policy.parameters())


@BOTH
@pytest.mark.parametrize(("kind", "shape"), [(InstrumentNetwork, FlatShape(6, 3)), (SpecialistNetwork, FOREX)])
def test_stacked_networks_equal_each_one_alone(kind, shape, linear_skip):
    networks = [awake(kind(shape, replace(OPTIONS, linear_skip=linear_skip))) for _ in range(4)]
    obs = torch.randn(4, 7, shape.observation)
    alone = torch.stack([network(rows) for network, rows in zip(networks, obs)])
    torch.testing.assert_close(stack(networks)(obs), alone, rtol=0, atol=1e-6)


def test_gradients_flow_through_stacked_parameters_to_each_network():
    networks = [awake(InstrumentNetwork(FlatShape(6, 3), OPTIONS)) for _ in range(2)]
    obs = torch.randn(2, 7, 6)
    together = torch.func.functional_call(networks[0], stacked_parameters(networks), (obs,))
    together.square().sum().backward()
    gradients = [network.head.weight.grad.clone() for network in networks]
    for network, rows, gradient in zip(networks, obs, gradients):
        network.zero_grad()
        network(rows).square().sum().backward()
        torch.testing.assert_close(network.head.weight.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_floor_above_the_initial_deviation_is_refused():
    with pytest.raises(ConfigError, match=r"initial_std 0\.2 must lie above min_std 0\.3"):
        Settings.load(overrides=["networks.initial_std=0.2"])


def test_an_unknown_network_names_those_there_are(widths):
    settings = Settings.load(overrides=["networks.names.meta=mta"])
    with pytest.raises(ConfigError, match=r"no network 'mta'.*meta, specialist, instrument"):
        network_configs(settings)


def test_a_layout_of_another_width_than_the_agents_table_says_is_refused():
    with pytest.raises(ConfigError, match=r"state_dim = 73: the layout is 74 wide"):
        network_configs(Settings.load(overrides=["meta_controller.state_dim=73"]))


@pytest.mark.parametrize("network", ["meta", "attention"])
def test_the_meta_controller_begins_as_the_desk_of_phase_one(network, widths):
    """Equal shares of capital at full appetite, whatever it sees, but for its small last layer."""
    settings = Settings.load(overrides=[f"networks.names.meta={network}", "networks.attention.mixture.temperature=2.0"])
    config = network_configs(settings)[META]
    policy = build_policy(config)
    mean = policy(torch.randn(64, 74))[:, :4].detach().numpy()
    np.testing.assert_allclose(mean, np.broadcast_to([0.0, 0.0, 0.0, 1.0], mean.shape), atol=0.1)
