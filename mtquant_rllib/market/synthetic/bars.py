"""Prices and volume. A day is a gap, then a body that is a Brownian path from open to close.

Both are simple returns with symmetric noise and are multiplied, so a price without drift is a martingale and cannot
reach zero. What must be fair is what a holder earns in account currency. A dollar of yen earns 1 - P0/P1, so there
the dollar's worth 1/P is drawn in place of P; such an instrument is called inverse below, and `price_change`
translates.

The high and the low are drawn from the law of the path's extremes between its known ends. That makes a stop fair: an
order out at the level it was touched expects the close to be that level. Which point of that law is drawn is where
the bars carry the proxy. The proxy's innovation is standard normal whatever came before, so its distribution function
is a uniform that can be spent on the extremes: a bullish surprise gives a long lower wick, a short upper one and a
close high in the bar, while given the past the path remains an ordinary one. The second carrier is volume, which
nobody is paid in: its surprise is high when the proxy is.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import lfilter
from scipy.special import log_ndtr

from mtquant_rllib.config.sections.synthetic import MomentumStructure, SyntheticVolume
from mtquant_rllib.market.synthetic.planted import momentum_score

_FURTHEST = 0.9
"""No extreme lies further from the open, so that a low stays positive; beyond the reach of all but a path in
millions."""


def price_change(earned: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Simple return of the price from what a long position earns per unit of account currency at its start."""
    return earned / (1.0 - inverse * earned)


def bodies(
    gaps: np.ndarray,
    noise: np.ndarray,
    drift: np.ndarray,
    pull: np.ndarray,
    inverse: np.ndarray,
    start_vol: np.ndarray,
    decay: float,
    momentum: MomentumStructure,
    momentum_strength: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Open-to-close earnings of a long position, the trailing volatility in whose units they are pulled, and the
    momentum structure's mean.

    Parameters
    ----------
    gaps, noise, drift
        Shape (n_paths, T, n), earned by a long position: close to open, and the body's own noise and regime drift.
    pull
        Shape (n_paths, T, n): planted mean of bar t+1's body in units of the volatility at t.
    inverse
        Shape (n,): 1 where the price is in foreign currency per unit of account currency, else 0.
    start_vol
        Shape (n_paths, n), a bar's deviation at the start.
    decay
        Of the exponentially weighted square of close-to-close returns that is the trailing volatility.

    Returns
    -------
    bodies, sigma, momentum_mean
        Shape (n_paths, T, n). `sigma[t]` and `momentum_mean[t]` know the returns to t; the body of t+1 has the mean
        sigma[t] * pull[t] + momentum_mean[t] + drift[t+1].
    """
    n_paths, n_rows, n = gaps.shape
    sigma, earned = np.empty_like(gaps), noise + drift
    momentum_mean = np.zeros_like(gaps) if momentum_strength else np.broadcast_to(0.0, gaps.shape)
    path = np.zeros((n_paths, n_rows + 1, n)) if momentum_strength else None
    windows = (momentum.window_bars, momentum.trend_bars)
    square, planted = start_vol**2, np.zeros((n_paths, n))
    gap_growth = 1.0 + price_change(gaps, inverse)
    for t in range(n_rows):
        body = earned[:, t]
        body += planted
        move = gap_growth[:, t] * (1.0 + body / (1.0 - inverse * body)) - 1.0
        square = decay * square + (1.0 - decay) * move * move
        vol = np.sqrt(square)
        sigma[:, t] = vol
        planted = vol * pull[:, t]
        if path is not None:
            path[:, t + 1] = path[:, t] + move
            if t + 1 >= max(windows):
                window, trend = ((path[:, t + 1] - path[:, t + 1 - k]) / (vol * math.sqrt(k)) for k in windows)
                momentum_mean[:, t] = momentum_strength * vol * momentum_score(window, trend, momentum)
                planted = planted + momentum_mean[:, t]
    return earned, sigma, momentum_mean


def prices(
    start: np.ndarray,
    gaps: np.ndarray,
    body: np.ndarray,
    inverse: np.ndarray,
    path_vol: np.ndarray,
    surprise: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write open, high, low and close into `out[..., :4]`, shape (n_paths, T, n, 5).

    Parameters
    ----------
    start
        Shape (n,): the close before the first bar.
    gaps, body
        Earned by a long position, shape (n_paths, T, n).
    path_vol
        Deviation of the Brownian path between open and close, shape (n_paths, T, n).
    surprise
        Standardised innovation of the proxy, standard normal given the past.
    """
    body_growth = 1.0 + price_change(body, inverse)
    closes = start * np.cumprod((1.0 + price_change(gaps, inverse)) * body_growth, axis=1)
    opens = closes / body_growth
    # P(max of a Brownian bridge from 0 to x exceeds y) = exp(-2 y (y - x) / s^2), solved for y; the minimum mirrored.
    rise = 0.5 * (body + np.sqrt(body**2 - 2.0 * path_vol**2 * log_ndtr(surprise)))
    fall = 0.5 * (body - np.sqrt(body**2 - 2.0 * path_vol**2 * log_ndtr(-surprise)))
    highs = opens * (1.0 + price_change(np.minimum(rise, _FURTHEST), inverse))
    lows = opens * (1.0 + price_change(np.maximum(fall, -_FURTHEST), inverse))
    out[..., 0], out[..., 3] = opens, closes
    out[..., 1] = np.maximum(highs, np.maximum(opens, closes))
    out[..., 2] = np.minimum(lows, np.minimum(opens, closes))


def volume(
    base: np.ndarray, normals: np.ndarray, moves: np.ndarray, proxy: np.ndarray, config: SyntheticVolume
) -> np.ndarray:
    """Lognormal volume with a long memory, shape (n_paths, T, n).

    ln(V_t / base) = memory * (its own trailing mean) + u_t, where the surprise u_t is noise, more on bars that move and
    more where the proxy is high. A rolling score of log volume is then close to u_t itself: what a feature measures
    against the recent past is what was added to the recent past.

    Parameters
    ----------
    base
        Volume of a bar without history or surprise, shape (n,).
    normals, moves, proxy
        Shape (n_paths, T, n): standard normals, absolute shocks in standard deviations, and the proxy.
    """
    surprise = config.noise * normals + config.move_loading * moves + config.proxy_loading * proxy
    fresh = 2.0 / (config.memory_span_bars + 1)
    log_volume = surprise.copy()
    mean = lfilter([fresh], [1.0, -(1.0 - fresh + fresh * config.memory)], surprise, axis=1)
    log_volume[:, 1:] += config.memory * mean[:, :-1]
    return base * np.exp(log_volume)
