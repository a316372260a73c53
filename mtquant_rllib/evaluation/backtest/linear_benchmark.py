"""The best linear forecast from an allocator's observation, a benchmark below the oracle.

The planted mean depends on a long history of a proxy, and an allocator's ten columns an asset show part of it. A policy
that falls short of the oracle may have learned little or observed little. The linear benchmark tells which: it
regresses the exact mean, in units of volatility, on the fifty columns of training rows, and trades the fit on test rows
as the oracle trades the truth. A linear policy that learns from returns, which are a hundred times noisier, cannot do
better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData, truth
from mtquant_rllib.features.layout import allocator_columns

_MOST_ROWS = 50_000
"""Rows for the fit, evenly spread; enough for fifty coefficients."""


def linear_forecast(settings: Settings, folder: Path, split: str) -> np.ndarray:
    """Linear forecast of the conditional mean of the next return on every row of a split, (N, n).

    The fit is by least squares on the training split of the same prepared market.
    """
    data = DeskData.open(folder, "train")
    mu, sigma = truth(folder, "train")
    rows = np.concatenate([np.arange(segment.start, segment.stop) for segment in data.segments])
    rows = rows[:: max(len(rows) // _MOST_ROWS, 1)]
    fit, *_ = np.linalg.lstsq(_regressors(settings, data, rows), mu[rows] / sigma[rows], rcond=None)
    data, sigma = DeskData.open(folder, split), truth(folder, split)[1]
    return np.asarray(_regressors(settings, data, np.arange(len(sigma))) @ fit * sigma)


def _regressors(settings: Settings, data: DeskData, rows: np.ndarray) -> np.ndarray:
    """Observations of rows and a constant 1, (R, 51)."""
    block = np.asarray(data.features.block)
    columns = np.array(allocator_columns(settings.universe.symbols))
    seen = block.reshape(len(block), -1)[rows[:, None], columns]
    return np.concatenate((seen, np.ones((len(seen), 1))), axis=1, dtype=np.float64)
