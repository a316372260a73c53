"""The attention network at each level of the desk, by one config line, and what a learner can add to its loss."""

import math

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from torch import nn

from mtquant_rllib.agents.groups import INSTRUMENTS
from mtquant_rllib.config import Settings
from mtquant_rllib.features.layout import Layout
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.attention.losses import (
    NO_LABEL,
    attention_metrics,
    classifier_loss,
    consistency_loss,
    diversity_loss,
)
from mtquant_rllib.policies.attention.policy import AttentionOptions, AttentionPolicy, AttentionValue
from mtquant_rllib.policies.attention.regime_network import Fallback
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.policies.networks import ValueNetwork
from mtquant_rllib.policies.registry import build_policy, build_value, grouped_shape, network_configs, shape_of
from mtquant_rllib.universe import META

LEVELS = {"meta": META, "specialist": "forex_specialist", "instrument": "EURUSD"}
SMALL = ["networks.attention.width=16", "networks.attention.heads=4"]


def attending(level: str, *more: str) -> Settings:
    return Settings.load(overrides=[f"networks.names.{level}=attention", *SMALL, *more])


def config_of(level, widths, *more):
    settings = attending(level, *more)
    return network_configs(settings)[LEVELS[level]]


@pytest.mark.parametrize(
    ("level", "groups", "actions"),
    [
        ("meta", {"portfolio": 32, "correlation": 28, "specialists": 9, "macro": 5}, 4),
        ("specialist", {"domain": 8, "EURUSD": 50, "GBPUSD": 50, "USDJPY": 50, "state": 10}, 10),
        ("instrument", {"price": 15, "volume": 10, "technical": 15, "momentum": 10, "state": 11}, 3),
    ],
)
def test_a_config_line_gives_each_level_an_attention_policy_over_its_own_groups(level, groups, actions, widths):
    config = config_of(level, widths)
    shape = shape_of(config)
    assert dict(shape.groups) == groups
    assert shape.regime_columns == ()
    policy = build_policy(config)
    assert policy(torch.randn(3, shape.observation)).shape == (3, 2 * actions)
    assert policy.output(torch.randn(3, shape.observation), need_weights=True).attention_BLHGG.shape[-1] == len(groups)


@pytest.mark.parametrize(("value", "kind"), [("attention", AttentionValue), ("plain", ValueNetwork)])
def test_the_value_network_is_the_one_the_config_names(value, kind, widths):
    assert type(build_value(config_of("meta", widths, f"networks.attention.value={value}"))) is kind


def test_dropout_acts_in_value_and_auxiliary_passes_and_never_in_the_policy(widths):
    config = config_of("meta", widths)
    policy, value = build_policy(config).train(), build_value(config).train()
    nn.init.normal_(value.head.weight)
    obs, labels = torch.randn(32, 74), torch.randint(0, 4, (32,))
    assert torch.equal(policy(obs), policy(obs))
    assert torch.equal(value(obs), value(obs))
    assert not torch.equal(value(obs, drop=True), value(obs, drop=True))
    first, second = (policy.auxiliary_losses(obs, labels)["regime_classifier"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("level", list(LEVELS))
def test_policy_and_value_losses_reach_every_parameter_of_their_network(level, widths):
    config = config_of(level, widths)
    policy, value = build_policy(config), build_value(config)
    obs = torch.randn(64, shape_of(config).observation)
    policy(obs).square().sum().backward()
    value(obs).square().sum().backward()
    for network in (policy, value):
        assert [name for name, item in network.named_parameters() if not (item.grad.abs().sum() > 0)] == []


@pytest.mark.slow
def test_the_actor_outside_rllib_acts_as_the_module(widths):
    settings = attending("instrument")
    modules = module_specs(settings).build()
    actor = DeskActor(settings, {name: item.get_state() for name, item in modules.items()})
    obs = np.random.default_rng(0).standard_normal((5, 8, 61), np.float32)
    actions = actor.act(INSTRUMENTS, obs)
    for i, symbol in enumerate(settings.universe.symbols):
        inputs = modules[symbol].forward_inference({Columns.OBS: torch.from_numpy(obs[:, i])})
        mean = inputs[Columns.ACTION_DIST_INPUTS].detach().numpy()[:, :3]
        np.testing.assert_allclose(actions[:, i], mean.clip(-1, 1), rtol=0, atol=5e-6)


@pytest.mark.parametrize("skip", [False, True])
def test_a_row_nobody_can_answer_has_mean_zero(skip, widths):
    policy = build_policy(config_of("meta", widths, f"networks.attention.linear_skip={skip}"))
    obs = torch.randn(4, 74)
    assert (policy.mean(obs) != 0).all()
    obs[0, 0] = torch.nan
    assert policy.output(obs).fallback_B[0] == Fallback.NOT_FINITE
    nn.init.constant_(policy.network.heads.bias_PA, torch.nan)
    assert (policy.output(obs).fallback_B == Fallback.EQUAL).all()
    assert (policy.mean(obs) == 0).all()


def test_a_line_that_is_not_finite_is_nobodys_answer(widths):
    policy = build_policy(config_of("meta", widths, "networks.attention.linear_skip=true"))
    with torch.no_grad():
        policy.skip.weight[0, 0] = torch.nan
    answer = policy.output(torch.randn(3, 74))
    assert (answer.logits_BA == 0).all()
    assert answer.fallback_B.tolist() == [Fallback.EQUAL] * 3


def test_the_skip_adds_a_linear_rule(widths):
    policy = build_policy(config_of("meta", widths, "networks.attention.linear_skip=true"))
    obs = torch.randn(4, 74)
    torch.testing.assert_close(policy.mean(obs), policy.network(obs).logits_BA + obs @ policy.skip.weight.T)


# What a learner adds


def test_a_plain_policy_has_no_auxiliary_losses(settings, widths):
    configs = network_configs(settings)
    assert build_policy(configs[META]).auxiliary_losses(torch.zeros(2, 74), torch.zeros(2)) == {}


def test_auxiliary_losses_are_the_terms_with_their_weights(widths):
    rates = ("dropout=0", "classifier.dropout=0", "policy_heads.dropout=0")
    policy = build_policy(config_of("meta", widths, *(f"networks.attention.{rate}" for rate in rates)))
    obs, labels = torch.randn(32, 74), torch.randint(0, 4, (32,))
    answer = policy.output(obs, need_weights=True)
    losses = policy.auxiliary_losses(obs, labels)
    assert set(losses) == {"regime_classifier", "attention_diversity", "regime_consistency"}
    close = torch.testing.assert_close
    close(losses["regime_classifier"], 0.1 * nn.functional.cross_entropy(answer.regime_logits_BR, labels))
    close(losses["attention_diversity"], 0.01 * diversity_loss(answer.attention_BLHGG, 0.5))
    close(losses["regime_consistency"], 0.005 * consistency_loss(answer.probabilities_BR, 0.7))
    assert set(policy.auxiliary_losses(obs)) == {"attention_diversity", "regime_consistency"}


@pytest.mark.slow
def test_the_classifier_learns_the_detectors_labels_from_auxiliary_losses(widths):
    torch.manual_seed(0)
    policy = build_policy(config_of("meta", widths))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    obs = torch.randn(512, 74)
    labels = 2 * (obs[:, 3] > 0).long() + (obs[:, 65] > 0).long()

    def accuracy() -> float:
        return (policy.output(obs).probabilities_BR.argmax(-1) == labels).float().mean().item()

    assert accuracy() < 0.5
    for _ in range(100):
        optimizer.zero_grad()
        sum(policy.auxiliary_losses(obs, labels).values()).backward()
        optimizer.step()
    assert accuracy() > 0.9


def test_labels_come_from_the_observation_where_its_layout_carries_them(settings, widths):
    names = tuple(f"regime_{name}" for name in ("bull", "bear", "volatile", "sideways"))
    layout = Layout((("price", ("ret1", "ret5")), ("regime", ("regime_confidence", *names))))
    shape = grouped_shape(layout, actions=2)
    assert shape.regime_columns == (3, 4, 5, 6)
    options = AttentionOptions(**network_options(config_of("meta", widths)))
    policy = AttentionPolicy(shape, options)
    obs = torch.zeros(3, 7)
    obs[0, 5], obs[1, 3] = 1.0, 1.0
    assert policy.observed_labels(obs).tolist() == [2, 0, NO_LABEL]
    assert "regime_classifier" in policy.auxiliary_losses(obs)


def network_options(config):
    return {**config["options"], "hidden": (8,), "value_hidden": (8,), "initial_mean": ()}


def test_rows_without_a_label_teach_the_classifier_nothing():
    logits = torch.randn(4, 4)
    labels = torch.tensor([1, NO_LABEL, 2, NO_LABEL])
    expected = nn.functional.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(classifier_loss(logits, labels), expected)
    assert classifier_loss(logits, torch.full((4,), NO_LABEL)) == 0


@pytest.mark.parametrize(
    ("row", "entropy"), [([0.25] * 4, 1.0), ([1.0, 0, 0, 0], 0.0), ([0.5, 0.5, 0, 0], 0.5), ([0.9, 0.1, 0, 0], None)]
)
def test_diversity_loss_at_known_values(row, entropy):
    if entropy is None:
        entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(4)
    attention = torch.tensor(row).expand(2, 3, 8, 4, 4)
    assert diversity_loss(attention, 0.5).item() == pytest.approx((entropy - 0.5) ** 2, abs=1e-7)


@pytest.mark.parametrize(("top", "loss"), [(1.0, 0.09), (0.7, 0.0), (0.25, 0.2025)])
def test_consistency_loss_at_known_values(top, loss):
    rest = (1 - top) / 3
    probabilities = torch.tensor([[top, rest, rest, rest], [rest, rest, top, rest]])
    assert consistency_loss(probabilities, 0.7).item() == pytest.approx(loss, abs=1e-7)


def test_attention_metrics_at_known_values():
    alike = attention_metrics(torch.full((2, 3, 8, 4, 4), 0.25))
    assert alike == pytest.approx({"entropy": 1.0, "focus": 0.25, "diversity": 0.0}, abs=1e-6)
    # Four heads, each of which reads one group of its own whoever asks.
    apart = torch.eye(4)[:, None, :].expand(4, 4, 4)[None, None]
    assert attention_metrics(apart) == pytest.approx({"entropy": 0.0, "focus": 1.0, "diversity": 1.0}, abs=1e-6)


@pytest.mark.slow
def test_probabilities_do_not_depend_on_how_rows_are_batched(widths):
    settings = Settings.load(overrides=["networks.names.meta=attention"])
    policy = build_policy(network_configs(settings)[META])
    nn.init.normal_(policy.network.heads.last_PAK, std=0.1)
    obs = torch.randn(256, 74)
    mean, log_std = policy(obs).chunk(2, dim=-1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    sample = normal.sample()
    for size in (1, 7, 64):
        inputs = torch.cat([policy(rows) for rows in obs.split(size)])
        again = torch.distributions.Normal(inputs[:, :4], inputs[:, 4:].exp())
        ratio = (again.log_prob(sample).sum(-1) - normal.log_prob(sample).sum(-1)).exp()
        assert (ratio - 1).abs().max() < 1e-5
