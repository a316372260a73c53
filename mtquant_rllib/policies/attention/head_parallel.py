"""Attention heads over several processes, each with a device of its own: tensor parallelism as in Megatron-LM (Shoeybi
et al. 2019, arXiv 1909.08053).

Heads are independent before the output projection, and that is linear: the output is a sum over heads.

    out(mixed) = sum over processes of (mixed of its heads) (its columns of the output weight)'  +  bias

So a process holds the rows of the projection to queries, keys and values that belong to its heads, and the columns of
the output projection that read them. One all-reduce sums the parts in the forward pass, one sums the gradient by the
tokens in the backward pass. Everything else (embedding, norms, feed-forward, the network's heads, the output's bias) is
replicated: it gets the same gradient in every process and stays equal without communication.

Every process must process the same rows by the same calls in the same order, with one dropout seed for all. Optimizers
must be made after the split, whose parameters are new ones. Clipping by the global norm would have to sum the squares
of the shards first; no learner here does.

The split belongs to a running process and not to the network: `unsplit_state_dict` returns the unsplit network's state.

Shape suffixes as in `attention`; J heads of this process, their own outputs side by side are F = J D wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.attention.self_attention import SelfAttention
from mtquant_rllib.policies.networks import dense

_BY_HEAD = {"qkv.weight": (0, 3), "qkv.bias": (0, 3), "out.weight": (1, 1)}
"""The parameters that are split: the dimension of the heads, and how often it holds all of them."""


def split_heads(module: nn.Module, group: torch.distributed.ProcessGroup | None = None) -> None:
    """Replace every `SelfAttention` inside a network by one of this process's heads. In a group of one it does nothing.

    Where the heads cannot be divided evenly, the first processes have one more. All processes of the group must call
    this together; they continue with the network of rank 0. The backend must fit the module's device: gloo for CPUs,
    nccl for GPUs.

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
    divisions = [heads_per_process(attention.heads, size) for _, _, attention in found]
    if size == 1:
        return
    for tensor in module.state_dict().values():
        torch.distributed.broadcast(tensor, group=group, group_src=0)
    rank = torch.distributed.get_rank(group)
    for (parent, name, attention), heads in zip(found, divisions, strict=True):
        setattr(parent, name, HeadShard(attention, HeadPartition(heads, rank, group)))


def unsplit_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the unsplit network's state dict, on every process. All processes must call this together."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for path, shard in module.named_modules():
        if isinstance(shard, HeadShard):
            for name in _BY_HEAD:
                whole = f"{path}.{name}" if path else name
                state[whole] = shard.unsplit(name, state[whole])
    return state


def heads_per_process(heads: int, processes: int) -> tuple[int, ...]:
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
class HeadPartition:
    """The division of heads among processes. heads: of each rank."""

    heads: tuple[int, ...]
    rank: int
    group: torch.distributed.ProcessGroup | None

    def own(self, whole: Tensor, dim: int) -> Tensor:
        """This process's part of a tensor with an entry per head along `dim`."""
        return whole.split(self.heads, dim)[self.rank]

    def all_gather(self, own: Tensor, dim: int) -> Tensor:
        """The whole tensor from every process's part."""
        first = own.movedim(dim, 0)
        # Padded to one size, because not every backend gathers unequal tensors.
        padded = first.new_zeros(max(self.heads), *first.shape[1:])
        padded[: len(first)] = first
        parts = [torch.empty_like(padded) for _ in self.heads]
        torch.distributed.all_gather(parts, padded, group=self.group)
        return torch.cat([part[:heads] for part, heads in zip(parts, self.heads, strict=True)]).movedim(0, dim)

    def all_reduce(self, part: Tensor) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=self.group)
        return total


class HeadShard(SelfAttention):
    """The heads of one process. It takes over the layers of `whole`, which must not be used any more."""

    def __init__(self, whole: SelfAttention, partition: HeadPartition):
        nn.Module.__init__(self)
        self.partition = partition
        self.heads = partition.heads[partition.rank]
        self.qkv, self.out = whole.qkv, whole.out
        for name, (dim, times) in _BY_HEAD.items():
            layer, _, leaf = name.rpartition(".")
            old = self.get_parameter(name)
            by_head = old.detach().unflatten(dim, (times, whole.heads, -1))
            own = partition.own(by_head, dim + 1).flatten(dim, dim + 2).clone(memory_format=torch.contiguous_format)
            setattr(self.get_submodule(layer), leaf, nn.Parameter(own, requires_grad=old.requires_grad))
        self.qkv.out_features, self.out.in_features = self.qkv.weight.shape[0], self.out.weight.shape[1]
        self.train(whole.training)

    def forward(self, tokens_BGE: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """As of the unsplit layer, with the weights of all heads."""
        mixed_BGF, weights_BJGG = self.mixed(_AllReduceGradient.apply(tokens_BGE, self.partition), need_weights)
        # The bias is added once, after the sum.
        read_BGE = _AllReduce.apply(dense(mixed_BGF, self.out.weight, None), self.partition) + self.out.bias
        return read_BGE, None if weights_BJGG is None else _AllGather.apply(weights_BJGG, self.partition)

    def unsplit(self, name: str, own: Tensor) -> Tensor:
        """The unsplit layer's tensor of that name, of which this process has `own`."""
        dim, times = _BY_HEAD[name]
        by_head = own.unflatten(dim, (times, self.heads, -1))
        return self.partition.all_gather(by_head, dim + 1).flatten(dim, dim + 2)


# After a sum all processes hold the same, and the gradient by it is the same too: it must not be summed again.
# `torch.distributed.nn` would, and multiply the gradient by the number of processes.


class _AllReduceGradient(torch.autograd.Function):
    """Identity; the gradient is summed over processes (f of Megatron-LM)."""

    @staticmethod
    def forward(ctx: Any, tokens_BGE: Tensor, partition: HeadPartition) -> Tensor:
        ctx.partition = partition
        return tokens_BGE.view_as(tokens_BGE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.partition.all_reduce(grads[0]), None


class _AllReduce(torch.autograd.Function):
    """Sum over processes; the gradient of each part is that of the sum (g of Megatron-LM)."""

    @staticmethod
    def forward(ctx: Any, part_BGE: Tensor, partition: HeadPartition) -> Tensor:
        return partition.all_reduce(part_BGE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _AllGather(torch.autograd.Function):
    """Weights of all heads in order; each process gets the gradient by its own."""

    @staticmethod
    def forward(ctx: Any, weights_BJGG: Tensor, partition: HeadPartition) -> Tensor:
        ctx.partition = partition
        return partition.all_gather(weights_BJGG, dim=-3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.partition.own(grads[0], -3), None
