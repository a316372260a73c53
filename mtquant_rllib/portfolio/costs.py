"""What a trade and a night cost, in account currency. Pure functions over arrays of shape (B, n)."""

from __future__ import annotations

import numpy as np


def trade_cost(
    traded_ccy: np.ndarray,
    cost_frac: np.ndarray,
    sigma_day: np.ndarray,
    adv_ccy: np.ndarray,
    impact_coefficient: float,
    impact_free_adv_share: float,
) -> np.ndarray:
    """Half spread, slippage and commission on the traded notional, and market impact above a share of ADV.

    Impact per unit of notional is coefficient * daily sigma * sqrt(size / ADV): the square-root law (Almgren et al.
    2005, "Direct estimation of equity market impact").

    Parameters
    ----------
    traded_ccy
        Absolute traded notional, (B, n).
    cost_frac
        One-way cost per notional without impact, (B, n).
    sigma_day
        Daily volatility of simple returns, (B, n).
    adv_ccy
        Average daily volume, account currency, (n,).
    """
    cost = traded_ccy * cost_frac
    share = traded_ccy / adv_ccy
    large = share > impact_free_adv_share
    if large.any():
        cost += np.where(large, impact_coefficient * sigma_day * np.sqrt(share) * traded_ccy, 0.0)
    return cost


def night_cost(
    units: np.ndarray, unit_value_ccy: np.ndarray, long_frac: np.ndarray, short_frac: np.ndarray
) -> np.ndarray:
    """Financing of the nights into a bar, (B, n); negative where the position earns.

    `long_frac` and `short_frac` are what a long and a short pay per notional; the notional is taken at the last close.
    """
    return np.abs(units * unit_value_ccy) * np.where(units > 0, long_frac, short_frac)
