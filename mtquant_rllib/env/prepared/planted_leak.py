"""A deliberate leak of the next bar into a feature, for tests of the leak test.

Every instrument's column `leak.column` gets loading * z added, z the return from the next open to the next close in
units of the trailing volatility. Nothing else changes: the bars are those of the null market.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.layout import ALLOCATOR_ASSET, BLOCK
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.portfolio.execution_data import ExecutionData


def plant_leak(settings: Settings, execution: ExecutionData, block_file: Path, sigma: np.ndarray) -> np.ndarray:
    """Write the leak into a built table's `block.npy`. Returns the best linear forecast from that column, the
    conditional mean of the next return, (N, n).

        E[z | x] = loading var(z) / var(x) * (x - mean(x)),      x the column with the leak in it

    sigma: trailing volatility a bar, (N, n).

    Raises
    ------
    ConfigError
        When the allocator does not observe the column.
    """
    assert settings.allocator is not None
    leak = settings.allocator.leak
    if leak.column not in ALLOCATOR_ASSET.names:
        raise ConfigError(
            f"allocator.leak.column = {leak.column}: expected one of {', '.join(ALLOCATOR_ASSET.names)}, which it sees"
        )
    money = execution.money
    account = settings.desk.account.currency
    inverse = np.array([row.base == account for row in settings.instruments])
    opened, closed = money[:, channel.FILL], money[:, channel.LAST]
    body = np.where(inverse, 1.0 - opened / closed, closed / opened - 1.0)
    z = np.zeros_like(body)
    z[:-1] = body[1:] / sigma[:-1]
    z[execution.rows_per_path - 1 :: execution.rows_per_path] = 0.0

    block = np.load(block_file, mmap_mode="r+")
    column = block[:, :, BLOCK.column(leak.column)]
    column += (leak.loading * z).astype(np.float32)
    np.clip(column, -settings.features.block_clip, settings.features.block_clip, out=column)
    block.flush()
    slope = leak.loading * z.var(axis=0) / column.var(axis=0)
    return sigma * slope * (column - column.mean(axis=0))
