"""A binary tree of sums over an array of priorities: draws and changes in logarithmic time, many at once."""

from __future__ import annotations

import numpy as np


class SumTree:
    """Priorities of `size` leaves; inner node k holds the sum of nodes 2k and 2k + 1, the root is node 1."""

    def __init__(self, size: int) -> None:
        self._depth = max(size - 1, 1).bit_length()
        self._first = 1 << self._depth
        self._size = size
        self._nodes = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        return float(self._nodes[1])

    def __getitem__(self, leaves: np.ndarray) -> np.ndarray:
        return self._nodes[self._first + leaves]

    @property
    def leaves(self) -> np.ndarray:
        return self._nodes[self._first : self._first + self._size]

    def set(self, leaves: np.ndarray, priorities: np.ndarray) -> None:
        """Set priorities; of a leaf given twice the last one holds."""
        nodes = self._first + leaves
        self._nodes[nodes] = priorities
        for _ in range(self._depth):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, sums: np.ndarray) -> np.ndarray:
        """The leaf in which each of `sums`, in [0, total), falls when leaves are laid end to end."""
        nodes, sums = np.ones(len(sums), dtype=np.int64), sums.copy()
        for _ in range(self._depth):
            left = self._nodes[2 * nodes]
            right = sums >= left
            # Rounding can point past the last priority there is: never into a node without any.
            right &= self._nodes[2 * nodes + 1] > 0
            sums -= np.where(right, left, 0.0)
            nodes = 2 * nodes + right
        return nodes - self._first
