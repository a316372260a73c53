"""Reward terms as functions of arrays. A term, its weight in config and its metric share one name.

Every reward is in units of the bar volatility that the position was sized for: a reward of one is a one-sigma bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.desk import DifferentialSharpeConfig
from mtquant_rllib.vector_state import VectorState


@dataclass(init=False, eq=False)
class DifferentialSharpe(VectorState):
    """The differential Sharpe ratio of K return streams in B environments (Moody & Saffell 2001, "Learning to trade via
    direct reinforcement").

        dA = z - A,  dB = z^2 - B,  D = (B dA - A dB / 2) / max(B - A^2, floor)^1.5,  A += eta dA,  B += eta dB

    It starts at A = 0, B = 1, as if the past had been a standard-normal stream of no drift; the floor and the clip
    keep early values finite.

    Attributes
    ----------
    mean, square
        A and B, (B, K): observed by the agents they reward, without which the reward is no function of the state.
    """

    mean: np.ndarray
    square: np.ndarray

    def __init__(self, n_envs: int, n_streams: int, config: DifferentialSharpeConfig) -> None:
        self.mean = np.zeros((n_envs, n_streams))
        self.square = np.ones((n_envs, n_streams))
        self._eta = 1.0 / config.horizon_bars
        self._floor = config.variance_floor
        self._clip = config.clip

    def reset(self, envs: np.ndarray) -> None:
        self.mean[envs] = 0.0
        self.square[envs] = 1.0

    def step(self, z: np.ndarray) -> np.ndarray:
        """Reward of the standardised net returns z (B, K); updates the moments."""
        mean, square = self.mean, self.square
        mean_gap = z - mean
        square_gap = z * z - square
        variance = np.maximum(square - mean * mean, self._floor)
        reward = (square * mean_gap - 0.5 * mean * square_gap) / (variance * np.sqrt(variance))
        mean += self._eta * mean_gap
        square += self._eta * square_gap
        return np.clip(reward, -self._clip, self._clip)


@dataclass(init=False, eq=False)
class MaximumDrawdown(VectorState):
    """The episode's maximum drawdown of K value streams, and its increment at each bar. Penalising only new maxima
    charges a loss once; penalising every drawdown increment would make cash optimal.

    Attributes
    ----------
    value, peak
        Compounded value of each stream and its running maximum, (B, K); both start at 1.
    maximum
        Largest drawdown so far, a fraction of the peak, (B, K).
    """

    value: np.ndarray
    peak: np.ndarray
    maximum: np.ndarray

    def __init__(self, n_envs: int, n_streams: int) -> None:
        self.value = np.ones((n_envs, n_streams))
        self.peak = np.ones((n_envs, n_streams))
        self.maximum = np.zeros((n_envs, n_streams))

    def reset(self, envs: np.ndarray) -> None:
        self.value[envs] = 1.0
        self.peak[envs] = 1.0
        self.maximum[envs] = 0.0

    @property
    def current(self) -> np.ndarray:
        """Drawdown now, a fraction of the peak, (B, K)."""
        return 1.0 - self.value / self.peak

    def step(self, returns: np.ndarray) -> np.ndarray:
        """Increment of the maximum drawdown, >= 0, (B, K), after net returns as fractions of equity."""
        self.value *= 1.0 + returns
        np.maximum(self.peak, self.value, out=self.peak)
        grown = np.maximum(self.current, self.maximum)
        increment = grown - self.maximum
        self.maximum = grown
        return increment


@dataclass(init=False, eq=False)
class DayExcess(VectorState):
    """How far the trading day's loss has gone beyond the VaR forecast that it began with, and its increment at a bar.

    The forecast is a day's, so it is held against a day: shorter bars are compounded, and what the day has been charged
    before is not charged again. A daily bar is a day of its own.

    Attributes
    ----------
    day_return
        Net return of the day so far, (B,).
    forecast
        One-day VaR with which it began, fraction of equity, (B,).
    charged
        Largest loss beyond it so far, (B,).
    """

    day_return: np.ndarray
    forecast: np.ndarray
    charged: np.ndarray

    def __init__(self, n_envs: int) -> None:
        self.day_return = np.zeros(n_envs)
        self.forecast = np.full(n_envs, np.inf)
        self.charged = np.zeros(n_envs)

    def reset(self, envs: np.ndarray) -> None:
        self.day_return[envs] = 0.0
        self.forecast[envs] = np.inf
        self.charged[envs] = 0.0

    def step(self, portfolio_return: np.ndarray, var_forecast: np.ndarray, opens_day: np.ndarray) -> np.ndarray:
        """Increment of the excess, >= 0, (B,), after a bar's net return; opens_day: it is the first of its day."""
        compounded = (1.0 + self.day_return) * (1.0 + portfolio_return) - 1.0
        self.day_return = np.where(opens_day, portfolio_return, compounded)
        self.forecast = np.where(opens_day, var_forecast, self.forecast)
        before = np.where(opens_day, 0.0, self.charged)
        self.charged = np.maximum(before, var_excess(self.day_return, self.forecast))
        return self.charged - before


def var_excess(portfolio_return: np.ndarray, var_forecast: np.ndarray) -> np.ndarray:
    """Loss beyond a VaR forecast for as much time, >= 0, fractions of equity, (B,)."""
    return np.maximum(-portfolio_return - var_forecast, 0.0)
