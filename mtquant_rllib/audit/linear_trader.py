"""The cheapest learner there is: a ridge regression of the next bar's move on what is seen of each instrument.

It learns from returns alone, as the policies do, and its forecast is traded through the same core as an oracle's
knowledge. What it earns says whether a market, its features, fills and costs let something be learned, in seconds and
before any network is trained.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.layout import ALLOCATOR_ASSET, block_layout
from mtquant_rllib.portfolio import execution_data as channel

_ROWS_AT_ONCE = 10_000
_MOVE_CLIP = 5.0
"""Moves beyond so many deviations are cut for the fit: one crash does not decide it."""


class LinearTrader:
    """Coefficients shared by all instruments, fitted on the training segments.

    Parameters
    ----------
    leak
        Added to column `evaluation.controls.leak_column` of training and test blocks alike: this many deviations of it
        a deviation of the next move; 0 for none.

    Raises
    ------
    ConfigError
        When that column is not seen.
    """

    def __init__(self, settings: Settings, train: DeskData, train_sigma: np.ndarray, leak: float = 0.0) -> None:
        self._settings, self._leak = settings, leak
        block = block_layout(settings)
        names = block.names if settings.allocator is None else ALLOCATOR_ASSET.names
        self._columns = [block.column(name) for name in names]
        leaking = settings.evaluation.controls.leak_column
        if leaking not in names:
            raise ConfigError(
                f"evaluation.controls.leak_column = {leaking}: expected one of {', '.join(names)}, which are seen"
            )
        self._leaking = names.index(leaking)
        rows = np.concatenate([np.arange(segment.start, segment.stop - 1) for segment in train.segments])
        moves = next_moves(settings, train, train_sigma)
        products = settings.evaluation.controls.ridge_rows * np.diag([*[1.0] * len(names), 0.0])
        with_target = np.zeros(len(products))
        for part in _parts(rows):
            seen = self._seen(train, moves, part)
            products += seen.T @ seen
            with_target += seen.T @ np.clip(moves[part], -_MOVE_CLIP, _MOVE_CLIP).ravel()
        self.coefficients = np.linalg.solve(products, with_target)

    def forecast(self, data: DeskData, sigma: np.ndarray) -> np.ndarray:
        """Expected next move of every row and instrument, a fraction, (N, n)."""
        moves = next_moves(self._settings, data, sigma)
        predicted = [self._seen(data, moves, part) @ self.coefficients for part in _parts(np.arange(len(sigma)))]
        return np.concatenate(predicted).reshape(sigma.shape) * sigma

    def _seen(self, data: DeskData, moves: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Columns of each row and instrument, and a one, (R * n, k + 1)."""
        block = np.asarray(data.features.block)[rows][:, :, self._columns].astype(np.float64)
        block[:, :, self._leaking] += self._leak * moves[rows]
        flat = block.reshape(-1, len(self._columns))
        return np.concatenate((flat, np.ones((len(flat), 1))), axis=1)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]


def next_moves(settings: Settings, data: DeskData, sigma: np.ndarray) -> np.ndarray:
    """Return of the next bar from its fill to its close, in units of trailing volatility (N, n); 0 on the last row of a
    path. As money sees it: a pair whose base is the account's currency gains by 1 - open / close."""
    money, account = data.execution.money, settings.desk.account.currency
    inverse = np.array([row.base == account for row in settings.instruments])
    fill, last = money[:, channel.FILL], money[:, channel.LAST]
    body = np.where(inverse, 1.0 - fill / last, last / fill - 1.0)
    moves = np.zeros_like(body)
    moves[:-1] = body[1:] / sigma[:-1]
    length = data.execution.rows_per_path
    moves[length - 1 :: length] = 0.0
    return moves
