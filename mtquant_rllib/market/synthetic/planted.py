"""The predictable part: a latent drift nobody sees, a proxy that the bars carry, and the best forecast from the proxy.

Per instrument a_t = phi a_{t-1} + sqrt(1 - phi^2) eps_t and the proxy p_t = l a_t + sqrt(1 - l^2) eta_t, both of
variance 1. The body (open to close) of bar t+1, in units of the trailing volatility at t, has the mean strength * phi
* a_t / sd(a_hat). What the proxy's history says of a_t is the Kalman filter a_hat_t, so the conditional mean given
that history is strength * phi * a_hat_t / sd(a_hat): exact, not estimated. It can be earned in full by an order
filled at the next open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.signal import lfilter

from mtquant_rllib.config.sections.synthetic import MomentumStructure, PlantedStructure


@dataclass(frozen=True)
class Filter:
    """The steady-state Kalman filter of the latent given the proxy."""

    phi: float
    loading: float

    @classmethod
    def of(cls, config: PlantedStructure) -> Filter:
        return cls(phi=2.0 ** (-1.0 / config.half_life_bars), loading=config.proxy_loading)

    @property
    def predicted_variance(self) -> float:
        """Var(a_t | proxy to t-1): the positive root of the scalar Riccati equation."""
        noise, fresh = 1 - self.loading**2, 1 - self.phi**2
        half_b = (noise * fresh - fresh * self.loading**2) / 2
        return (math.sqrt(half_b**2 + self.loading**2 * fresh * noise) - half_b) / self.loading**2

    @property
    def innovation_sd(self) -> float:
        """Deviation of p_t - E[p_t | proxy to t-1]."""
        return math.sqrt(self.loading**2 * self.predicted_variance + 1 - self.loading**2)

    @property
    def gain(self) -> float:
        return self.loading * self.predicted_variance / self.innovation_sd**2

    @property
    def estimate_sd(self) -> float:
        """sd(a_hat)."""
        return math.sqrt(1 - self.predicted_variance * (1 - self.gain * self.loading))

    def run(self, proxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Estimate a_hat_t and standardised innovation of p_t, both of the shape (n_paths, T, n) of the proxy.

        Given the proxy's past an innovation is standard normal, and the innovations together say what the proxy says.
        """
        estimate = lfilter([self.gain], [1.0, -(1 - self.gain * self.loading) * self.phi], proxy, axis=1)
        surprise = proxy.copy()
        surprise[:, 1:] -= self.loading * self.phi * estimate[:, :-1]
        return estimate, surprise / self.innovation_sd


def latent_and_proxy(fresh: np.ndarray, noise: np.ndarray, law: Filter) -> tuple[np.ndarray, np.ndarray]:
    """Latent and proxy from independent standard normals of shape (n_paths, T, n); the latent starts at 0."""
    latent = lfilter([math.sqrt(1 - law.phi**2)], [1.0, -law.phi], fresh, axis=1)
    return latent, law.loading * latent + math.sqrt(1 - law.loading**2) * noise


def momentum_score(window_move: np.ndarray, trend_move: np.ndarray, config: MomentumStructure) -> np.ndarray:
    """q * m of `MomentumStructure`, in units of its own root mean square; moves are in standard deviations."""
    raw = np.tanh(config.slope * (np.abs(trend_move) - config.pivot)) * np.clip(window_move, -3.0, 3.0)
    return raw / _momentum_rms(config.slope, config.pivot, config.window_bars / config.trend_bars)


def _momentum_rms(slope: float, pivot: float, overlap: float) -> float:
    # Two moves that end on the same bar correlate by the root of the ratio of their lengths, the shorter's over
    # the longer's.
    nodes, weights = hermegauss(60)
    weights = weights / weights.sum()
    rho = math.sqrt(min(overlap, 1 / overlap))
    trend, other = nodes[:, None], nodes[None, :]
    window = rho * trend + math.sqrt(1 - rho**2) * other
    square = (np.tanh(slope * (np.abs(trend) - pivot)) * np.clip(window, -3.0, 3.0)) ** 2
    return float(np.sqrt((weights[:, None] * weights[None, :] * square).sum()))
