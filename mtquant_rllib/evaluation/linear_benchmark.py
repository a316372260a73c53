"""What there is to be read: the best linear reading of an allocator's observation, as a yardstick beside the oracle.

The planted mean depends on a long history of a proxy, and an allocator's ten columns an asset show part of it. A policy
that falls short of the oracle may have learned little, or may have seen little. The reader tells which: it regresses
the exact mean, in units of volatility, on the fifty columns of training rows, and trades its fit on test rows as the
oracle trades the truth. Nobody who learns from returns alone, which are a hundred times noisier, can hope for more from
a straight line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.data import DeskData, truth
from mtquant_rllib.features.layout import allocator_columns

_MOST_ROWS = 50_000
"""Rows for the fit, evenly spread: fifty numbers need no more."""


def read_mean(settings: Settings, folder: Path, split: str) -> np.ndarray:
    """Conditional mean of the next return that fifty columns tell on every row of a split, (N, n).

    The fit is by least squares on the training split of the same prepared market.
    """
    data = DeskData.open(folder, "train")
    mu, sigma = truth(folder, "train")
    rows = np.concatenate([np.arange(stretch.start, stretch.stop) for stretch in data.stretches])
    rows = rows[:: max(len(rows) // _MOST_ROWS, 1)]
    fit, *_ = np.linalg.lstsq(_seen(settings, data, rows), mu[rows] / sigma[rows], rcond=None)
    held, sigma = DeskData.open(folder, split), truth(folder, split)[1]
    return np.asarray(_seen(settings, held, np.arange(len(sigma))) @ fit * sigma)


def _seen(settings: Settings, data: DeskData, rows: np.ndarray) -> np.ndarray:
    """Observations of rows and a one, (R, 51)."""
    block = np.asarray(data.features.block)
    columns = np.array(allocator_columns(settings.universe.symbols))
    seen = block.reshape(len(block), -1)[rows[:, None], columns]
    return np.concatenate((seen, np.ones((len(seen), 1))), axis=1, dtype=np.float64)
