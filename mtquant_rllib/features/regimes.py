"""Market regimes: bull, bear, volatile or sideways, labelled causally from the equal-weight return of the instruments.

Two detectors. `fixed` compares with constants: simple, and on eight diversified instruments nearly always sideways.
`adaptive` compares with quantiles of the last ten years and changes its mind reluctantly: a regime is entered at one
quantile, left at a lower one, and a new label must hold for some bars.

A label at t uses bars up to t. It describes; it does not predict: the next day's drift has been positive after bull and
after bear labels alike.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mtquant_rllib.config.sections.features import AdaptiveRegimeConfig, RegimesConfig
from mtquant_rllib.features import indicators as ind


class Regime(IntEnum):
    BULL = 0
    BEAR = 1
    VOLATILE = 2
    SIDEWAYS = 3


@dataclass(frozen=True)
class RegimeMeasures:
    """Arrays (k, ...) over the window: volatility a bar, momentum (sum of returns), trend (fitted move); NaN early."""

    volatility: np.ndarray
    momentum: np.ndarray
    trend: np.ndarray


def measure(returns: np.ndarray, window: int) -> RegimeMeasures:
    """Volatility V, momentum M and trend T = (window - 1) * slope of the cumulative log return.

    returns: (k, ...) simple returns of the equal-weight proxy, without NaN.
    """
    cumulative = np.cumsum(np.log1p(returns), axis=0)
    return RegimeMeasures(
        volatility=ind.rolling_std(returns, window),
        momentum=ind.rolling_sum(returns, window),
        trend=(window - 1) * ind.rolling_slope(cumulative, window),
    )


def detect(returns: np.ndarray, config: RegimesConfig) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence by the configured detector.

    Parameters
    ----------
    returns
        (k, m): simple returns of m proxies, one column each, without NaN.

    Returns
    -------
    labels
        int8 (k, m) of `Regime`; sideways until the first window is full.
    confidence
        float32 (k, m) in [0, 1]: distance to the nearest threshold that would change the label, over that threshold; 0
        while the measures already speak for another label.
    """
    measures = measure(returns, config.window_bars)
    labels = np.full(returns.shape, Regime.SIDEWAYS, dtype=np.int8)
    confidence = np.zeros(returns.shape, dtype=np.float32)
    for column in range(returns.shape[1]):
        one = RegimeMeasures(*(x[:, column] for x in (measures.volatility, measures.momentum, measures.trend)))
        if config.detector == "fixed":
            thresholds = _fixed_thresholds(len(returns), config)
            labels[:, column] = _without_memory(one, config)
        else:
            thresholds = adaptive_thresholds(one, config)
            labels[:, column] = _with_hysteresis(one, thresholds, config.adaptive.confirm_bars)
        confidence[:, column] = _confidence(one, thresholds, labels[:, column])
    return labels, confidence


# Thresholds: columns enter_volatile, stay_volatile, enter_trend, stay_trend


def _fixed_thresholds(n_rows: int, config: RegimesConfig) -> np.ndarray:
    fixed = config.fixed
    return np.tile([fixed.volatility, fixed.volatility, fixed.trend, fixed.trend], (n_rows, 1))


def adaptive_thresholds(measures: RegimeMeasures, config: RegimesConfig) -> np.ndarray:
    """(k, 4) from trailing quantiles of volatility and |trend|; the fixed values until there are enough bars."""
    adaptive = config.adaptive
    thresholds = _fixed_thresholds(len(measures.volatility), config)
    thresholds[:, :2] = _trailing_quantiles(
        measures.volatility, (adaptive.enter_volatile, adaptive.stay_volatile), adaptive, thresholds[:, :2]
    )
    thresholds[:, 2:] = _trailing_quantiles(
        np.abs(measures.trend), (adaptive.enter_trend, adaptive.stay_trend), adaptive, thresholds[:, 2:]
    )
    return thresholds


def _trailing_quantiles(
    x: np.ndarray, levels: Sequence[float], config: AdaptiveRegimeConfig, before: np.ndarray
) -> np.ndarray:
    """Interpolated quantiles of the last values, each row's included, (k, levels); `before` while they are too few.

    A sorted window, updated value by value: one insertion and one removal a bar.
    """
    out = before.copy()
    window: list[float] = []
    values = x.tolist()
    for t, value in enumerate(values):
        if value == value:  # not NaN
            insort(window, value)
        if t >= config.quantile_window_bars:
            gone = values[t - config.quantile_window_bars]
            if gone == gone:
                del window[bisect_left(window, gone)]
        if len(window) >= config.quantile_min_bars:
            for j, level in enumerate(levels):
                place = level * (len(window) - 1)
                low = int(place)
                step = window[min(low + 1, len(window) - 1)] - window[low]
                out[t, j] = window[low] + (place - low) * step
    return out


# Labels


def _without_memory(measures: RegimeMeasures, config: RegimesConfig) -> np.ndarray:
    """Volatile above the fixed volatility, else bull or bear by the sign of momentum where the trend is strong."""
    trending = np.abs(measures.trend) > config.fixed.trend
    direction = np.where(measures.momentum > 0, Regime.BULL, Regime.BEAR)
    calm = np.where(trending, direction, Regime.SIDEWAYS)
    return np.where(measures.volatility > config.fixed.volatility, Regime.VOLATILE, calm).astype(np.int8)


def _with_hysteresis(measures: RegimeMeasures, thresholds: np.ndarray, confirm_bars: int) -> np.ndarray:
    labels = np.empty(len(thresholds), dtype=np.int8)
    current, candidate, held = int(Regime.SIDEWAYS), int(Regime.SIDEWAYS), 0
    rows = zip(
        measures.volatility.tolist(),
        measures.momentum.tolist(),
        measures.trend.tolist(),
        thresholds.tolist(),
        strict=True,
    )
    for t, (volatility, momentum, trend, (enter_volatile, stay_volatile, enter_trend, stay_trend)) in enumerate(rows):
        direction = Regime.BULL if trend > 0 else Regime.BEAR
        if volatility > (stay_volatile if current == Regime.VOLATILE else enter_volatile):
            proposed = int(Regime.VOLATILE)
        elif trend * momentum > 0 and abs(trend) > (stay_trend if current == direction else enter_trend):
            proposed = int(direction)
        else:
            proposed = int(Regime.SIDEWAYS)
        if proposed == current:
            held = 0
        else:
            held = held + 1 if proposed == candidate and held else 1
            candidate = proposed
            if held >= confirm_bars:
                current, held = proposed, 0
        labels[t] = current
    return labels


def _confidence(measures: RegimeMeasures, thresholds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    enter_volatile, stay_volatile, enter_trend, stay_trend = thresholds.T
    trend = np.abs(measures.trend)

    def above(x: np.ndarray, limit: np.ndarray) -> np.ndarray:
        return ind.ratio(x - limit, limit)

    still_calm = -above(measures.volatility, enter_volatile)
    confidence = np.select(
        [labels == Regime.VOLATILE, labels == Regime.SIDEWAYS],
        [above(measures.volatility, stay_volatile), np.minimum(still_calm, -above(trend, enter_trend))],
        np.minimum(still_calm, above(trend, stay_trend)),
    )
    return np.clip(np.nan_to_num(confidence), 0, 1).astype(np.float32)
