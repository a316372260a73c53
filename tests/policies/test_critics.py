"""Critics: a specialist's is worth the same to each of its instruments, and begins with a product of both inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.policies.critics import Critic, PerActionSlope, SharedSlope, build_critic, sac_config
from mtquant_rllib.policies.networks import SpecialistShape
from mtquant_rllib.policies.registry import network_configs, shape_of
from mtquant_rllib.universe import ALLOCATOR


def critic_of(name: str, settings: Settings) -> tuple[Critic, Any]:
    config = sac_config(name, network_configs(settings)[name], settings)
    critic = build_critic(config)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return critic, shape_of(config)


def without_trunk(critic: Critic) -> Critic:
    with torch.no_grad():
        critic.head.weight.zero_()
        critic.head.bias.zero_()
    return critic


def test_an_intent_is_worth_the_same_whichever_instrument_it_is_about(settings: Settings) -> None:
    """Blocks and intents change places together: nothing changes. Blocks alone: it does."""
    critic, shape = critic_of("forex_specialist", settings)
    assert isinstance(shape, SpecialistShape)
    without_trunk(critic)
    order = torch.tensor([2, 0, 1])
    obs, executed = torch.randn(64, shape.observation), torch.randn(64, shape.n_instruments + 1)
    domain, blocks, state = obs.split((shape.domain, shape.n_instruments * shape.block, shape.state), dim=-1)
    moved = blocks.unflatten(-1, (shape.n_instruments, shape.block))[:, order].flatten(1)
    other_obs = torch.cat((domain, moved, state), dim=-1)
    other_executed = torch.cat((executed[:, :-1][:, order], executed[:, -1:]), dim=-1)
    value = critic(torch.cat((obs, executed), dim=-1))
    torch.testing.assert_close(critic(torch.cat((other_obs, other_executed), dim=-1)), value)
    assert (critic(torch.cat((other_obs, executed), dim=-1)) - value).abs().max() > 0.1


def test_an_assets_weight_is_worth_its_scale_times_what_is_worth_the_same_for_all() -> None:
    settings = Settings.load("allocator.yaml", ["allocator.network=plain"])
    critic, _ = critic_of(ALLOCATOR, settings)
    assert isinstance(critic.slope, PerActionSlope)
    with torch.no_grad():
        critic.slope.scale.copy_(torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0]))
        critic.slope.bias.zero_()
    columns = critic.slope.own.columns_AK
    obs = torch.zeros(6, 50)
    obs[:, columns] = torch.randn(6, 1, 10).expand(6, 5, 10)
    worth = critic.slope(obs)
    torch.testing.assert_close(worth, worth[:, :1] * critic.slope.scale)
    assert worth.abs().min() > 1e-3


@pytest.mark.parametrize("name", ["EURUSD", "forex_specialist", "meta_controller"])
def test_without_its_trunk_a_critic_is_action_times_a_line_in_the_observation(name: str, settings: Settings) -> None:
    critic, shape = critic_of(name, settings)
    without_trunk(critic)
    width = critic.splits[1]
    obs, other, executed = (
        torch.randn(16, shape.observation),
        torch.randn(16, shape.observation),
        torch.randn(16, width),
    )

    def q(seen: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = critic(torch.cat((seen, done), dim=-1))
        return value

    torch.testing.assert_close(q(obs, 3.0 * executed), 3.0 * q(obs, executed), rtol=1e-4, atol=1e-4)
    halfway = q(0.5 * (obs + other), executed)
    torch.testing.assert_close(halfway, 0.5 * (q(obs, executed) + q(other, executed)), rtol=1e-4, atol=1e-4)
    by_hand = executed * (critic.slope(obs) if critic.slope is not None else 0.0)
    torch.testing.assert_close(q(obs, executed), by_hand.sum(-1))
    assert isinstance(critic.slope, SharedSlope) == isinstance(shape, SpecialistShape)
