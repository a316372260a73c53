"""Is one book better than another on the same bars? Differences of Sharpe ratios, and what several of them prove.

Books on one market rise and fall together, so their difference is known better than either of them. Its error is that
of the difference of their influences psi (Ledoit and Wolf 2008, the HAC version of Jobson and Korkie 1981). Whoever
compares with several books has several chances to be lucky: Holm's step-down (1979) keeps the probability of a single
false claim among all of them at the nominal level, whatever their dependence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from mtquant_rllib.evaluation.statistics.sharpe_tests import long_run_variance, sharpe_influence


@dataclass(frozen=True)
class PairedTest:
    """Sharpe ratios a bar of a book less another's, (K,); the errors of the differences; one-sided p-values of "not
    better", as they are and adjusted for all K of them; two-sided p-values of "no difference", adjusted likewise."""

    difference: np.ndarray
    error: np.ndarray
    p_value: np.ndarray
    adjusted: np.ndarray
    adjusted_two_sided: np.ndarray


def compare_sharpes(subject: np.ndarray, others: np.ndarray) -> PairedTest:
    """A book's returns (T,) with those of K others (K, T), on the same bars, all finite.

    A book that never moves has a Sharpe ratio of 0, known without error. One that is the subject's equal differs by 0,
    and proves nothing: p = 1.
    """
    psi, sharpe = sharpe_influence(np.concatenate((subject[None], others)))
    psi, sharpe = np.nan_to_num(psi), np.nan_to_num(sharpe)
    gap = psi[0] - psi[1:]
    difference = sharpe[0] - sharpe[1:]
    error = np.sqrt(long_run_variance(gap) / (gap.shape[-1] - 1))
    differs = error > 1e-9 / np.sqrt(gap.shape[-1])
    z = difference / np.where(differs, error, 1.0)
    p_value = np.where(differs, stats.norm.sf(z), 1.0)
    two_sided = np.where(differs, 2 * stats.norm.sf(np.abs(z)), 1.0)
    return PairedTest(difference, error, p_value, holm(p_value), holm(two_sided))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values of Holm's step-down procedure, (K,), in the order given."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
