"""Running records of a desk's results: daily returns of the portfolio, and each specialist's last bars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.vector_state import VectorState


@dataclass(init=False, eq=False)
class DailyReturns(VectorState):
    """The last `days` daily portfolio returns, oldest first, for B environments; the last entry is the day in progress.

    Attributes
    ----------
    returns
        (B, days); zero before there is history.
    n_days
        Days with a return, the one in progress included, (B,).
    base
        Equity that the day in progress is measured from, (B,).
    day_is_over
        bool (B,): the next bar begins a day whatever its timestamp, as the first of an episode does.
    """

    returns: np.ndarray
    n_days: np.ndarray
    base: np.ndarray
    day_is_over: np.ndarray

    def __init__(self, n_envs: int, days: int) -> None:
        self.returns = np.zeros((n_envs, days))
        self.n_days = np.zeros(n_envs)
        self.base = np.ones(n_envs)
        self.day_is_over = np.zeros(n_envs, dtype=bool)

    def reset(self, envs: np.ndarray, equity: np.ndarray) -> None:
        self.returns[envs] = 0.0
        self.n_days[envs] = 0.0
        self.base[envs] = equity[envs]
        self.day_is_over[envs] = True

    def opens_day(self, new_day: np.ndarray) -> np.ndarray:
        """bool (B,): the next bar is the first of a day, by its timestamp or because an episode begins."""
        return new_day | self.day_is_over

    def step(self, equity_before: np.ndarray, equity: np.ndarray, new_day: np.ndarray) -> None:
        """Mark the bar: a new day opens a new entry whose base is the equity before the bar."""
        opened = self.opens_day(new_day)
        if opened.all():
            self.returns[:, :-1] = self.returns[:, 1:]
            self.base = equity_before.copy()
            self.n_days += 1.0
        elif opened.any():
            self.returns[opened, :-1] = self.returns[opened, 1:]
            self.base[opened] = equity_before[opened]
            self.n_days[opened] += 1.0
        self.day_is_over[:] = False
        self.returns[:, -1] = equity / self.base - 1.0

    def volatility_per_day(self) -> np.ndarray:
        """Standard deviation of the daily returns so far, (B,); 0 with fewer than two."""
        days = self.returns.shape[1]
        count = np.minimum(self.n_days, days)
        total = self.returns.sum(axis=1)
        squares = np.einsum("bd,bd->b", self.returns, self.returns)
        variance = (squares - total * total / np.maximum(count, 1.0)) / np.maximum(count - 1.0, 1.0)
        return np.sqrt(np.maximum(variance, 0.0)) * (count >= 2)


@dataclass(init=False, eq=False)
class TrackRecord(VectorState):
    """Sharpe ratio and win rate of K books over their last `window` bars, from running sums over a ring.

    Attributes
    ----------
    returns
        The last bars' returns of each book, a ring, (B, window, K); zero before there is history.
    slot
        Where the ring's oldest bar lies, int64 (B,).
    count
        Bars in the ring, (B, 1).
    total, squares, wins, moves
        Sums over the ring: returns, their squares, bars that gained, bars that moved, (B, K) each.
    """

    returns: np.ndarray
    slot: np.ndarray
    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    wins: np.ndarray
    moves: np.ndarray

    def __init__(self, n_envs: int, n_books: int, window: int) -> None:
        self.returns = np.zeros((n_envs, window, n_books))
        self.slot = np.zeros(n_envs, dtype=np.int64)
        self.count = np.zeros((n_envs, 1))
        self.total = np.zeros((n_envs, n_books))
        self.squares = np.zeros((n_envs, n_books))
        self.wins = np.zeros((n_envs, n_books))
        self.moves = np.zeros((n_envs, n_books))
        self._envs = np.arange(n_envs)

    def reset(self, envs: np.ndarray) -> None:
        for array in (self.returns, self.count, self.total, self.squares, self.wins, self.moves):
            array[envs] = 0.0
        self.slot[envs] = 0

    def step(self, book_returns: np.ndarray) -> None:
        """Add one bar of book returns, fractions of equity, (B, K)."""
        window = self.returns.shape[1]
        leaving = self.returns[self._envs, self.slot]
        self.total += book_returns - leaving
        self.squares += book_returns * book_returns - leaving * leaving
        self.wins += (book_returns > 0).astype(np.float64) - (leaving > 0)
        self.moves += (book_returns != 0).astype(np.float64) - (leaving != 0)
        self.returns[self._envs, self.slot] = book_returns
        self.slot += 1
        self.slot[self.slot == window] = 0
        np.minimum(self.count + 1.0, window, out=self.count)

    def sharpe_ann(self, bars_per_year: float) -> np.ndarray:
        """Annualised, (B, K); 0 while a book has no variance."""
        count = np.maximum(self.count, 1.0)
        mean = self.total / count
        variance = self.squares / count - mean * mean
        # Running sums leave rounding noise where the true variance is zero.
        moved = (self.moves > 1) & (variance > 1e-16)
        return np.where(moved, mean / np.sqrt(np.where(moved, variance, 1.0)), 0.0) * np.sqrt(bars_per_year)

    def win_rate(self) -> np.ndarray:
        """Share of gaining bars among those on which the book moved, (B, K); one half before it has."""
        return np.where(self.moves > 0, self.wins / np.maximum(self.moves, 1.0), 0.5)
