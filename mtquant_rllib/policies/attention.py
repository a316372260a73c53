"""Groups of observation columns that look at one another: tokens, self-attention between them, one pooled vector.

An observation is cut into named groups (price, volume, ...). Each group becomes one token, made from that group's own
columns and nothing else: the encoder's embedding sees the observation with all other columns masked. So a group keeps
its meaning up to the first attention layer, and an attention weight says which group was read, not which mixture. The
embedding's weights serve all groups; since groups share no column its first layer is in effect one per group, and a
learned vector per group tells the second layer's results apart.

There are as many tokens as groups, four or so, so attention costs next to nothing; the linear layers are the work.
Weights of attention are given only when somebody wants to look at them: otherwise PyTorch's fused
`scaled_dot_product_attention` gives the same output without them. A pass that a CPU will go back through is written
out all the same: on so few tokens the fused one's way back is the slower.

Dropout is an argument of a pass and not a mode of the module, as everywhere on the desk: policy passes never ask for
it, value passes and auxiliary losses do.

Shape suffixes: B rows, F observation width, G groups, E token width, L layers, H attention heads, D = E / H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mtquant_rllib.config.attention import AttentionConfig
from mtquant_rllib.policies.networks import Dense

RELU_GAIN = math.sqrt(2)


def dropped(x: Tensor, rate: float, drop: bool) -> Tensor:
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
        hidden_BGE = dropped(functional.relu(self.first(own_BGF)), self.dropout, drop)
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
        # The three parts are layers of their own that happen to be computed together.
        for part in self.qkv.weight.data.chunk(3):
            nn.init.orthogonal_(part)
        self.out = Dense(config.width, config.width, gain=1.0)

    def forward(self, tokens_BGE: Tensor, look: bool = False) -> tuple[Tensor, Tensor | None]:
        """Output (B, G, E) and, to look at, the weights (B, H, G, G): row = the group that reads, column = what it
        reads; rows sum to 1."""
        mixed_BGE, weights_BHGG = self.mixed(tokens_BGE, look)
        return self.out(mixed_BGE), weights_BHGG

    def mixed(self, tokens_BGE: Tensor, look: bool) -> tuple[Tensor, Tensor | None]:
        """What each head reads, heads side by side, (B, G, H D); and the weights."""
        qkv_BGHD = self.qkv(tokens_BGE).unflatten(-1, (3 * self.heads, -1))
        q_BHGD, k_BHGD, v_BHGD = qkv_BGHD.transpose(-3, -2).chunk(3, dim=-3)
        weights_BHGG = None
        if look or (q_BHGD.requires_grad and q_BHGD.device.type == "cpu"):
            scores_BHGG = q_BHGD @ k_BHGD.mT / math.sqrt(q_BHGD.shape[-1])
            weights_BHGG = scores_BHGG.softmax(dim=-1)
            mixed_BHGD = weights_BHGG @ v_BHGD
        else:
            mixed_BHGD = functional.scaled_dot_product_attention(q_BHGD, k_BHGD, v_BHGD)
        return mixed_BHGD.transpose(-3, -2).flatten(-2), weights_BHGG if look else None


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

    def forward(self, tokens_BGE: Tensor, drop: bool = False, look: bool = False) -> tuple[Tensor, Tensor | None]:
        read_BGE, weights_BHGG = self.attention(tokens_BGE, look)
        tokens_BGE = self.norm(tokens_BGE + dropped(read_BGE, self.dropout, drop))
        if self.widen is not None and self.narrow is not None and self.feedforward_norm is not None:
            more_BGE = self.narrow(functional.relu(self.widen(tokens_BGE)))
            tokens_BGE = self.feedforward_norm(tokens_BGE + dropped(more_BGE, self.dropout, drop))
        return tokens_BGE, weights_BHGG


class AttentionEncoder(nn.Module):
    """Observation -> mean of the tokens after the last layer, (B, F) -> (B, E). No NaN guard: see `regime_network`.

    recomputes
        Whether a pass that is followed by a backward one keeps the layers' inputs alone and computes what lies inside
        them once more on the way back, with the same dropout.
    """

    recomputes = False

    def __init__(self, widths: Sequence[int], config: AttentionConfig):
        super().__init__()
        self.embedding = GroupEmbedding(widths, config)
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(config.layers))

    def forward(self, obs_BF: Tensor, drop: bool = False, look: bool = False) -> tuple[Tensor, Tensor | None]:
        """Pooled features (B, E) and, to look at, attention weights (B, L, H, G, G)."""
        tokens_BGE = self.embedding(obs_BF, drop)
        seen = []
        for layer in self.layers:
            if self.recomputes and torch.is_grad_enabled():
                tokens_BGE, weights_BHGG = checkpoint(layer, tokens_BGE, drop, look, use_reentrant=False)
            else:
                tokens_BGE, weights_BHGG = layer(tokens_BGE, drop, look)
            seen.append(weights_BHGG)
        return tokens_BGE.mean(dim=-2), torch.stack(seen, dim=-4) if look else None
