"""The desk's policies outside RLlib act as the RLlib modules do."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from mtquant_rllib.agents.groups import INSTRUMENTS
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.features.layout import specialist_layout
from mtquant_rllib.policies import registry
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.universe import META

B = 5


def awake_modules(settings, widths):
    """RLlib modules with weights of ordinary size: means well inside and outside [-1, 1]."""
    modules = module_specs(settings).build()
    for _, module in modules.items():
        for parameter in module.policy.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return modules


def states_of(modules):
    return {name: module.get_state() for name, module in modules.items()}


def inference(modules, module_id, obs):
    return modules[module_id].forward_inference({Columns.OBS: torch.from_numpy(obs)})[Columns.ACTION_DIST_INPUTS]


def play(actor, settings, widths, noise):
    """Agent id -> (observation, action, noise) of every agent of the desk, drawn from one generator."""
    random, universe = np.random.default_rng(1), settings.universe
    draw = lambda *shape: random.standard_normal(shape, np.float32)  # noqa: E731
    seen = {META: (draw(B, widths.meta), draw(B, 4))}
    for domain in universe.domains:
        n = len(domain.symbols)
        seen[domain.specialist] = (draw(B, specialist_layout(domain, settings).width), draw(B, 3 * n + 1))
    block, block_noise = draw(B, 8, 61), draw(B, 8, 3)
    table = {META: (*seen[META], actor.act(META, seen[META][0], seen[META][1] if noise else None))}
    for d, name in enumerate(universe.specialists):
        obs, draws = seen[name]
        table[name] = (obs, draws, actor.act(settings.universe.specialists[d], obs, draws if noise else None))
    actions = actor.act(INSTRUMENTS, block, block_noise if noise else None)
    for i, symbol in enumerate(universe.symbols):
        table[symbol] = (np.ascontiguousarray(block[:, i]), block_noise[:, i], actions[:, i])
    return table


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("sharing", ["none", "domain", "all"])
def test_every_agent_acts_as_its_rllib_module(sharing, skip, noise, widths):
    levels = ("meta", "specialist", "instrument")
    skips = [f"networks.linear_skip.{level}={skip}" for level in levels]
    settings = Settings.load(overrides=[f"networks.sharing={sharing}", *skips])
    modules = awake_modules(settings, widths)
    actor = DeskActor(settings, states_of(modules))
    for agent, (obs, draws, actions) in play(actor, settings, widths, noise).items():
        module_id = settings.universe.policy_of(agent, settings.networks.sharing)
        mean, log_std = np.split(inference(modules, module_id, obs).numpy(), 2, axis=1)
        expected = np.clip(mean + np.exp(log_std) * draws if noise else mean, -1, 1)
        np.testing.assert_allclose(actions, expected, rtol=0, atol=5e-6)
        assert actions.dtype == np.float32


def test_a_network_that_cannot_be_stacked_acts_the_same(monkeypatch, settings, widths):
    states = states_of(awake_modules(settings, widths))
    stacked = play(DeskActor(settings, states), settings, widths, noise=False)
    loner = registry.NetworkKind(registry.FlatShape, registry.InstrumentNetwork, stackable=False)
    monkeypatch.setitem(registry.NETWORKS, "instrument", loner)
    alone = play(DeskActor(settings, states), settings, widths, noise=False)
    for agent, (_, _, actions) in stacked.items():
        np.testing.assert_allclose(alone[agent][2], actions, rtol=0, atol=5e-6)


def test_new_weights_take_effect_and_unfitting_ones_are_refused(settings, widths):
    first, second = (states_of(awake_modules(settings, widths)) for _ in range(2))
    actor = DeskActor(settings, first)
    obs = np.ones((B, widths.meta), np.float32)
    before = actor.act(META, obs)
    actor.load(second)
    assert not np.array_equal(actor.act(META, obs), before)
    actor.load(first)
    np.testing.assert_array_equal(actor.act(META, obs), before)
    with pytest.raises(RunError, match="state of meta_controller does not fit"):
        actor.load({META: first["EURUSD"]})


def test_part_of_a_desk_acts_and_the_absent_part_says_so(settings, widths):
    states = states_of(awake_modules(settings, widths))
    part = DeskActor(settings, {"forex_specialist": states["forex_specialist"]})
    assert part.act(settings.universe.specialists[0], np.zeros((B, 168), np.float32)).shape == (B, 10)
    with pytest.raises(KeyError, match="meta_controller"):
        part.act(META, np.zeros((B, widths.meta), np.float32))
    with pytest.raises(KeyError, match="instruments"):
        part.act(INSTRUMENTS, np.zeros((B, 8, 61), np.float32))
