"""Learners of one trial as one: what they tell each other so that their number changes the speed and not the result.

Each learner has the decisions of some environments. Before an update they learn how many rows everybody has, so that
all of them cut the same minibatches out of the same order of rows; after each minibatch they add up their gradients.
A single learner talks to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor


class Peers:
    """The learners of a trial, as one of them sees them. `rank`: its number; `size`: how many there are.

    Every method must be called by all of them in the same order; a `channel` has an order of its own.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rank = torch.distributed.get_rank() if size > 1 else 0

    def channel(self) -> Channel:
        return Channel(torch.distributed.new_group() if self.size > 1 else None)

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
