"""Importance on cases a pencil can do, and the score that tells a faithful one from decoration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.explain.importance import (
    attention_received,
    attention_rollout,
    faithfulness,
    occlusion,
    rank_agreement,
)
from mtquant_rllib.evaluation.explain.influence import verdict
from mtquant_rllib.features import layout
from mtquant_rllib.policies.attention.regime_network import RegimeNetwork
from mtquant_rllib.policies.networks import GroupedShape
from mtquant_rllib.policies.registry import grouped_shape

BOOTSTRAP = BootstrapConfig(resamples=200, mean_block_bars=5, confidence=0.95)
GROUPS = {"price": slice(0, 3), "volume": slice(3, 5), "technical": slice(5, 8), "momentum": slice(8, 10)}
SIZES = np.array([0.0, 2.0, 0.5, 0.1])
"""Weight of every column of each group in the planted linear model."""


def planted(obs: np.ndarray) -> np.ndarray:
    weights = np.repeat(SIZES, [3, 2, 3, 2])
    return np.stack([obs @ weights, -obs @ weights], axis=1)


def planted_importance(obs: np.ndarray) -> np.ndarray:
    """What the model owes to each group, beside the group's mean."""
    centred = obs - obs.mean(axis=0)
    parts = [SIZES[g] * centred[:, columns].sum(axis=1) for g, columns in enumerate(GROUPS.values())]
    return np.abs(np.stack(parts, axis=1))


def test_attention_received_is_what_others_read_and_not_what_one_reads():
    # Everybody reads the second of three groups, most of the time.
    attention = np.tile([0.1, 0.7, 0.2], (1, 1, 1, 3, 1))
    np.testing.assert_allclose(attention_received(attention), [[0.1, 0.7, 0.2]])
    np.testing.assert_allclose(attention.mean(axis=(1, 2, 4)), 1 / 3)  # the wrong average is constant


def test_attention_received_of_one_layer_and_head():
    attention = np.random.default_rng(0).dirichlet(np.ones(4), (5, 2, 8, 4))
    np.testing.assert_allclose(attention_received(attention, 1, 7), attention[:, 1, 7].mean(axis=1))
    np.testing.assert_allclose(attention_received(attention, layer=0), attention[:, 0].mean(axis=(1, 2)))
    np.testing.assert_allclose(attention_received(attention).sum(axis=1), 1)


def test_rollout_of_two_groups_and_two_layers_by_hand():
    first, second = [[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.5, 0.5]]
    attention = np.array([[[first], [second]]])
    # A1 = [[.75, .25], [0, 1]], A2 = [[1, 0], [.25, .75]], A2 A1 = [[.75, .25], [.1875, .8125]]; mean of its rows.
    np.testing.assert_allclose(attention_rollout(attention), [[0.46875, 0.53125]])


def test_rollout_takes_the_mean_over_heads():
    attention = np.array([[[np.eye(2), [[0.0, 1.0], [1.0, 0.0]]]]])
    np.testing.assert_allclose(attention_rollout(attention), [[0.5, 0.5]])


@pytest.mark.parametrize("by_draws", [False, True])
def test_occlusion_finds_the_groups_that_a_linear_model_depends_on(by_draws):
    obs = np.random.default_rng(1).normal(size=(400, 10))
    rng = np.random.default_rng(2) if by_draws else None
    effect = occlusion(planted, obs, GROUPS, rng, draws=20)
    assert (effect[:, 0] == 0).all()
    np.testing.assert_array_equal(np.argsort(effect.mean(axis=0)), [0, 3, 2, 1])
    if not by_draws:
        np.testing.assert_allclose(effect, planted_importance(obs))


def test_occlusion_by_other_rows_keeps_a_groups_columns_together():
    # The output is whether the group's two columns are equal: they always are, in every row.
    obs = np.random.default_rng(3).normal(size=(50, 1)).repeat(2, axis=1)
    differ = lambda x: np.abs(x[:, :1] - x[:, 1:])  # noqa: E731
    assert (occlusion(differ, obs, {"pair": slice(0, 2)}, np.random.default_rng(0)) == 0).all()
    assert (occlusion(differ, obs, {"one": slice(0, 1)}, np.random.default_rng(0)) > 0).any()


@pytest.mark.parametrize("ranking", ["spearman", "kendall"])
def test_rank_agreement_is_scipys(ranking):
    rng = np.random.default_rng(4)
    importance, effect = rng.integers(0, 3, (60, 5)).astype(float), rng.normal(size=(60, 5))
    importance[:, :2] = 0.0, 1.0  # ties, but never all alike
    reference = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}[ranking]
    expected = [reference(a, b).statistic for a, b in zip(importance, effect)]
    np.testing.assert_allclose(rank_agreement(importance, effect, ranking), expected, atol=1e-12)
    assert (rank_agreement(np.full((2, 5), 0.2), effect[:2], ranking) == 0).all()


@pytest.mark.parametrize("ranking", ["spearman", "kendall"])
def test_a_planted_importance_beats_random_and_a_random_one_is_not(ranking):
    rng = np.random.default_rng(5)
    obs = rng.normal(size=(400, 10))
    effect = occlusion(planted, obs, GROUPS)
    good = faithfulness(planted_importance(obs), effect, BOOTSTRAP, rng, ranking)
    assert good.agreement.estimate == pytest.approx(1.0)
    assert good.p_value == pytest.approx(1 / 24)
    assert good.beats_chance
    noise = faithfulness(rng.random((400, 4)), effect, BOOTSTRAP, rng, ranking)
    assert abs(noise.agreement.estimate) < 0.1
    assert noise.agreement.lower < 0 < noise.agreement.upper
    assert not noise.beats_chance
    # All orders of the groups average to no correlation, and the given one is the best of them.
    assert good.random.estimate == pytest.approx(0, abs=1e-12)
    assert good.random.lower < -0.5 < 0.5 < good.random.upper


def test_an_importance_in_reverse_disagrees():
    obs = np.random.default_rng(6).normal(size=(100, 10))
    score = faithfulness(-planted_importance(obs), occlusion(planted, obs, GROUPS), BOOTSTRAP, np.random.default_rng(0))
    assert score.agreement.estimate == pytest.approx(-1.0)
    assert not score.beats_chance
    assert score.p_value == pytest.approx(1.0)


def test_rows_that_repeat_one_another_add_no_certainty():
    """Forty moments seen ten times each say as much as forty moments; as 400 independent rows, three times as much."""
    rng = np.random.default_rng(7)
    importance, effect = rng.random((40, 4)), rng.random((40, 4))
    config = BootstrapConfig(resamples=400, mean_block_bars=1, confidence=0.95)
    once = faithfulness(importance, effect, config, rng).agreement
    repeated = faithfulness(importance.repeat(10, axis=0), effect.repeat(10, axis=0), config, rng).agreement
    assert repeated.estimate == pytest.approx(once.estimate)
    assert repeated.standard_error == pytest.approx(once.standard_error, rel=0.3)


@pytest.mark.slow
def test_more_groups_than_can_be_ordered_are_sampled():
    rng = np.random.default_rng(8)
    effect = rng.random((50, 9))
    assert faithfulness(effect, effect, BOOTSTRAP, rng).p_value == pytest.approx(1 / 200)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\) and effect \(3, 5\)"):
        faithfulness(np.zeros((3, 4)), np.zeros((3, 5)), BOOTSTRAP, np.random.default_rng(0))


@pytest.mark.slow
def test_an_importance_that_never_changes_is_not_called_faithful_for_its_luck():
    """Effects have an order of the groups that holds in all rows, and so has the importance, another one drawn blindly.
    Against guesses made anew for every row, a third of such importances stand out."""
    rng = np.random.default_rng(9)
    called, would_have_been = 0, 0
    for _ in range(150):
        effect = rng.permutation([1.0, 2.0, 3.0, 4.0]) + 0.5 * rng.standard_normal((80, 4))
        importance = rng.permutation([0.1, 0.2, 0.3, 0.4]) + 0.001 * rng.standard_normal((80, 4))
        score = faithfulness(
            importance, effect, BootstrapConfig(resamples=100, mean_block_bars=5, confidence=0.95), rng
        )
        called += score.beats_chance
        guesses = [rank_agreement(rng.permuted(importance, axis=1), effect, "spearman").mean() for _ in range(40)]
        would_have_been += score.agreement.lower > np.max(guesses)
    assert called <= 12, "one order in 24 is right by luck: six are expected"
    assert would_have_been > 45


def linear_attention(weights: np.ndarray, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A network whose output is the sum of what it reads, each group with the weight that attention gives it: output
    (B, 1), and attention (B, 1, 1, G, G)."""
    parts = np.stack([obs[:, columns].mean(axis=1) for columns in GROUPS.values()], axis=1)
    return (parts @ weights)[:, None], np.broadcast_to(weights, (len(obs), 1, 1, 4, 4))


def test_attention_that_is_the_whole_of_a_network_beats_chance():
    weights = np.array([0.05, 0.6, 0.1, 0.25])
    obs = np.random.default_rng(10).normal(size=(600, 10))
    _, attention = linear_attention(weights, obs)
    effect = occlusion(lambda x: linear_attention(weights, x)[0], obs, GROUPS, np.random.default_rng(0), draws=8)
    score = faithfulness(attention_received(attention), effect, BOOTSTRAP, np.random.default_rng(0))
    assert score.beats_chance
    assert score.p_value == pytest.approx(1 / 24)
    assert score.agreement.estimate > 0.6


def network_that_reads(group: str, looks_at: str) -> tuple[RegimeNetwork, GroupedShape]:
    """An attention network whose answers depend on one group alone, while all its heads look at another.

    Columns of other groups have no weight in the embedding, attention's output has none in the layers, and queries and
    keys find the token of the group that is looked at. Nothing of it is learned, so the truth is known.
    """
    torch.manual_seed(1)
    settings = Settings.load(overrides=["networks.attention.width=16", "networks.attention.heads=2"])
    shape = grouped_shape(layout.BLOCK, actions=2)
    network = RegimeNetwork(shape, settings.networks.attention, 1.0)
    names = list(layout.BLOCK.slices)
    with torch.no_grad():
        embedding = network.encoder.embedding
        for name, columns in layout.BLOCK.slices.items():
            if name != group:
                embedding.first.weight[:, columns] = 0
        mark = torch.zeros(16)
        mark[0], mark[8] = 1.0, 1.0  # the first unit of either head
        embedding.second.weight[[0, 8]] = 0
        embedding.groups_GE[:, [0, 8]] = 0
        embedding.groups_GE[names.index(looks_at)] += 20 * mark
        for layer in network.encoder.layers:
            query, key, _ = layer.attention.qkv.weight.chunk(3)
            query.zero_()
            key.zero_()
            key[0, 0] = key[8, 8] = 4.0
            layer.attention.qkv.bias[:16] = 4.0 * mark
            layer.attention.out.weight.zero_()
            layer.attention.out.bias.zero_()
    return network, shape


def test_where_attention_and_the_answer_part_ways_occlusion_knows_and_attention_is_not_faithful():
    network, shape = network_that_reads("volume", looks_at="momentum")
    names = list(layout.BLOCK.slices)
    obs = torch.randn(300, shape.observation)
    with torch.no_grad():
        answer = network(obs, need_weights=True)
    received = attention_received(answer.attention_BLHGG.numpy())
    assert (received[:, names.index("momentum")] > 0.9).all(), "the claim"
    predict = lambda x: network(torch.from_numpy(x)).logits_BA.detach().numpy()  # noqa: E731
    effect = occlusion(predict, obs.numpy(), layout.BLOCK.slices, np.random.default_rng(0), draws=4)
    truth = np.broadcast_to(np.array([name == "volume" for name in names], dtype=float), effect.shape)
    assert (effect[:, truth[0] == 0] == 0).all()
    np.testing.assert_allclose(rank_agreement(effect, truth, "spearman"), 1)
    for claim in (received, attention_rollout(answer.attention_BLHGG.numpy())):
        score = faithfulness(claim, effect, BOOTSTRAP, np.random.default_rng(0))
        assert not score.beats_chance
        assert "is not faithful here" in verdict("received", score, 0.6)
        assert score.agreement.estimate < 0.3


@pytest.mark.slow
def test_occlusion_finds_what_a_trained_attention_network_was_taught_to_read():
    torch.manual_seed(0)
    settings = Settings.load(overrides=["networks.attention.width=32", "networks.attention.heads=4"])
    shape = grouped_shape(layout.BLOCK, actions=1)
    network = RegimeNetwork(shape, settings.networks.attention, 0.1)
    obs = torch.randn(512, shape.observation)
    target = obs[:, layout.BLOCK["volume"]].sum(dim=1, keepdim=True) / 3
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (network(obs).logits_BA - target).square().mean().backward()
        optimizer.step()
    predict = lambda x: network(torch.from_numpy(x)).logits_BA.detach().numpy()  # noqa: E731
    effect = occlusion(predict, obs.numpy(), layout.BLOCK.slices, np.random.default_rng(0), draws=4)
    assert (effect.argmax(axis=1) == list(layout.BLOCK.slices).index("volume")).mean() > 0.9
    attention = network(obs, need_weights=True).attention_BLHGG.detach().numpy()
    for claim in (attention_received(attention), attention_rollout(attention)):
        np.testing.assert_allclose(claim.sum(axis=1), 1, rtol=1e-5)
        score = faithfulness(claim, effect, BOOTSTRAP, np.random.default_rng(0))
        # The group that matters is ranked first and the others, which do not, at chance: rho is .6 on average. Six of
        # the 24 renamings have it in its place, so nothing more can be said of what was found than that.
        assert score.agreement.estimate == pytest.approx(0.6, abs=0.06)
        assert score.p_value <= 6 / 24
