"""Attention heads over several processes, each with a device of its own: tensor parallelism as in Megatron-LM (Shoeybi
et al. 2019, arXiv 1909.08053).

Heads do not speak to one another before the output projection, and that is linear: the output is a sum over heads.

    out(mixed) = sum over processes of (mixed of its heads) (its columns of the output weight)'  +  bias

So a process holds the rows of the projection to queries, keys and values that belong to its heads, and the columns of
the output projection that read them. One all-reduce adds the parts up on the way there, one adds up the gradient by the
tokens on the way back. Everything else (embedding, norms, feed-forward, the network's heads, the output's bias) is held
and computed by every process alike, so it gets the same gradient everywhere and stays equal without being exchanged.

That needs every process to do the same: the same rows, the same calls in the same order, and one seed of dropout for
all. Optimizers are made after the split, whose parameters are new ones. The norm of all gradients is not that of one
process's: clipping by it would have to add up the squares of the shards first, which no learner here does.

The split belongs to a running process, not to the network: `joined_state` is the state dict of the unsplit one.

Shape suffixes as in `attention`; J heads of this process, their own outputs side by side are F = J D wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.attention import SelfAttention
from mtquant_rllib.policies.networks import dense

_BY_HEAD = {"qkv.weight": (0, 3), "qkv.bias": (0, 3), "out.weight": (1, 1)}
"""What is cut: the dimension that holds the heads, and how often it holds all of them."""


def split_heads(module: nn.Module, group: torch.distributed.ProcessGroup | None = None) -> None:
    """Leave every `SelfAttention` inside a network the heads of this process alone. In a group of one: nothing.

    Where heads cannot be dealt evenly, the first processes have one more. All processes of the group call this
    together; they go on with the network of the first. The backend must be one for the device on which the module is:
    gloo for CPUs, nccl for GPUs.

    group: None for all processes.

    Raises
    ------
    ConfigError
        When there are fewer heads than processes.
    ValueError
        When there is nothing to split.
    """
    size = torch.distributed.get_world_size(group)
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is SelfAttention
    ]
    if not found:
        raise ValueError(f"{type(module).__name__}: no SelfAttention inside it, or it is split already")
    deals = [dealt(attention.heads, size) for _, _, attention in found]
    if size == 1:
        return
    for tensor in module.state_dict().values():
        torch.distributed.broadcast(tensor, group=group, group_src=0)
    rank = torch.distributed.get_rank(group)
    for (parent, name, attention), heads in zip(found, deals, strict=True):
        setattr(parent, name, HeadShard(attention, HeadShare(heads, rank, group)))


def joined_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict that the network would have with its heads in one process, on every process. All of
    them call this together."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for path, shard in module.named_modules():
        if isinstance(shard, HeadShard):
            for name in _BY_HEAD:
                whole = f"{path}.{name}" if path else name
                state[whole] = shard.joined(name, state[whole])
    return state


def dealt(heads: int, processes: int) -> tuple[int, ...]:
    """Heads of each process: 8 over 3 are (3, 3, 2).

    Raises
    ------
    ConfigError
        When there are fewer heads than processes.
    """
    if heads < processes:
        raise ConfigError(
            f"networks.attention.heads = {heads}: expected at least {processes}, one for each process that shares them"
        )
    least, more = divmod(heads, processes)
    return tuple(least + (rank < more) for rank in range(processes))


@dataclass(frozen=True)
class HeadShare:
    """heads: of each process, in the order of ranks."""

    heads: tuple[int, ...]
    rank: int
    group: torch.distributed.ProcessGroup | None

    def own(self, whole: Tensor, dim: int) -> Tensor:
        """This process's part of a tensor with one entry per head along `dim`."""
        return whole.split(self.heads, dim)[self.rank]

    def joined(self, own: Tensor, dim: int) -> Tensor:
        """The tensor of which every process has its part."""
        first = own.movedim(dim, 0)
        # Messages are of one size: not every backend takes others.
        padded = first.new_zeros(max(self.heads), *first.shape[1:])
        padded[: len(first)] = first
        parts = [torch.empty_like(padded) for _ in self.heads]
        torch.distributed.all_gather(parts, padded, group=self.group)
        return torch.cat([part[:heads] for part, heads in zip(parts, self.heads, strict=True)]).movedim(0, dim)

    def summed(self, part: Tensor) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=self.group)
        return total


class HeadShard(SelfAttention):
    """The heads of one process. It takes the layers of `whole` over, which is not to be used any more."""

    def __init__(self, whole: SelfAttention, share: HeadShare):
        nn.Module.__init__(self)
        self.share = share
        self.heads = share.heads[share.rank]
        self.qkv, self.out = whole.qkv, whole.out
        for name, (dim, times) in _BY_HEAD.items():
            layer, _, leaf = name.rpartition(".")
            old = self.get_parameter(name)
            by_head = old.detach().unflatten(dim, (times, whole.heads, -1))
            own = share.own(by_head, dim + 1).flatten(dim, dim + 2).clone(memory_format=torch.contiguous_format)
            setattr(self.get_submodule(layer), leaf, nn.Parameter(own, requires_grad=old.requires_grad))
        self.qkv.out_features, self.out.in_features = self.qkv.weight.shape[0], self.out.weight.shape[1]
        self.train(whole.training)

    def forward(self, tokens_BGE: Tensor, look: bool = False) -> tuple[Tensor, Tensor | None]:
        """As of the unsplit layer, the weights of all heads among it."""
        mixed_BGF, weights_BJGG = self.mixed(_GradSum.apply(tokens_BGE, self.share), look)
        # The bias comes after the sum, and so once.
        read_BGE = _Sum.apply(dense(mixed_BGF, self.out.weight, None), self.share) + self.out.bias
        return read_BGE, None if weights_BJGG is None else _Joined.apply(weights_BJGG, self.share)

    def joined(self, name: str, own: Tensor) -> Tensor:
        """The unsplit layer's tensor of that name, of which this process has `own`."""
        dim, times = _BY_HEAD[name]
        by_head = own.unflatten(dim, (times, self.heads, -1))
        return self.share.joined(by_head, dim + 1).flatten(dim, dim + 2)


# What comes after a sum is the same on all processes, and so is the gradient that comes back from there: it is not
# added up again. `torch.distributed.nn` would, and give as many times the gradient as there are processes.


class _GradSum(torch.autograd.Function):
    """What all processes have, read by each in its own way: the gradients by it are added up."""

    @staticmethod
    def forward(ctx: Any, tokens_BGE: Tensor, share: HeadShare) -> Tensor:
        ctx.share = share
        return tokens_BGE.view_as(tokens_BGE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.share.summed(grads[0]), None


class _Sum(torch.autograd.Function):
    """The parts of all processes added up; every part's gradient is that of the sum."""

    @staticmethod
    def forward(ctx: Any, part_BGE: Tensor, share: HeadShare) -> Tensor:
        return share.summed(part_BGE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Joined(torch.autograd.Function):
    """Weights of all heads, in their order; the way back leaves each process the gradient by its own."""

    @staticmethod
    def forward(ctx: Any, weights_BJGG: Tensor, share: HeadShare) -> Tensor:
        ctx.share = share
        return share.joined(weights_BJGG, dim=-3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.share.own(grads[0], -3), None
