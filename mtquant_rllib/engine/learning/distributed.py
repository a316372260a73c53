"""The learners of one trial as one: their number changes the speed of learning and not its result.

PPO: each learner has the decisions of some environments. Before an update the row counts of all ranks are gathered, so
that every rank cuts the same minibatches out of the same order of rows. SAC: each rank has the whole replay, draws the
same minibatches and takes its shard of their rows. After each minibatch gradients are summed over ranks. With one
learner nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """The rows of a minibatch of `total` that one learner has."""

    rows: slice
    total: int

    @property
    def fraction(self) -> float:
        return (self.rows.stop - self.rows.start) / self.total


class LearnerRanks:
    """The learners of a trial as one of them sees them. `rank`: its number; `size`: how many there are.

    Every rank must call every method in the same order; a `new_group` has an order of its own.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rank = torch.distributed.get_rank() if size > 1 else 0

    def new_group(self) -> SumGroup:
        return SumGroup(torch.distributed.new_group() if self.size > 1 else None)

    def shard(self, total: int) -> Shard:
        """This rank's rows of `total`, which are cut into shards of about equal length."""
        return Shard(slice(total * self.rank // self.size, total * (self.rank + 1) // self.size), total)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.data, src=0)

    def gather_counts(self, counts: Sequence[int], device: torch.device | None) -> np.ndarray:
        """The counts of all ranks, int64 (size, len(counts))."""
        own_counts = torch.tensor(counts, device=device)
        if self.size == 1:
            return own_counts[None].cpu().numpy()
        out = [torch.empty_like(own_counts) for _ in range(self.size)]
        torch.distributed.all_gather(out, own_counts)
        return torch.stack(out).cpu().numpy()


class SumGroup:
    """A process group of all learners that sums tensors. Stacks that learn in threads of their own have one each."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks."""
        if self._group is not None:
            torch.distributed.all_reduce(tensor, group=self._group)
        return tensor


class DistributedLearner(TorchLearner):
    """A learner that is one of several and sums gradients over them itself."""

    # RLlib declares them optional, and does not know ours.
    config: Any
    _module: Any

    def build(self) -> None:
        self._ranks = LearnerRanks(max(self.config.num_learners, 1))
        self._group = self._ranks.new_group()
        super().build()

    def _make_modules_ddp_if_necessary(self) -> None:
        """Give all learners the same initial parameters. RLlib would wrap modules in DistributedDataParallel, which
        sums gradients in a module's own backward pass; a stack's gradients do not pass through there."""
        modules = [self._module[name] for name in list(self.module.keys())]
        self._ranks.broadcast([tensor for module in modules for tensor in module.parameters()])
