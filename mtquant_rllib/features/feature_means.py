"""Means of market features over the training bars, which are subtracted from observations.

A feature whose mean is not zero is partly a constant, and constants add up: a policy then learns a lasting long or
short position from noise many times faster than anything else. On the planted market such positions cost a tenth of the
Sharpe ratio.

The means are measured once, when a run begins, and are part of its settings (`desk.observation.feature_means`), so that
later evaluations subtract the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features import layout
from mtquant_rllib.features.table import Columns, FeatureTable

_DECIMALS = 4


@dataclass(frozen=True)
class FeatureMeans:
    """block: float32 (50,), one value a column for all instruments; domains: float32 (w,) of each domain; clip: of what
    is left; blocks, context: the same, along a row of `FeatureTable.block` and of `FeatureTable.context`."""

    block: np.ndarray
    domains: tuple[np.ndarray, ...]
    clip: float
    blocks: np.ndarray
    context: np.ndarray

    def subtract_in_place(self, blocks: np.ndarray, context: np.ndarray) -> None:
        """Subtract the means from gathered rows, in place: blocks (R, n, 50), contiguous, and contexts (R, w)."""
        for rows, means in ((blocks.reshape(len(blocks), -1), self.blocks), (context, self.context)):
            rows -= means
            np.clip(rows, -self.clip, self.clip, out=rows)

    def centred_block(self, block: np.ndarray) -> np.ndarray:
        """Market blocks (..., 50) less their means, a new array."""
        out: np.ndarray = block - self.block
        return np.clip(out, -self.clip, self.clip, out=out)

    def centred_domain(self, number: int, features: np.ndarray) -> np.ndarray:
        """Features of one domain (..., w) less their means, a new array."""
        out: np.ndarray = features - self.domains[number]
        return np.clip(out, -self.clip, self.clip, out=out)

    def centred_columns(self, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Columns (..., k) of the blocks of all instruments side by side less their means, a new array.

        columns: their positions there, int (k,).
        """
        out: np.ndarray = values - self.block[columns % len(self.block)]
        return np.clip(out, -self.clip, self.clip, out=out)

    @classmethod
    def of(cls, settings: Settings) -> FeatureMeans:
        """The means of the settings; 0 for columns without one.

        Raises
        ------
        ConfigError
            When they name an unknown column.
        """
        known = settings.desk.observation.feature_means or {}
        groups = _names(settings)
        if unknown := sorted(set(known).difference(*groups)):
            raise ConfigError(
                f"desk.observation.feature_means.{unknown[0]}: there is no such column of market features"
            )
        block, *domains = (np.array([known.get(name, 0.0) for name in names], dtype=np.float32) for names in groups)
        n = settings.universe.n_instruments
        parts = Columns.of(n, (), settings.features.others_lag_bars > 0)
        before, after = (np.zeros(width, dtype=np.float32) for width in (parts.macro.stop, _behind(parts)))
        clip = settings.desk.observation.clip
        return cls(block, tuple(domains), clip, np.tile(block, n), np.concatenate([before, *domains, after]))


def measured(table: FeatureTable, segments: Sequence[slice], settings: Settings) -> Mapping[str, float]:
    """Column -> its mean over segments of rows; of the block's columns also over the instruments. What the reference
    policy holds is no feature and keeps its mean."""
    universe = settings.universe
    tables = [table.block, *table.domain]
    sums = [sum(_total(np.asarray(part[rows])) for rows in segments) for part in tables]
    n_rows = sum(rows.stop - rows.start for rows in segments)
    counts = [n_rows * universe.n_instruments, *[n_rows] * universe.n_domains]
    return {
        name: round(float(mean), _DECIMALS)
        for names, total, count in zip(_names(settings), sums, counts)
        for name, mean in zip(names, np.asarray(total) / count)
        if name not in layout.REFERENCE.names
    }


def _names(settings: Settings) -> list[tuple[str, ...]]:
    """Columns of the block and of each domain; one that stands in several of them with whose it is before it."""
    domains = () if settings.universe.allocates else settings.universe.domains
    groups = {"block": layout.block_layout(settings).names}
    groups |= {domain.name: layout.domain_layout(domain, settings).names for domain in domains}
    counted = Counter(name for names in groups.values() for name in names)
    return [
        tuple(name if counted[name] == 1 else f"{group}.{name}" for name in names) for group, names in groups.items()
    ]


def _behind(parts: Columns) -> int:
    """Columns of a context that stand behind those of the domains."""
    own = parts.correlation
    return own.stop - own.start if own.start >= parts.macro.stop else 0


def _total(part: np.ndarray) -> np.ndarray:
    """Sum over all axes but the last."""
    return part.reshape(-1, part.shape[-1]).sum(axis=0, dtype=np.float64)
