"""Limits that add up absolute notionals: one instrument, a sector, the whole book, margin; and which position a margin
call closes first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtquant_rllib.config.sections.instruments import InstrumentConfig


def margin_rates(instruments: Sequence[InstrumentConfig]) -> np.ndarray:
    """Margin per notional, shape (n,): the dearer of the configured rate and the leverage cap's 1 / leverage."""
    return np.array([max(row.margin_pct / 100, 1 / row.leverage) for row in instruments])


def load_matrix(domain_of: Sequence[int], n_domains: int, margin_per_notional: np.ndarray) -> np.ndarray:
    """Columns that turn |weights| (B, n) into sector gross, total gross and margin by one product; (n, D + 2)."""
    n = len(domain_of)
    loads = np.zeros((n, n_domains + 2))
    loads[np.arange(n), list(domain_of)] = 1.0
    loads[:, n_domains] = 1.0
    loads[:, n_domains + 1] = margin_per_notional
    return loads


def sector_gross(weights: np.ndarray, domain_of: Sequence[int], n_domains: int) -> np.ndarray:
    """Sum of |weight| by domain, (B, n) -> (B, D)."""
    return np.abs(weights) @ np.eye(n_domains)[list(domain_of)]


def margin_used(weights: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Sum of |w_i| m_i as a fraction of equity, (B, n) -> (B,). Without the buffer."""
    return np.abs(weights) @ rates


def shrink_to_limit(free: np.ndarray, fixed: np.ndarray | float, limit: float) -> np.ndarray:
    """Largest factor in [0, 1] with factor * free + fixed <= limit; 0 where `fixed` alone exceeds it.

    free, fixed: arrays of one shape, >= 0. 1 where nothing is free.
    """
    room = limit - fixed
    factor = np.divide(room, free, out=np.ones_like(free), where=(free > room) & (free > 0))
    return np.clip(factor, 0.0, 1.0)


def forced_close(
    notional_ccy: np.ndarray, equity_ccy: np.ndarray, rates: np.ndarray, stop_out_frac: float, tradable: np.ndarray
) -> np.ndarray:
    """The position a broker would close now: the largest margin user, when equity < stop-out * used margin.

    Parameters
    ----------
    notional_ccy
        Signed, ndarray of shape (B, n).
    equity_ccy
        Including open P&L, ndarray of shape (B,).
    rates
        Margin per notional, (n,).
    stop_out_frac
        0.5 closes when equity is under half of the used margin.
    tradable
        bool (B, n); the largest user among these is chosen.

    Returns
    -------
    int64 ndarray of shape (B,): instrument to close, -1 for none. Call again after closing.
    """
    used = np.abs(notional_ccy) * rates
    called = equity_ccy < stop_out_frac * used.sum(axis=1)
    closable = np.where(tradable, used, 0.0)
    largest = closable.argmax(axis=1)
    return np.where(called & (closable.max(axis=1) > 0), largest, -1)
