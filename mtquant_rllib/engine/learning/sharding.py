"""What was sampled, cut up for several learners: each gets the decisions of some environments, or all of them.

RLlib cuts a batch where its episodes end; columns are cut between environments, so that advantages, which run along
time, come out as they would in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from ray.rllib.core.learner.training_data import TrainingData

from mtquant_rllib.engine.columns import Fragment


class ShardedBatch(TrainingData):
    """What runners sampled, columns or RLlib's episodes, as `LearnerGroup.update` takes it."""

    def shard(
        self, num_shards: int, len_lookback_buffer: int | None = None, **how: Any
    ) -> Sequence[tuple[TrainingData, dict[str, Any]]]:
        """What each of `num_shards` learners gets."""
        samples: list[Any] = self.episodes or []
        if not all(isinstance(sample, Fragment) for sample in samples):
            return super().shard(num_shards, len_lookback_buffer, **how)
        shards: list[list[Any]] = [*sharded(samples, num_shards)]
        return [(ShardedBatch(episodes=shard), {}) for shard in shards]


class CopiedBatch(ShardedBatch):
    """What every learner is to remember whole."""

    def shard(
        self, num_shards: int, len_lookback_buffer: int | None = None, **how: Any
    ) -> Sequence[tuple[TrainingData, dict[str, Any]]]:
        return [(CopiedBatch(episodes=self.episodes), {})] * num_shards


def sharded(fragments: Sequence[Fragment], n: int) -> list[list[Fragment]]:
    """Fragments as n shards: the environments of all of them in their order, cut into n runs of about equal length."""
    starts = np.cumsum([0, *(fragment.environments for fragment in fragments)])
    cuts = [round(number * int(starts[-1]) / n) for number in range(n + 1)]
    shards: list[list[Fragment]] = []
    for first, last in pairwise(cuts):
        ranges = [slice(max(first - start, 0), max(last - start, 0)) for start in starts]
        parts = [(fragment, own.indices(fragment.environments)) for fragment, own in zip(fragments, ranges)]
        shards.append([fragment.of_environments(slice(*own)) for fragment, own in parts if own[1] > own[0]])
    return shards
