"""Instruments of different domains that make the same bet: what there is for the joint phase to find.

With a correlation rho, the overlapping instruments share part of the innovations of their latents, of the noise of
their proxies and of the shocks to their prices. Forecasts that agree are then paid by returns that agree: three bets
are nearly one, of three times the size. Each domain for itself is drawn from the same law as without overlap, because
what is shared takes the place of what was the instrument's own, and its domain follows it as closely as before. So no
specialist can see it, and the best part of each domain is what it was.

The estimate of a latent from its own proxy stays the best one: latents and proxies of the overlapping instruments have
the same correlation at every lag, and then the others' proxies tell nothing that one's own does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def share(normals: np.ndarray, common: np.ndarray, instruments: Sequence[int], correlation: float) -> None:
    """Mix common standard normals (T,) into those of some instruments, (T, n), in place: their variance stays 1, their
    correlation rises from r to correlation + (1 - correlation) r."""
    own = math.sqrt(1.0 - correlation)
    for i in instruments:
        normals[:, i] = math.sqrt(correlation) * common + own * normals[:, i]


def share_shocks(
    shocks: np.ndarray,
    common: np.ndarray,
    instruments: Sequence[int],
    correlation: float,
    matrices: np.ndarray,
    domain_of: np.ndarray,
) -> None:
    """The same for correlated standard normals (T, n), in place, without a change of the law inside any domain.

    Parameters
    ----------
    matrices
        Correlations of each bar, (T, n, n).
    domain_of
        Domain of each instrument, (n,). Other instruments of a domain follow the one that overlaps by their regression
        on it, and keep their residuals.
    """
    before = shocks[:, list(instruments)].copy()
    share(shocks, common, instruments, correlation)
    for place, i in enumerate(instruments):
        change = shocks[:, i] - before[:, place]
        for j in np.flatnonzero(domain_of == domain_of[i]):
            if j != i:
                shocks[:, j] += matrices[:, j, i] * change
