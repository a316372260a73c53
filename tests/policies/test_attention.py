"""Tokens keep to their groups, attention is PyTorch's own, and the encoder treats rows one by one."""

import math

import pytest
import torch
from torch import nn

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.attention import AttentionConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.attention.self_attention import (
    AttentionEncoder,
    AttentionLayer,
    GroupEmbedding,
    SelfAttention,
)
from mtquant_rllib.policies.networks import GroupedShape

WIDTHS = (3, 2, 3, 2)
SMALL = ["networks.attention.width=16", "networks.attention.heads=4"]


def small(*more: str) -> AttentionConfig:
    return Settings.load(overrides=[*SMALL, *(f"networks.attention.{line}" for line in more)]).networks.attention


def test_a_column_outside_a_group_leaves_its_token_exactly_unchanged():
    embedding = GroupEmbedding(WIDTHS, small())
    obs = torch.randn(5, 10)
    tokens = embedding(obs)
    column = 0
    for group, width in enumerate(WIDTHS):
        for _ in range(width):
            other = obs.clone()
            other[:, column] += 1.0
            same = (embedding(other) == tokens).all(dim=-1)
            assert not same[:, group].any()
            assert torch.cat((same[:, :group], same[:, group + 1 :]), dim=1).all()
            column += 1


@pytest.mark.slow
def test_a_token_is_its_own_columns_through_two_layers_plus_the_groups_vector():
    embedding = GroupEmbedding(WIDTHS, small())
    obs = torch.randn(5, 10)
    first = torch.relu(obs[:, 3:5] @ embedding.first.weight[:, 3:5].T + embedding.first.bias)
    token = first @ embedding.second.weight.T + embedding.second.bias + embedding.groups_GE[1]
    torch.testing.assert_close(embedding(obs)[:, 1], token, rtol=0, atol=1e-6)


def test_empty_groups_are_told_apart_by_their_vectors_alone():
    embedding = GroupEmbedding(WIDTHS, small())
    tokens = embedding(torch.zeros(1, 10))[0] - embedding.groups_GE
    torch.testing.assert_close(tokens, tokens[:1].expand_as(tokens))


@pytest.mark.parametrize("goes_back", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_the_attention_block_is_torchs_multi_head_attention(need_weights, goes_back):
    own = SelfAttention(small())
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    for theirs, ours in (
        (reference.in_proj_weight, own.qkv.weight),
        (reference.in_proj_bias, own.qkv.bias),
        (reference.out_proj.weight, own.out.weight),
        (reference.out_proj.bias, own.out.bias),
    ):
        nn.init.normal_(ours, std=0.5)
        theirs.data.copy_(ours.data)
    tokens = torch.randn(7, 4, 16)
    expected, weights = reference(tokens, tokens, tokens, average_attn_weights=False)
    with torch.set_grad_enabled(goes_back):
        output, seen = own(tokens, need_weights)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    if need_weights:
        torch.testing.assert_close(seen, weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(seen.sum(-1), torch.ones(7, 4, 4))
    else:
        assert seen is None


def test_one_head_of_attention_is_the_formula():
    own = SelfAttention(small("heads=1"))
    tokens = torch.randn(1, 3, 16)
    q, k, v = own.qkv(tokens).chunk(3, dim=-1)
    weights = torch.softmax(q @ k.mT / math.sqrt(16), dim=-1)
    torch.testing.assert_close(own(tokens, need_weights=True)[1][:, 0], weights)
    torch.testing.assert_close(own(tokens)[0], own.out(weights @ v), rtol=1e-5, atol=1e-6)


def test_looking_changes_nothing_but_what_is_returned():
    encoder = AttentionEncoder(WIDTHS, small("layers=3", "feedforward=24"))
    obs = torch.randn(6, 10)
    pooled, nothing = encoder(obs)
    same, seen = encoder(obs, need_weights=True)
    assert nothing is None
    assert seen.shape == (6, 3, 4, 4, 4)
    torch.testing.assert_close(same, pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("feedforward", ["null", "24"])
def test_each_token_is_normalised_and_the_features_are_their_mean(feedforward):
    config = small("layers=1", f"feedforward={feedforward}")
    encoder = AttentionEncoder(WIDTHS, config)
    obs = torch.randn(6, 10)
    tokens, _ = encoder.layers[0](encoder.embedding(obs))
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(6, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.var(-1, unbiased=False), torch.ones(6, 4), rtol=0, atol=1e-2)
    torch.testing.assert_close(encoder(obs)[0], tokens.mean(1))


def test_a_layer_adds_what_it_read_to_what_it_had():
    layer = AttentionLayer(small())
    nn.init.zeros_(layer.attention.out.weight)
    tokens = torch.randn(2, 4, 16)
    torch.testing.assert_close(layer(tokens)[0], layer.norm(tokens))


def test_permuting_rows_permutes_features():
    encoder = AttentionEncoder(WIDTHS, small())
    obs, order = torch.randn(9, 10), torch.randperm(9)
    torch.testing.assert_close(encoder(obs[order])[0], encoder(obs)[0][order], rtol=0, atol=1e-6)


def test_dropout_acts_only_when_asked_for_whatever_the_mode():
    encoder = AttentionEncoder(WIDTHS, small("dropout=0.5")).train()
    obs = torch.randn(9, 10)
    assert torch.equal(encoder(obs)[0], encoder(obs)[0])
    assert not torch.equal(encoder(obs, drop=True)[0], encoder(obs, drop=True)[0])
    never = AttentionEncoder(WIDTHS, small("dropout=0")).train()
    assert torch.equal(never(obs, drop=True)[0], never(obs)[0])


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="width 16 must be a multiple of heads 3"):
        small("heads=3")


def test_a_single_group_has_nobody_to_look_at():
    with pytest.raises(ValueError, match="at least two"):
        GroupedShape((("all", 50),), 5)
