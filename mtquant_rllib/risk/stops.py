"""Stop levels and whether they are hit: pure functions over arrays of any one shape.

`side` is +1 for a long, -1 for a short, 0 for no position (level NaN). Prices in quote currency. The order of a bar:
a level is fixed at the close of t; on bar t + 1 an open beyond it is out at the open; else orders fill; then a low (for
a long) beyond it is out at the level. Touching a level is beyond it, as for a resting stop order. Nothing trails on the
high of the same bar, since which came first is unknown.
"""

from __future__ import annotations

import numpy as np


def entry_stop(fill: np.ndarray, side: np.ndarray, atr: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Level of a new position: k ATRs beyond its fill. NaN where side is 0."""
    return np.where(side == 0, np.nan, fill - side * k * atr)


def trail(old_level: np.ndarray, side: np.ndarray, close: np.ndarray, atr: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Level after the close: max(old, C - k ATR) for longs, min(old, C + k ATR) for shorts; never loosened.

    A NaN candidate (no bar, no ATR yet) keeps the old level, a NaN old level takes the candidate. NaN where side is 0.
    """
    candidate = close - side * k * atr
    level = np.where(side > 0, np.fmax(old_level, candidate), np.fmin(old_level, candidate))
    return np.where(side == 0, np.nan, level)


def after_fill(
    old_level: np.ndarray,
    old_units: np.ndarray,
    new_units: np.ndarray,
    fill: np.ndarray,
    atr: np.ndarray,
    k: np.ndarray,
) -> np.ndarray:
    """Level once an order has filled: new positions and flips get an entry stop, additions and reductions keep theirs.

    units signed; NaN where the new position is flat.
    """
    side = np.sign(new_units)
    kept = (np.sign(old_units) == side) & ~np.isnan(old_level)
    return np.where(kept & (side != 0), old_level, entry_stop(fill, side, atr, k))


def open_stop_hit(level: np.ndarray, side: np.ndarray, open_: np.ndarray) -> np.ndarray:
    """The bar opens at or beyond the level (a gap through the stop). False where there is no level, side or open."""
    return (side != 0) & (side * (open_ - level) <= 0)


def intrabar_stop_hit(level: np.ndarray, side: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The bar trades at or beyond the level. False where there is no level, side or bar."""
    worst = np.where(side > 0, low, high)
    return (side != 0) & (side * (worst - level) <= 0)


def without_reentry(target: np.ndarray, stopped_side: np.ndarray) -> np.ndarray:
    """Targets with those on the side that was stopped out on this bar set to 0: no way back in before its close.

    target: signed position or weight; stopped_side: +1 or -1 where a long or short was stopped out, else 0.
    """
    return np.where(target * stopped_side > 0, 0.0, target)
