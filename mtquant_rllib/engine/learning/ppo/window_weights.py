"""Softmin weights of windows: PPO that cares most for the stretches of the market in which it does worst.

A window is what one module decided for one agent in one environment during an update: as many consecutive bars as an
environment plays between two updates, or a part of them where the module played only that part. Its score S_k is the
annualised Sharpe ratio of the rewards of its decisions. Every window's advantages, standardised before, are multiplied
by

    w_k = exp(-S_k / temperature) * c,      c such that the mean weight of all decisions is 1,

which is the weight of a window in the gradient of the soft minimum -temperature * ln(sum_k exp(-S_k / temperature)) of
the windows' Sharpe ratios, the objective of DeePM (arXiv 2601.05975). The greater the temperature, the more equal the
weights: at an infinite one the update is the plain one. Windows shorter than `min_bars` say too little of themselves
and keep the weight 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.training import WindowSoftminConfig

EFFECTIVE_WINDOWS = "effective_windows_frac"
"""Metric: (sum of weights)^2 / (rows * sum of squared weights), Kish's effective share of the decisions that are
weighted: 1 where all count alike, near 0 where one window is all that is learned from."""
_LARGEST_EXPONENT = 50.0
"""Windows whose scores differ by more than so many temperatures from the mean differ no further."""
_NO_DEVIATION = 1e-12

Total = Callable[[np.ndarray], np.ndarray]
"""Sums an array over all learners."""


@dataclass(frozen=True)
class Windows:
    """The windows of one module with one learner: W of them, R decisions.

    of_row
        Window of each decision, int (R,).
    sharpe_ann
        Annualised Sharpe ratio of each window's rewards, (W,); 0 where they do not differ.
    rows, bars
        Decisions and bars of each window, (W,).
    """

    of_row: np.ndarray
    sharpe_ann: np.ndarray
    rows: np.ndarray
    bars: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, rewards: np.ndarray, bars: np.ndarray, bars_per_year: float) -> Windows:
        """From the key of each decision's window, its rewards and the bars it lasted, (R,) each."""
        _, of_row = np.unique(keys, return_inverse=True)
        rows = np.bincount(of_row).astype(np.float64)
        lasted = np.bincount(of_row, bars)
        mean = np.bincount(of_row, rewards) / rows
        variance = np.bincount(of_row, (rewards - mean[of_row]) ** 2) / rows
        deviation = np.sqrt(variance)
        per_year = bars_per_year * rows / np.maximum(lasted, 1.0)
        known = deviation > _NO_DEVIATION
        sharpe = np.where(known, mean / np.where(known, deviation, 1.0) * np.sqrt(per_year), 0.0)
        return cls(of_row, sharpe, rows, lasted)


def softmin_weights(windows: Windows, config: WindowSoftminConfig, total: Total) -> tuple[np.ndarray, float]:
    """Weight of each decision, (R,), and `EFFECTIVE_WINDOWS`, NaN where no window is long enough.

    total
        All learners must call this together, those without a window too.
    """
    assert config.temperature is not None
    judged = windows.bars >= config.min_bars
    scores, rows = windows.sharpe_ann[judged], windows.rows[judged]
    count, of_scores, n_rows = total(np.array([judged.sum(), scores.sum(), rows.sum()], dtype=np.float64))
    if count == 0:
        return np.ones(len(windows.of_row)), float("nan")
    # The mean in the exponent cancels; it keeps the powers within bounds.
    exponent = (of_scores / count - scores) / config.temperature
    powers = np.exp(np.clip(exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
    first, second = total(np.array([(rows * powers).sum(), (rows * powers**2).sum()]))
    weights = np.ones(len(windows.bars))
    weights[judged] = powers * (n_rows / first)
    return weights[windows.of_row], float(first**2 / (n_rows * second))
