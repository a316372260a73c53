"""Checks of a single order before it leaves: restrictions, price band, share of daily volume, capital.

They concern only the leg that increases risk. A move toward zero has none, so it always passes; a flip is a close leg,
which passes, and an opening leg. Written as bounds on |executed|: what may be *held* (the current position, if the
proposal is on its side, else nothing) plus what the check still allows to add.

The engine applies the tightest bound. `failures` is for reporting and says all that is wrong with an order at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag

import numpy as np

from mtquant_rllib.config.sections.instruments import InstrumentConfig, Restriction


class Failure(IntFlag):
    """What is wrong with an order; several may stand together."""

    NONE = 0
    RESTRICTION = 1
    PRICE_BAND = 2
    OPENING = 4
    ADV = 8
    CAPITAL = 16
    UNTRADABLE = 32


def held(proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
    """|current| where the proposal is on its side, else 0: the part that needs no check. Any one shape."""
    return np.where(proposed * current > 0, np.abs(current), 0.0)


def increase(proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Size of the risk-increasing leg, >= 0. Any one shape."""
    return np.maximum(np.abs(proposed) - held(proposed, current), 0.0)


def restricted_sides(instruments: Sequence[InstrumentConfig]) -> tuple[np.ndarray, np.ndarray]:
    """Which instruments may not be bought, and not be sold, to open; two bool arrays of shape (n,)."""
    no_long = [{Restriction.NO_LONG, Restriction.CLOSE_ONLY} & set(row.restrictions) != set() for row in instruments]
    no_short = [{Restriction.NO_SHORT, Restriction.CLOSE_ONLY} & set(row.restrictions) != set() for row in instruments]
    return np.array(no_long), np.array(no_short)


def within_price_band(
    price: np.ndarray, reference: np.ndarray, reference_age_bars: np.ndarray, band_frac: np.ndarray, max_age_bars: int
) -> np.ndarray:
    """Is |price / reference - 1| within the band? bool, broadcast shape.

    A missing (NaN) reference, or one older than `max_age_bars`, is no reference: there is nothing to be outside of.
    The comparison is by differences, so that a reference at or below zero neither divides nor turns the sign.
    """
    no_reference = np.isnan(reference) | (reference_age_bars > max_age_bars)
    return no_reference | (np.abs(price - reference) <= band_frac * np.abs(reference))


def margin_room(
    proposed: np.ndarray, current: np.ndarray, equity_ccy: np.ndarray, margin_per_notional: np.ndarray
) -> np.ndarray:
    """Margin that no kept position uses, as a fraction of equity; (B,), 0 for an account without equity.

    Kept is the smaller of held and proposed, since closing legs release theirs. `margin_per_notional` includes the
    buffer.
    """
    kept = np.minimum(held(proposed, current), np.abs(proposed))
    return np.where(equity_ccy > 0, np.maximum(1.0 - kept @ margin_per_notional, 0.0), 0.0)


def failures(
    proposed: np.ndarray,
    current: np.ndarray,
    equity_ccy: np.ndarray,
    *,
    tradable: np.ndarray,
    price_band_ok: np.ndarray | None,
    opening_allowed: np.ndarray | None,
    no_long: np.ndarray,
    no_short: np.ndarray,
    max_order_ccy: np.ndarray,
    margin_per_notional: np.ndarray,
) -> np.ndarray:
    """Every failure of every order, as `Failure` bits in an int64 ndarray of shape (B, n).

    proposed, current: weights (B, n); equity_ccy (B,); max_order_ccy (n,): largest risk-increasing leg;
    margin_per_notional (n,), with the buffer. A moved position of an untradable instrument fails as a whole.
    """
    size = increase(proposed, current)
    opens = size > 0
    bits = np.zeros(proposed.shape, dtype=np.int64)
    bits[opens & np.where(proposed > 0, no_long, no_short)] |= Failure.RESTRICTION
    if price_band_ok is not None:
        bits[opens & ~price_band_ok] |= Failure.PRICE_BAND
    if opening_allowed is not None:
        bits[opens & ~opening_allowed] |= Failure.OPENING
    bits[opens & (size * equity_ccy[:, None] > max_order_ccy)] |= Failure.ADV
    room = margin_room(proposed, current, equity_ccy, margin_per_notional)
    bits[opens & (size * margin_per_notional > room[:, None])] |= Failure.CAPITAL
    bits[~tradable & (proposed != current)] |= Failure.UNTRADABLE
    return bits
