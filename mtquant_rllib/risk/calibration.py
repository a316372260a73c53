"""Calibration of a VaR forecast: it is scaled by the quantile of past losses over their forecasts.

    factor = quantile of loss_s / forecast_s over the last `window_days` days s, at the forecast's confidence

A forecast that was exceeded on more days than its confidence allows has a factor above one. It is filtered historical
simulation of the book's own losses (Barone-Adesi, Giannopoulos and Vosper 1999) with the forecast as the filter. The
factor is 1 until there are `min_days`, and within [`min_factor`, `max_factor`].

The factor of a day's forecast uses the days that ended before the day on which the forecast is made. It corrects how
often losses are beyond the forecast, and adds noise of its own: a quantile of 250 days at 95% rests on the 13 worst.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.risk import VaRCalibrationConfig
from mtquant_rllib.vector_state import VectorState


def calibration_factors(
    returns: np.ndarray,
    forecast: np.ndarray,
    confidence: float,
    config: VaRCalibrationConfig,
    *,
    calibrated: bool = False,
) -> np.ndarray:
    """Factor of each day's forecast, (T,).

    Parameters
    ----------
    returns, forecast
        Of each day, (T,): simple return, and VaR forecast before it. A day without both, or whose forecast is 0, counts
        for nothing.
    calibrated
        The forecasts are calibrated ones: forecast / factor is the raw one.
    """
    factors = np.ones(len(forecast))
    days: list[float] = []
    ordered: list[float] = []
    waiting: float | None = None
    for t, (simple, ahead) in enumerate(zip(returns.tolist(), forecast.tolist(), strict=True)):
        factors[t] = factor = _factor(ordered, confidence, config)
        if waiting is not None:
            days.append(waiting)
            insort(ordered, waiting)
            waiting = None
            if len(days) > config.window_days:
                del ordered[bisect_left(ordered, days[-config.window_days - 1])]
        raw = ahead / factor if calibrated else ahead
        if raw > 0 and simple == simple:
            waiting = -simple / raw
    return factors


def _factor(ordered: list[float], confidence: float, config: VaRCalibrationConfig) -> float:
    """Of ratios in rising order."""
    if len(ordered) < config.min_days:
        return 1.0
    place = (len(ordered) - 1) * confidence
    low = int(place)
    step = ordered[min(low + 1, len(ordered) - 1)] - ordered[low]
    return min(max(ordered[low] + (place - low) * step, config.min_factor), config.max_factor)


@dataclass(init=False, eq=False)
class VarCalibration(VectorState):
    """The calibration of B environments, day by day.

    Attributes
    ----------
    factor
        Of forecasts made now, (B,).
    ratios
        Losses over raw forecasts, a ring of the last `window_days` days, (B, W); NaN where there is none yet.
    n_days
        Days recorded since the episode began, int64 (B,).
    day_equity_ccy, day_forecast
        Equity at the close before the day in progress, NaN before the first, and the raw forecast made there, (B,).
    close_equity_ccy, close_forecast
        The same at the last close, (B,).
    """

    factor: np.ndarray
    ratios: np.ndarray
    n_days: np.ndarray
    day_equity_ccy: np.ndarray
    day_forecast: np.ndarray
    close_equity_ccy: np.ndarray
    close_forecast: np.ndarray

    def __init__(self, config: VaRCalibrationConfig, confidence: float, n_envs: int) -> None:
        self._config, self._confidence = config, confidence
        self.factor = np.ones(n_envs)
        self.ratios = np.full((n_envs, config.window_days), np.nan)
        self.n_days = np.zeros(n_envs, dtype=np.int64)
        self.day_equity_ccy = np.full(n_envs, np.nan)
        self.day_forecast = np.zeros(n_envs)
        self.close_equity_ccy = np.full(n_envs, np.nan)
        self.close_forecast = np.zeros(n_envs)

    def restart(self, envs: np.ndarray) -> None:
        """Forget everything in `envs` (indices): an episode begins."""
        self.factor[envs] = 1.0
        self.ratios[envs] = np.nan
        self.n_days[envs] = 0
        self.day_equity_ccy[envs] = self.close_equity_ccy[envs] = np.nan
        self.day_forecast[envs] = self.close_forecast[envs] = 0.0

    def at_close(self, equity_ccy: np.ndarray, forecast: np.ndarray) -> None:
        """Equity at a close and the calibrated forecast made there, (B,)."""
        np.copyto(self.close_equity_ccy, equity_ccy)
        np.copyto(self.close_forecast, forecast / self.factor)

    def begin_day(self, new_day: np.ndarray) -> None:
        """A day begins where `new_day`, bool (B,): the one before it is recorded."""
        envs = np.flatnonzero(new_day)
        if not len(envs):
            return
        start, forecast = self.day_equity_ccy[envs], self.day_forecast[envs]
        usable = (start > 0) & (forecast > 0)
        rows = envs[usable]
        self.ratios[rows, self.n_days[rows] % self.ratios.shape[1]] = (
            1 - self.close_equity_ccy[rows] / start[usable]
        ) / forecast[usable]
        self.n_days[rows] += 1
        self.day_equity_ccy[envs] = self.close_equity_ccy[envs]
        self.day_forecast[envs] = self.close_forecast[envs]
        for env in rows.tolist():
            known = self.ratios[env, : self.n_days[env]]
            self.factor[env] = _factor(sorted(known.tolist()), self._confidence, self._config)
