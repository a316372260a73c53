"""How a desk's order is shared among brokers: each is to hold its configured share of the desk's position.

The position that the desk would hold is divided by shares (`apportion`), and each broker gets an order for what it
lacks. So a desk that goes flat is flat at every broker, whatever was rounded on the way. No part is on the other side
of the order: a broker that holds more than its share already gets none, and the others share what is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from mtquant_rllib.errors import MtquantError


class Unshareable(MtquantError):
    """An order that brokers cannot take in whole lots."""


def apportion(total_steps: int, shares: Mapping[str, float], granules: Mapping[str, int]) -> dict[str, int]:
    """Divide a position by shares, in whole granules (Hamilton's method of largest remainders).

    Every broker gets the whole granules of its quota; what remains goes one granule at a time to the largest remainder,
    the first of equals in the order of `shares`.

    Parameters
    ----------
    total_steps
        Lot steps, signed.
    shares
        Relative to their sum.
    granules
        Lot steps in the smallest step of each broker.

    Returns
    -------
    Lot steps by broker, of the sign of the total; they add up to it.

    Raises
    ------
    Unshareable
        When no combination that this rule finds adds up to the total.
    """
    sign, left = (1 if total_steps > 0 else -1), abs(total_steps)
    exact = {name: Fraction(repr(share)) for name, share in shares.items()}
    whole = sum(exact.values(), Fraction(0))
    quotas = {name: left * share / whole / granules[name] for name, share in exact.items()}
    parts = {name: math.floor(quota) * granules[name] for name, quota in quotas.items()}
    left -= sum(parts.values())
    # Brokers of equal remainder in the order of the settings: sorting is stable.
    order = sorted(quotas, key=lambda name: math.floor(quotas[name]) - quotas[name])
    while left:
        fitting = [name for name in order if granules[name] <= left]
        if not fitting:
            raise Unshareable(f"{abs(total_steps)} lot steps are no whole number of the steps of {', '.join(shares)}")
        for name in fitting:
            if granules[name] <= left:
                parts[name] += granules[name]
                left -= granules[name]
    return {name: sign * part for name, part in parts.items()}


def share_order(
    order_steps: int,
    committed: Mapping[str, int],
    shares: Mapping[str, float],
    granules: Mapping[str, int],
    minimums: Mapping[str, int],
) -> dict[str, int]:
    """Divide an order among brokers.

    Parameters
    ----------
    order_steps
        Lot steps, positive for a purchase and negative for a sale.
    committed
        Lot steps that each broker will hold once its open orders have filled, signed.
    shares, granules
        As of `apportion`; the brokers that offer the instrument.
    minimums
        Lot steps in the smallest order of each.

    Returns
    -------
    Lot steps by broker, none of them zero or of the other sign; they add up to the order.

    Raises
    ------
    Unshareable
        When no broker takes an order as small, or the lots do not come out.
    """
    sign = 1 if order_steps > 0 else -1
    able = [name for name in shares if minimums[name] <= abs(order_steps)]
    while able:
        target = order_steps + sum(committed[name] for name in able)
        held = apportion(target, {name: shares[name] for name in able}, granules)
        parts = {name: sign * (held[name] - committed[name]) for name in able}
        if beyond := [name for name in able if parts[name] < 0]:
            able = [name for name in able if name not in beyond]
            continue
        small = [name for name in able if 0 < parts[name] < minimums[name]]
        if not small:
            return {name: sign * part for name, part in parts.items() if part}
        able.remove(min(small, key=lambda name: parts[name] / minimums[name]))
    raise Unshareable(f"{abs(order_steps)} lot steps: no broker of {', '.join(shares)} takes an order of this size")
