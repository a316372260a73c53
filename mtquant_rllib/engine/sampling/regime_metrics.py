"""Training metrics of the regimes in the sampled bars, as the regime detector labels them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mtquant_rllib.engine.sampling.rollout_buffer import EpisodeFlags
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.features.table import FeatureTable


def regimes_sampled(parts: Iterable[tuple[EpisodeFlags, FeatureTable]]) -> dict[str, float]:
    """The share of each regime in all bars of a call, changes of regime per bar, and the detector's mean confidence.

    Changes are counted between consecutive bars of one episode.
    """
    counts = np.zeros(len(Regime), dtype=np.int64)
    changes = pairs = 0
    confidence = 0.0
    for flags, features in parts:
        played, rows = flags.bars[1:], flags.market_rows[1:]
        labels = features.regime[rows]
        counts += np.bincount(labels[played], minlength=len(Regime))
        confidence += float(features.regime_confidence[rows[played]].sum(dtype=np.float64))
        consecutive = played[1:] & played[:-1] & ~(flags.terminated | flags.truncated)[1:-1]
        pairs += int(consecutive.sum())
        changes += int((consecutive & (labels[1:] != labels[:-1])).sum())
    bars = max(int(counts.sum()), 1)
    shares = {f"share_{regime.name.lower()}": counts[regime] / bars for regime in Regime}
    return {**shares, "changes_per_bar": changes / max(pairs, 1), "confidence": confidence / bars}
