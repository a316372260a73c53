"""The probability of backtest overfitting: how often the best of many trials turns out worse than their median.

Combinatorially symmetric cross-validation (Bailey, Borwein, Lopez de Prado and Zhu 2017). The bars are cut into S
blocks; every choice of half of them is a sample in which the best trial is chosen, and the other half is where it is
looked at. Where choosing finds nothing but luck, the chosen one is as likely below the others' median as above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Overfitting:
    """What choosing the best of N trials is worth.

    probability
        PBO: share of the choices whose trial ranks in the lower half out of sample, logit <= 0.
    logits
        ln(w / (1 - w)) of every choice, w its relative rank out of sample in (0, 1), shape (choices,).
    chosen_in, chosen_out
        Sharpe ratio a bar of the chosen trial in and out of sample, (choices,).
    """

    probability: float
    logits: np.ndarray
    chosen_in: np.ndarray
    chosen_out: np.ndarray

    @property
    def probability_of_loss(self) -> float:
        """Share of the choices that lose out of sample."""
        return float((self.chosen_out < 0).mean())


def overfitting(returns: np.ndarray, n_blocks: int) -> Overfitting:
    """PBO of trials' returns, finite (T, N), N at least 2, by S = n_blocks blocks (even); bars that do not divide
    evenly are left out at the beginning.

    Raises
    ------
    ValueError
        For an odd number of blocks, fewer than two trials, or blocks of fewer than two bars.
    """
    n_bars, n_trials = returns.shape
    if n_blocks % 2 or n_trials < 2 or n_bars < 2 * n_blocks:
        raise ValueError(
            f"{n_trials} trials of {n_bars} bars in {n_blocks} blocks: expected two trials or more, an even number of "
            "blocks, and two bars or more in each"
        )
    length = n_bars // n_blocks
    blocks = np.asarray(returns, dtype=np.float64)[n_bars - n_blocks * length :].reshape(n_blocks, length, n_trials)
    sums = np.stack([np.full((n_blocks, n_trials), float(length)), blocks.sum(axis=1), (blocks**2).sum(axis=1)])
    halves = np.array(list(combinations(range(n_blocks), n_blocks // 2)))
    inside = np.zeros((len(halves), n_blocks))
    np.put_along_axis(inside, halves, 1.0, axis=1)
    of_sample = _sharpe(np.einsum("cb,mbn->mcn", inside, sums))
    of_rest = _sharpe(np.einsum("cb,mbn->mcn", 1.0 - inside, sums))
    best = of_sample.argmax(axis=1)
    at_best = np.arange(len(halves)), best
    rank = stats.rankdata(of_rest, axis=1)[at_best]
    relative = rank / (n_trials + 1)
    logits = np.log(relative / (1 - relative))
    return Overfitting(float((logits <= 0).mean()), logits, of_sample[at_best], of_rest[at_best])


def _sharpe(sums: np.ndarray) -> np.ndarray:
    """Sharpe ratio a bar from counts, sums and sums of squares (3, ...); 0 where nothing varies."""
    count, total, squares = sums
    mean = total / count
    variance = (squares - count * mean**2) / (count - 1)
    varies = variance > 1e-14 * squares / count
    return np.where(varies, mean / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
