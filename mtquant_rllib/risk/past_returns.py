"""The past daily returns that historical VaR revalues books with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class PastReturns:
    """What is known at a close of the days before it, in each of B environments.

    Attributes
    ----------
    returns
        Daily simple returns, days of several histories one after the other, float64 (K, n); with `scale`, in units of
        the volatility forecast for their day.
    days
        First and last (exclusive) row of `returns` of each environment, int (B, 2).
    scale
        Volatility forecast for the next day, (B, n); None where returns are as they were.
    """

    returns: np.ndarray
    days: np.ndarray
    scale: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.days)

    def __getitem__(self, envs: np.ndarray) -> PastReturns:
        """The environments `envs`, indices or mask."""
        return PastReturns(self.returns, self.days[envs], None if self.scale is None else self.scale[envs])

    def times(self, factor: np.ndarray) -> PastReturns:
        """With every return of environment b multiplied by factor[b], (B,)."""
        n = self.returns.shape[1]
        before = np.ones((len(self.days), n)) if self.scale is None else self.scale
        return PastReturns(self.returns, self.days, before * factor[:, None])

    def losses(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Losses of books (B, n) on their past days, oldest first: (environments (r,), losses (r, S)) for each number S
        of days that some of them have."""
        if self.scale is not None:
            weights = weights * self.scale
        lengths = self.days[:, 1] - self.days[:, 0]
        found = []
        for length in np.unique(lengths):
            envs = np.flatnonzero(lengths == length)
            out = np.empty((len(envs), length))
            for row, env in enumerate(envs.tolist()):
                first, stop = self.days[env].tolist()
                np.dot(self.returns[first:stop], weights[env], out=out[row])
            found.append((envs, np.negative(out, out=out)))
        return found

    @classmethod
    def of(cls, returns: np.ndarray, n_envs: int = 1, scale: np.ndarray | None = None) -> PastReturns:
        """The same days (S, n) for all environments. scale: (n,), of the next day."""
        days = np.tile([0, len(returns)], (n_envs, 1))
        return cls(returns, days, None if scale is None else np.tile(scale, (n_envs, 1)))
