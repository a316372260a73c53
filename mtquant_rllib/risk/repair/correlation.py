"""Correlation concentration: how much the book's positions are one bet.

The measure is the mean pairwise correlation, weighted by |w_i w_j| and signed by the positions:

    m = sum_{i != j} w_i w_j r_ij / sum_{i != j} |w_i w_j|

Two longs with correlation .85 measure .85; a long and a short of the same pair measure -.85, a hedge. One position
alone measures 0. The rule binds only above a floor of gross: below it a concentrated book is too small to matter, and
without the floor the cheapest repair of two indices would be to hold one naked index, which passes the measure and is
worse.
"""

from __future__ import annotations

import numpy as np

_SMALL = 1e-12


def concentration_terms(weights: np.ndarray, hollow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the measure.

    weights (..., n) and correlations (..., n, n) with a zero diagonal; two arrays of shape (...,).
    """
    absolute = np.abs(weights)
    numerator = np.einsum("...i,...ij,...j->...", weights, hollow, weights)
    return numerator, absolute.sum(axis=-1) ** 2 - (absolute * absolute).sum(axis=-1)


def correlation_concentration(weights: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """The measure for weights (..., n) and correlation matrices (..., n, n); 0 for fewer than two positions."""
    n = weights.shape[-1]
    numerator, denominator = concentration_terms(weights, correlation * (1.0 - np.eye(n)))
    return ratio(numerator, denominator)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where there is no pair of positions."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > _SMALL * _SMALL)


def largest_root_below_one(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Largest root of a x^2 + b x + c in (0, 1), NaN where there is none. Arrays of one shape."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # The half with the larger sum, so that neither root suffers cancellation.
        half = -0.5 * (b + np.copysign(np.sqrt(b * b - 4 * a * c), b))
        first, second = half / a, c / half
    first[~((first > _SMALL) & (first < 1))] = np.nan
    second[~((second > _SMALL) & (second < 1))] = np.nan
    return np.fmax(first, second)


def diversifying_factors(
    weights: np.ndarray,
    hollow: np.ndarray,
    tradable: np.ndarray | None,
    limit: float,
    gross_floor: float,
    rounds: int,
    tolerance: float,
) -> np.ndarray:
    """Factors in [0, 1] that bring books under the limit, or under the floor of gross.

    The positions that add to the numerator, c_i = w_i sum_j w_j r_ij > 0, shrink by one factor: the largest at which
    numerator = limit * denominator, or at which gross meets the floor. One of the two exists in (0, 1) if all may move;
    where untradable positions leave neither, the contributors are closed and the next round looks at what contributes
    then, until the book passes or nothing that contributes can move.

    Parameters
    ----------
    weights
        Signed, ndarray of shape (R, n): books in breach (others get factors of 1).
    hollow
        Correlation matrices with zero diagonal, (R, n, n).
    tradable
        bool (R, n), or None for all.
    limit, gross_floor, rounds
        Largest measure; gross under which it does not bind; most rounds.
    tolerance
        Relative slack before a measure counts as a breach.

    Returns
    -------
    ndarray of shape (R, n).
    """
    book = weights.copy()
    factors = np.ones_like(book)
    rows = np.arange(len(book))
    for _ in range(rounds):
        w, r = book[rows], hollow[rows]
        absolute = np.abs(w)
        gross = absolute.sum(axis=1)
        squares = (absolute * absolute).sum(axis=1)
        contribution = w * np.matvec(r, w)
        denominator = gross * gross - squares
        slack = contribution.sum(axis=1) - limit * denominator
        movable = contribution > 0 if tradable is None else (contribution > 0) & tradable[rows]
        failing = (slack > tolerance * denominator) & (gross > gross_floor * (1 + tolerance)) & movable.any(axis=1)
        if not failing.any():
            break
        if not failing.all():
            rows, w, r, absolute, gross = rows[failing], w[failing], r[failing], absolute[failing], gross[failing]
            squares, slack, movable = squares[failing], slack[failing], movable[failing]

        # Numerator and denominator as quadratics in the factor of the movable part p; q stays.
        p = w * movable
        q = w - p
        rp = np.matvec(r, p)
        absolute_p = absolute * movable
        gross_p = absolute_p.sum(axis=1)
        gross_q = gross - gross_p
        squares_p = (absolute_p * absolute_p).sum(axis=1)
        a = (p * rp).sum(axis=1) - limit * (gross_p * gross_p - squares_p)
        b = 2 * ((q * rp).sum(axis=1) - limit * gross_p * gross_q)
        shrink = np.fmax(largest_root_below_one(a, b, slack - a - b), (gross_floor - gross_q) / gross_p)
        shrink[~(shrink > 0)] = 0.0
        step = np.where(movable, shrink[:, None], 1.0)
        factors[rows] *= step
        book[rows] = w * step
    return factors
