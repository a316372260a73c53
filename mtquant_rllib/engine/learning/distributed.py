"""Learners of one trial as one: what they tell each other so that their number changes the speed and not the result.

On policy, each learner has the decisions of some environments. Before an update they learn how many rows everybody has,
so that all of them cut the same minibatches out of the same order of rows. Off policy, each remembers everything and
draws the same minibatches, of which it takes its part of the rows. After each minibatch they add up their gradients. A
single learner talks to nobody.
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
class Part:
    """One learner's rows of a minibatch of `total`."""

    rows: slice
    total: int

    @property
    def share(self) -> float:
        return (self.rows.stop - self.rows.start) / self.total


class Peers:
    """The learners of a trial, as one of them sees them. `rank`: its number; `size`: how many there are.

    Every method must be called by all of them in the same order; a `channel` has an order of its own.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rank = torch.distributed.get_rank() if size > 1 else 0

    def channel(self) -> Channel:
        return Channel(torch.distributed.new_group() if self.size > 1 else None)

    def part(self, total: int) -> Part:
        """This learner's rows of `total`, which are cut into parts of about equal length."""
        return Part(slice(total * self.rank // self.size, total * (self.rank + 1) // self.size), total)

    def take_over(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors by those of the first learner."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.data, src=0)

    def counts(self, mine: Sequence[int], device: torch.device | None) -> np.ndarray:
        """Everybody's counts, int64 (size, len(mine))."""
        table = torch.tensor(mine, device=device)
        if self.size == 1:
            return table[None].cpu().numpy()
        out = [torch.empty_like(table) for _ in range(self.size)]
        torch.distributed.all_gather(out, table)
        return torch.stack(out).cpu().numpy()


class Channel:
    """Sums over the learners. Stacks that learn side by side have one each."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the learners."""
        if self._group is not None:
            torch.distributed.all_reduce(tensor, group=self._group)
        return tensor


class JoinedLearner(TorchLearner):
    """A learner that is one of several, and adds up gradients itself."""

    # RLlib declares them optional, and does not know ours.
    config: Any
    _module: Any

    def build(self) -> None:
        self._peers = Peers(max(self.config.num_learners, 1))
        self._common = self._peers.channel()
        super().build()

    def _make_modules_ddp_if_necessary(self) -> None:
        """RLlib's wrapper adds up gradients in a backward pass of each module, and there is none here. What is left of
        it is that all learners begin alike."""
        modules = [self._module[name] for name in list(self.module.keys())]
        self._peers.take_over([tensor for module in modules for tensor in module.parameters()])
