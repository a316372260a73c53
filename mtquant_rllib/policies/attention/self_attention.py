"""Self-attention between groups of observation columns: a token per group, attention layers, one pooled vector.

An observation is cut into named groups (price, volume, ...). Each group becomes one token, made from its own columns
alone: the embedding sees the observation with all other columns masked. So an attention weight up to the first layer
belongs to one group and not to a mixture. The embedding's weights serve all groups; since groups share no column its
first layer is in effect one per group, and a learned vector per group tells the second layer's results apart.

There are as many tokens as groups, about four, so that attention costs little and the linear layers dominate. Attention
weights are returned only on request: otherwise PyTorch's fused `scaled_dot_product_attention` gives the same output. A
CPU pass with gradients is written out all the same: on so few tokens the fused backward pass is slower.

Dropout is an argument of a pass and not a mode of the module: value passes and auxiliary losses use it, policy passes
never do.

Shape suffixes: B rows, F observation width, G groups, E token width, L layers, H attention heads, D = E / H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mtquant_rllib.config.sections.attention import AttentionConfig
from mtquant_rllib.policies.networks import Dense

RELU_GAIN = math.sqrt(2)


def dropout(x: Tensor, rate: float, drop: bool) -> Tensor:
    return functional.dropout(x, rate, training=True) if drop and rate > 0 else x


class GroupEmbedding(nn.Module):
    """Linear, ReLU, Dropout, Linear on each group's own columns, plus a learned vector per group: (B, F) -> (B, G, E).

    widths: columns of each group, in the order in which they stand in the observation.
    """

    mask_GF: Tensor

    def __init__(self, widths: Sequence[int], config: AttentionConfig):
        super().__init__()
        self.dropout = config.dropout
        groups = torch.arange(len(widths))
        owner_F = torch.repeat_interleave(groups, torch.tensor(widths))
        # Not a parameter and not in a state: it follows from the shape.
        self.register_buffer("mask_GF", owner_F == groups[:, None], persistent=False)
        self.first = Dense(sum(widths), config.width, gain=RELU_GAIN)
        self.second = Dense(config.width, config.width, gain=1.0)
        self.groups_GE = nn.Parameter(torch.empty(len(widths), config.width))
        nn.init.normal_(self.groups_GE, std=config.width**-0.5)

    def forward(self, obs_BF: Tensor, drop: bool = False) -> Tensor:
        own_BGF = torch.where(self.mask_GF, obs_BF.unsqueeze(-2), 0.0)
        hidden_BGE = dropout(functional.relu(self.first(own_BGF)), self.dropout, drop)
        tokens_BGE: Tensor = self.second(hidden_BGE) + self.groups_GE
        return tokens_BGE


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention among the tokens, as `nn.MultiheadAttention` defines it.

    softmax(Q K' / sqrt(D)) V   in each head, heads side by side, then one linear layer
    """

    def __init__(self, config: AttentionConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = Dense(config.width, 3 * config.width, gain=1.0)
        # Initialised as three separate layers, computed as one.
        for part in self.qkv.weight.data.chunk(3):
            nn.init.orthogonal_(part)
        self.out = Dense(config.width, config.width, gain=1.0)

    def forward(self, tokens_BGE: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Output (B, G, E) and where asked for the weights (B, H, G, G): row = the group that attends, column = the
        group attended to; rows sum to 1."""
        mixed_BGE, weights_BHGG = self.mixed(tokens_BGE, need_weights)
        return self.out(mixed_BGE), weights_BHGG

    def mixed(self, tokens_BGE: Tensor, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """The heads' outputs, concatenated, (B, G, H D); and the weights."""
        qkv_BGHD = self.qkv(tokens_BGE).unflatten(-1, (3 * self.heads, -1))
        q_BHGD, k_BHGD, v_BHGD = qkv_BGHD.transpose(-3, -2).chunk(3, dim=-3)
        weights_BHGG = None
        if need_weights or (q_BHGD.requires_grad and q_BHGD.device.type == "cpu"):
            scores_BHGG = q_BHGD @ k_BHGD.mT / math.sqrt(q_BHGD.shape[-1])
            weights_BHGG = scores_BHGG.softmax(dim=-1)
            mixed_BHGD = weights_BHGG @ v_BHGD
        else:
            mixed_BHGD = functional.scaled_dot_product_attention(q_BHGD, k_BHGD, v_BHGD)
        return mixed_BHGD.transpose(-3, -2).flatten(-2), weights_BHGG if need_weights else None


class AttentionLayer(nn.Module):
    """x -> LayerNorm(x + dropout(attention(x))); with a feed-forward block, once more around that."""

    def __init__(self, config: AttentionConfig):
        super().__init__()
        self.dropout = config.dropout
        self.attention = SelfAttention(config)
        self.norm = nn.LayerNorm(config.width)
        self.widen = self.narrow = self.feedforward_norm = None
        if config.feedforward is not None:
            self.widen = Dense(config.width, config.feedforward, gain=RELU_GAIN)
            self.narrow = Dense(config.feedforward, config.width, gain=1.0)
            self.feedforward_norm = nn.LayerNorm(config.width)

    def forward(
        self, tokens_BGE: Tensor, drop: bool = False, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        read_BGE, weights_BHGG = self.attention(tokens_BGE, need_weights)
        tokens_BGE = self.norm(tokens_BGE + dropout(read_BGE, self.dropout, drop))
        if self.widen is not None and self.narrow is not None and self.feedforward_norm is not None:
            more_BGE = self.narrow(functional.relu(self.widen(tokens_BGE)))
            tokens_BGE = self.feedforward_norm(tokens_BGE + dropout(more_BGE, self.dropout, drop))
        return tokens_BGE, weights_BHGG


class AttentionEncoder(nn.Module):
    """Observation -> mean of the tokens after the last layer, (B, F) -> (B, E). No NaN guard: see `regime_network`.

    recomputes
        Activation checkpointing: a pass with gradients keeps only the layers' inputs and computes the layers again in
        the backward pass, with the same dropout.
    """

    recomputes = False

    def __init__(self, widths: Sequence[int], config: AttentionConfig):
        super().__init__()
        self.embedding = GroupEmbedding(widths, config)
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(config.layers))

    def forward(self, obs_BF: Tensor, drop: bool = False, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Pooled features (B, E) and where asked for attention weights (B, L, H, G, G)."""
        tokens_BGE = self.embedding(obs_BF, drop)
        weights = []
        for layer in self.layers:
            if self.recomputes and torch.is_grad_enabled():
                tokens_BGE, weights_BHGG = checkpoint(layer, tokens_BGE, drop, need_weights, use_reentrant=False)
            else:
                tokens_BGE, weights_BHGG = layer(tokens_BGE, drop, need_weights)
            weights.append(weights_BHGG)
        return tokens_BGE.mean(dim=-2), torch.stack(weights, dim=-4) if need_weights else None
