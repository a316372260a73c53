"""The mixture is its formula, and every way in which it can break ends in a finite answer that says what happened."""

import numpy as np
import pytest
import torch
from torch import nn

from mtquant_rllib.config import Settings
from mtquant_rllib.features.layout import allocator_layout
from mtquant_rllib.policies.attention.regime_network import (
    N_REGIMES,
    Fallback,
    RegimeNetwork,
    fallback_counts,
)
from mtquant_rllib.policies.networks import GroupedShape
from mtquant_rllib.policies.registry import count_parameters, grouped_shape

SHAPE = GroupedShape((("price", 3), ("volume", 2), ("technical", 3), ("momentum", 2)), actions=5)
SMALL = ["networks.attention.width=16", "networks.attention.heads=4"]


def network(*more: str, scale: float = 1.0) -> RegimeNetwork:
    overrides = [*SMALL, *(f"networks.attention.{line}" for line in more)]
    return RegimeNetwork(SHAPE, Settings.load(overrides=overrides).networks.attention, scale)


def classifying(net: RegimeNetwork, logits: list[float]) -> RegimeNetwork:
    """The network with a classifier that says the same of every row."""
    nn.init.zeros_(net.classifier.last.weight)
    net.classifier.last.bias.data = torch.tensor(logits)
    return net


def test_the_answer_is_the_documents_mixture():
    net = network("mixture.temperature=0.5", "mixture.min_confidence=0.3")
    nn.init.normal_(net.classifier.last.weight, std=0.3)
    answer = net(torch.randn(200, 10))
    heads, p = answer.head_logits_BPA.detach().numpy(), answer.probabilities_BR.detach().numpy()
    raw = answer.regime_logits_BR.detach().numpy()
    softmax = np.exp(raw - raw.max(1, keepdims=True))
    np.testing.assert_allclose(p, softmax / softmax.sum(1, keepdims=True), rtol=1e-5)
    mixed = np.stack([0.8 * sum(row_p[r] * row[r] for r in range(4)) + 0.2 * row[4] for row, row_p in zip(heads, p)])
    sure = p.max(1) >= 0.3
    assert 0.1 < sure.mean() < 0.95
    expected = np.where(sure[:, None], mixed, heads[:, 4]) / 0.5
    np.testing.assert_allclose(answer.logits_BA.detach(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(answer.fallback_B, np.where(sure, Fallback.NONE, Fallback.UNSURE))
    np.testing.assert_allclose(answer.confidence_B.detach(), p.max(1))


def test_each_head_is_two_linear_layers_of_its_own():
    net = network()
    pooled = torch.randn(3, 16)
    first, second = net.heads.hidden, net.heads.last_PAK
    for head in range(N_REGIMES + 1):
        rows = slice(head * 128, (head + 1) * 128)
        hidden = torch.relu(pooled @ first.weight[rows].T + first.bias[rows])
        expected = hidden @ second[head].T + net.heads.bias_PA[head]
        torch.testing.assert_close(net.heads(pooled)[:, head], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("top", "fallback"), [(0.29, Fallback.UNSURE), (0.31, Fallback.NONE)])
def test_below_the_confidence_the_global_head_answers_alone(top, fallback):
    others = (1 - top) / 3
    net = classifying(network(), np.log([top, others, others, others]).tolist()).double()
    answer = net(torch.randn(4, 10, dtype=torch.float64))
    torch.testing.assert_close(answer.confidence_B, torch.full((4,), top, dtype=torch.float64), rtol=1e-6, atol=0)
    assert (answer.fallback_B == fallback).all()
    alone = answer.logits_BA == answer.head_logits_BPA[:, N_REGIMES]
    assert alone.all() if fallback else not alone.any()


def test_a_broken_column_is_read_as_zero_by_the_global_head_and_other_rows_do_not_notice():
    net = classifying(network(), [5.0, 0.0, 0.0, 0.0])
    obs = torch.randn(4, 10)
    broken = obs.clone()
    broken[1, 3], broken[2, 0] = torch.nan, -torch.inf
    answer, whole = net(broken), net(obs)
    assert answer.fallback_B.tolist() == [Fallback.NONE, Fallback.NOT_FINITE, Fallback.NOT_FINITE, Fallback.NONE]
    torch.testing.assert_close(answer.logits_BA[[0, 3]], whole.logits_BA[[0, 3]])
    as_zero = obs.clone()
    as_zero[1, 3] = as_zero[2, 0] = 0.0
    torch.testing.assert_close(answer.logits_BA[1:3], net(as_zero).head_logits_BPA[1:3, N_REGIMES])


def test_broken_observations_do_not_break_gradients():
    net = network()
    obs = torch.randn(4, 10)
    obs[1] = torch.nan
    net(obs).logits_BA.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("part", ["classifier", "a regime's head"])
def test_a_broken_part_leaves_the_global_head(part):
    net = network()
    if part == "classifier":
        nn.init.constant_(net.classifier.last.bias, torch.nan)
    else:
        net.heads.bias_PA.data[2] = torch.inf
    answer = net(torch.randn(4, 10))
    assert (answer.fallback_B == Fallback.NOT_FINITE).all()
    torch.testing.assert_close(answer.logits_BA, answer.head_logits_BPA[:, N_REGIMES])


def test_equal_weight_is_the_last_resort():
    net = classifying(network(), [5.0, 0.0, 0.0, 0.0])
    net.heads.bias_PA.data[N_REGIMES] = torch.nan
    answer = net(torch.randn(3, 10))
    assert (answer.fallback_B == Fallback.EQUAL).all()
    torch.testing.assert_close(answer.weights_BA(), torch.full((3, 5), 0.2))


def test_weights_lie_on_the_simplex():
    weights = network(scale=30.0)(torch.randn(64, 10)).weights_BA()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(64))
    assert weights.amax(-1).mean() > 0.5


def test_gradients_reach_every_parameter():
    net = network("feedforward=24")
    net(torch.randn(64, 10)).logits_BA.square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if not (parameter.grad.abs().sum() > 0)] == []


def test_permuting_rows_permutes_answers():
    net = network()
    obs, order = torch.randn(9, 10), torch.randperm(9)
    torch.testing.assert_close(net(obs[order]).logits_BA, net(obs).logits_BA[order], rtol=0, atol=1e-5)


def test_an_allocator_of_five_assets_is_the_documents_network():
    shape = grouped_shape(allocator_layout(("EURUSD", "USDJPY", "XAUUSD", "WTIUSD", "SPX500")), actions=5)
    assert shape.groups == (("price", 15), ("volume", 10), ("technical", 15), ("momentum", 10))
    config = Settings.load().networks.attention
    net = RegimeNetwork(shape, config, 0.01)
    e = 256
    assert count_parameters(net.encoder.embedding) == (50 * e + e) + (e * e + e) + 4 * e
    assert count_parameters(net.encoder.layers) == 2 * (4 * (e * e + e) + 2 * e)
    assert count_parameters(net.classifier) == (e * 128 + 128) + (128 * 64 + 64) + (64 * 4 + 4)
    assert count_parameters(net.heads) == 5 * ((e * 128 + 128) + (128 * 5 + 5))
    answer = net(torch.randn(3, 50), need_weights=True)
    assert answer.logits_BA.shape == (3, 5)
    assert answer.attention_BLHGG.shape == (3, 2, 8, 4, 4)
    assert answer.pooled_BE.shape == (3, 256)


@pytest.mark.parametrize(
    "obs",
    [
        torch.randn(10),
        torch.randn(2, 9),
        torch.randn(2, 1, 10),
        torch.ones(2, 10, dtype=torch.int64),
        torch.ones(2, 10, dtype=torch.float64),
        np.ones((2, 10), np.float32),
    ],
)
def test_an_observation_of_another_shape_or_type_is_refused_with_what_is_expected(obs):
    with pytest.raises(ValueError, match=r"\(B, 10\), the groups price, volume, technical, momentum"):
        network()(obs)


def test_fall_backs_are_counted_by_reason():
    codes = torch.tensor([0, 0, 1, 3, 2, 1], dtype=torch.int8)
    assert fallback_counts(codes) == {"none": 2, "unsure": 2, "not_finite": 1, "equal": 1}
