"""Batches for several learners: sharded by environment, or replicated.

RLlib cuts a batch at ends of episodes; fragments are cut between environments, so that advantages, which run along
time, do not depend on the number of learners.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from ray.rllib.core.learner.training_data import TrainingData

from mtquant_rllib.engine.fragments import Fragment


class ShardedBatch(TrainingData):
    """Fragments or RLlib's episodes as `LearnerGroup.update` takes them. Each learner gets some environments."""

    def shard(
        self, num_shards: int, len_lookback_buffer: int | None = None, **how: Any
    ) -> Sequence[tuple[TrainingData, dict[str, Any]]]:
        """The batch of each of `num_shards` learners."""
        samples: list[Any] = self.episodes or []
        if not all(isinstance(sample, Fragment) for sample in samples):
            return super().shard(num_shards, len_lookback_buffer, **how)
        shards: list[list[Any]] = [*shard_by_environment(samples, num_shards)]
        return [(ShardedBatch(episodes=shard), {}) for shard in shards]


class ReplicatedBatch(ShardedBatch):
    """Every learner gets all of it."""

    def shard(
        self, num_shards: int, len_lookback_buffer: int | None = None, **how: Any
    ) -> Sequence[tuple[TrainingData, dict[str, Any]]]:
        return [(ReplicatedBatch(episodes=self.episodes), {})] * num_shards


def shard_by_environment(fragments: Sequence[Fragment], n: int) -> list[list[Fragment]]:
    """Cut fragments into n shards of consecutive environments, of about equal length."""
    starts = np.cumsum([0, *(fragment.environments for fragment in fragments)])
    cuts = [round(number * int(starts[-1]) / n) for number in range(n + 1)]
    shards: list[list[Fragment]] = []
    for first, last in pairwise(cuts):
        ranges = [slice(max(first - start, 0), max(last - start, 0)) for start in starts]
        parts = [(fragment, own.indices(fragment.environments)) for fragment, own in zip(fragments, ranges)]
        shards.append([fragment.of_environments(slice(*own)) for fragment, own in parts if own[1] > own[0]])
    return shards
