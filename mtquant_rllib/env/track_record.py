"""What the desk remembers of its own results: daily returns of the portfolio, and each specialist's last bars."""

from __future__ import annotations

import numpy as np


class DailyReturns:
    """The last `days` daily portfolio returns, oldest first, for B environments; the last entry is the day in progress.

    Attributes
    ----------
    returns
        (B, days); zero before there is history.
    n_days
        Days with a return, the one in progress included, (B,).
    """

    def __init__(self, n_envs: int, days: int) -> None:
        self.returns = np.zeros((n_envs, days))
        self.n_days = np.zeros(n_envs)
        self._base = np.ones(n_envs)
        self._day_is_over = np.zeros(n_envs, dtype=bool)

    def reset(self, envs: np.ndarray, equity: np.ndarray) -> None:
        self.returns[envs] = 0.0
        self.n_days[envs] = 0.0
        self._base[envs] = equity[envs]
        self._day_is_over[envs] = True

    def step(self, equity_before: np.ndarray, equity: np.ndarray, new_day: np.ndarray) -> None:
        """Mark the bar: a new day opens a new entry whose base is the equity before the bar."""
        opened = new_day | self._day_is_over
        if opened.all():
            self.returns[:, :-1] = self.returns[:, 1:]
            self._base = equity_before.copy()
            self.n_days += 1.0
        elif opened.any():
            self.returns[opened, :-1] = self.returns[opened, 1:]
            self._base[opened] = equity_before[opened]
            self.n_days[opened] += 1.0
        self._day_is_over[:] = False
        self.returns[:, -1] = equity / self._base - 1.0

    def volatility_per_day(self) -> np.ndarray:
        """Standard deviation of the days there are, (B,); 0 with fewer than two."""
        days = self.returns.shape[1]
        count = np.minimum(self.n_days, days)
        total = self.returns.sum(axis=1)
        squares = np.einsum("bd,bd->b", self.returns, self.returns)
        variance = (squares - total * total / np.maximum(count, 1.0)) / np.maximum(count - 1.0, 1.0)
        return np.sqrt(np.maximum(variance, 0.0)) * (count >= 2)


class TrackRecord:
    """Sharpe ratio and win rate of K books over their last `window` bars, from running sums over a ring."""

    def __init__(self, n_envs: int, n_books: int, window: int) -> None:
        self._ring = np.zeros((window, n_envs, n_books))
        self._slot = 0
        self._count = np.zeros((n_envs, 1))
        self._sum = np.zeros((n_envs, n_books))
        self._squares = np.zeros((n_envs, n_books))
        self._wins = np.zeros((n_envs, n_books))
        self._moves = np.zeros((n_envs, n_books))

    def reset(self, envs: np.ndarray) -> None:
        self._ring[:, envs] = 0.0
        for array in (self._count, self._sum, self._squares, self._wins, self._moves):
            array[envs] = 0.0

    def step(self, book_returns: np.ndarray) -> None:
        """Add one bar of book returns, fractions of equity, (B, K)."""
        leaving = self._ring[self._slot]
        self._sum += book_returns - leaving
        self._squares += book_returns * book_returns - leaving * leaving
        self._wins += (book_returns > 0).astype(np.float64) - (leaving > 0)
        self._moves += (book_returns != 0).astype(np.float64) - (leaving != 0)
        self._ring[self._slot] = book_returns
        self._slot = (self._slot + 1) % len(self._ring)
        np.minimum(self._count + 1.0, len(self._ring), out=self._count)

    def sharpe_ann(self, bars_per_year: float) -> np.ndarray:
        """Annualised, (B, K); 0 while a book has no variance."""
        count = np.maximum(self._count, 1.0)
        mean = self._sum / count
        variance = self._squares / count - mean * mean
        # Running sums leave rounding noise where the true variance is zero.
        moved = (self._moves > 1) & (variance > 1e-16)
        return np.where(moved, mean / np.sqrt(np.where(moved, variance, 1.0)), 0.0) * np.sqrt(bars_per_year)

    def win_rate(self) -> np.ndarray:
        """Share of gaining bars among those on which the book moved, (B, K); one half before it has."""
        return np.where(self._moves > 0, self._wins / np.maximum(self._moves, 1.0), 0.5)
