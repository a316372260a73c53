"""An instrument's market features: one small function each, in the groups of the layout.

Every value is a ratio of like with like, so that it means the same for EURUSD at 1.1 and US30 at 30,000, in 2008 and
in 2017. The notation of the formulas stands in `own_bars.py`. First value: the 251st own bar.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.sections.features import FeaturesConfig
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.layout import BLOCK
from mtquant_rllib.features.own_bars import OwnBars
from mtquant_rllib.features.own_features import own_features
from mtquant_rllib.features.registry import Feature, Registry

feature = Registry()


def block_features(config: FeaturesConfig) -> tuple[Feature, ...]:
    """The features in the order of the layout: the registered ones, then those of one's own."""
    own = own_features("instrument", config.own.instrument)
    return (*(feature[name] for name in BLOCK.names), *own.values())


def market_block(own_bars: OwnBars) -> tuple[np.ndarray, np.ndarray]:
    """All features of an instrument's own bars.

    Returns
    -------
    values
        float32 of shape (k, m, width): clipped, no NaN; zeros before the first complete row of a column.
    complete
        bool of shape (k, m): from the first row on which every feature has enough history. Volume is not waited for: a
        score that is missing keeps its last value, or 0.
    """
    clip, items = own_bars.config.block_clip, block_features(own_bars.config)
    values = np.empty((*own_bars.close.shape, len(items)), dtype=np.float32)
    complete = np.ones(own_bars.close.shape, dtype=bool)
    for column, item in enumerate(items):
        x = item.compute(own_bars)
        if item.group != "volume":
            complete &= ~np.isnan(x)
        values[:, :, column] = np.clip(ind.hold(x), -clip, clip)
    complete = np.logical_or.accumulate(complete, axis=0)
    values[~complete] = 0
    return values, complete


# Price


@feature("price", "change of cum over 1 bar / s")
def ret1(c: OwnBars) -> np.ndarray:
    return c.move(1)


@feature("price", "change of cum over 2 bars / (s sqrt 2)")
def ret2(c: OwnBars) -> np.ndarray:
    return c.move(2)


@feature("price", "change of cum over 5 bars / (s sqrt 5)")
def ret5(c: OwnBars) -> np.ndarray:
    return c.move(5)


@feature("price", "change of cum over 10 bars / (s sqrt 10)")
def ret10(c: OwnBars) -> np.ndarray:
    return c.move(10)


@feature("price", "change of cum over 20 bars / (s sqrt 20)")
def ret20(c: OwnBars) -> np.ndarray:
    return c.move(20)


@feature("price", "change of cum over 60 bars / (s sqrt 60)")
def ret60(c: OwnBars) -> np.ndarray:
    return c.move(60)


@feature("price", "(O / C_-1 - 1) / s: the night's move")
def gap(c: OwnBars) -> np.ndarray:
    return ind.ratio(ind.ratio(c.open - c.previous, np.abs(c.previous)), c.s_lag)


@feature("price", "(C - O) / A: the day's move")
def body(c: OwnBars) -> np.ndarray:
    return ind.ratio(c.close - c.open, c.atr)


@feature("price", "ln((H - L) / A): today's range against the usual one", name="range")
def bar_range(c: OwnBars) -> np.ndarray:
    return ind.log(ind.ratio(c.span, c.atr))


@feature("price", "2 (C - L) / (H - L) - 1: who won the bar")
def close_location(c: OwnBars) -> np.ndarray:
    return c.close_location


@feature("price", "(upper wick - lower wick) / (H - L): rejected prices")
def wick(c: OwnBars) -> np.ndarray:
    return ind.ratio(c.high + c.low - c.open - c.close, c.span)


@feature("price", "2 * position of C in the range of 20 bars - 1")
def pos20(c: OwnBars) -> np.ndarray:
    return c.position(20)


@feature("price", "2 * position of C in the range of 60 bars - 1")
def pos60(c: OwnBars) -> np.ndarray:
    return c.position(60)


@feature("price", "(C - SMA50) / (A sqrt(50) / 2)")
def sma50(c: OwnBars) -> np.ndarray:
    return ind.ratio(c.close - c.sma(50), c.atr * np.sqrt(50) / 2)


@feature("price", "(C - SMA200) / (A sqrt(200) / 2)")
def sma200(c: OwnBars) -> np.ndarray:
    return ind.ratio(c.close - c.sma(200), c.atr * np.sqrt(200) / 2)


# Volume


@feature("volume", "z20(a)")
def volume_z20(c: OwnBars) -> np.ndarray:
    return c.volume_z(c.a, 20)


@feature("volume", "z60(a)")
def volume_z60(c: OwnBars) -> np.ndarray:
    return c.volume_z(c.a, 60)


@feature("volume", "change of a / its deviation of 60 bars")
def volume_change(c: OwnBars) -> np.ndarray:
    return ind.hold(ind.ratio(ind.change(c.a), ind.rolling_std(ind.change(c.a), 60, 30)))


@feature("volume", "(mean of 5 - mean of 20 bars of a) / deviation of 60")
def volume_trend(c: OwnBars) -> np.ndarray:
    difference = ind.rolling_mean(c.a, 5, 2) - ind.rolling_mean(c.a, 20, 10)
    return ind.hold(ind.ratio(difference, ind.rolling_std(c.a, 60, 30)))


@feature("volume", "2 sum20(sign(r) va) / sum20(va): on-balance volume")
def obv(c: OwnBars) -> np.ndarray:
    return 2 * ind.ratio(ind.rolling_sum(c.signed_va, 20), c.va20)


@feature("volume", "3 sum20(clv va) / sum20(va): Chaikin money flow")
def cmf(c: OwnBars) -> np.ndarray:
    return 3 * ind.ratio(ind.rolling_sum(c.close_location * c.va, 20), c.va20)


@feature("volume", "2 sum5(sign(r) va) / sum5(va)")
def force5(c: OwnBars) -> np.ndarray:
    return 2 * ind.ratio(ind.rolling_sum(c.signed_va, 5), ind.rolling_sum(c.va, 5))


@feature("volume", "2 corr20(|r| / s, a): does volume come with movement")
def volume_move_corr(c: OwnBars) -> np.ndarray:
    return ind.hold(2 * ind.rolling_corr(ind.ratio(np.abs(c.r), c.s_lag), c.a, 20, 10))


@feature("volume", "(C - VWAP20) / (A sqrt(20) / 2), typical price weighted with va")
def vwap20(c: OwnBars) -> np.ndarray:
    # Weighted differences from today's close, so that no price level is added up and subtracted again.
    vwap = ind.ratio(ind.rolling_sum(c.typical * c.va, 20), c.va20)
    return ind.ratio(c.close - vwap, c.atr * np.sqrt(20) / 2)


@feature("volume", "z60(ln max(|r| / s, .05) - a): Amihud illiquidity, movement per unit of volume")
def amihud(c: OwnBars) -> np.ndarray:
    return c.volume_z(ind.log(np.maximum(ind.ratio(np.abs(c.r), c.s_lag), 0.05)) - c.a, 60)


# Technical


def _rsi(c: OwnBars, period: int) -> np.ndarray:
    """4 (RSI - .5) with RSI = gains / (gains + losses), both smoothed by Wilder's average."""
    step = ind.change(c.close)
    gains, losses = (ind.wilder(np.maximum(sign * step, 0.0), period, start=1) for sign in (1, -1))
    return 2 * ind.ratio(gains - losses, gains + losses)


@feature("technical", "4 (RSI7 - .5)")
def rsi7(c: OwnBars) -> np.ndarray:
    return _rsi(c, 7)


@feature("technical", "4 (RSI14 - .5)")
def rsi14(c: OwnBars) -> np.ndarray:
    return _rsi(c, 14)


def _macd(c: OwnBars) -> np.ndarray:
    return ind.ewma(c.close, 12, 12) - ind.ewma(c.close, 26, 26)


@feature("technical", "(EMA12 - EMA26 of C) / A")
def macd(c: OwnBars) -> np.ndarray:
    return ind.ratio(_macd(c), c.atr)


@feature("technical", "3 (macd - its EMA9) / A")
def macd_hist(c: OwnBars) -> np.ndarray:
    line = _macd(c)
    return 3 * ind.ratio(line - ind.ewma(line, 9, 9), c.atr)


@feature("technical", "(C - SMA20) / deviation of C over 20 bars: Bollinger position")
def bollinger(c: OwnBars) -> np.ndarray:
    return ind.rolling_zscore(c.close, 20)


@feature("technical", "z252(ln(deviation of C over 20 bars / A)): squeeze or trend")
def bandwidth(c: OwnBars) -> np.ndarray:
    return c.z(ind.log_positive(ind.ratio(ind.rolling_std(c.close, 20), c.atr)), 252)


def _stochastic(c: OwnBars) -> np.ndarray:
    return 2 * c.position(14)


@feature("technical", "4 (K14 - .5): stochastic")
def stoch_k(c: OwnBars) -> np.ndarray:
    return _stochastic(c)


@feature("technical", "mean of 3 bars of stoch_k")
def stoch_d(c: OwnBars) -> np.ndarray:
    return ind.rolling_mean(_stochastic(c), 3)


@feature("technical", "CCI20 / 100, Lambert's factor .015")
def cci(c: OwnBars) -> np.ndarray:
    deviation = ind.rolling_mean_deviation(c.typical, 20)
    return ind.ratio(c.typical - ind.rolling_mean(c.typical, 20), 0.015 * deviation) / 100


@feature("technical", "3 (+DI - -DI) / (+DI + -DI), 14 bars")
def di(c: OwnBars) -> np.ndarray:
    return 3 * c.directional


@feature("technical", "6 (ADX14 - .25)")
def adx(c: OwnBars) -> np.ndarray:
    return 6 * (ind.wilder(np.abs(c.directional), 14, start=14) - 0.25)


@feature("technical", "3 ln(A / mean TR of 100 bars)")
def atr_ratio(c: OwnBars) -> np.ndarray:
    return 3 * ind.log(ind.ratio(c.atr, ind.rolling_mean(c.true_range, 100)))


@feature("technical", "2 ln(root mean square of r over 10 bars / s)")
def vol_ratio(c: OwnBars) -> np.ndarray:
    return 2 * ind.log(ind.ratio(np.sqrt(ind.rolling_mean(c.r**2, 10)), c.s_lag))


@feature("technical", "z252(ln s)")
def vol_z(c: OwnBars) -> np.ndarray:
    return c.z(ind.log_positive(c.s), 252)


@feature("technical", "2 ln(Garman-Klass deviation of 20 bars / s)")
def garman_klass(c: OwnBars) -> np.ndarray:
    """Garman & Klass (1980): variance of a bar = ln(H/L)^2 / 2 - (2 ln 2 - 1) ln(C/O)^2."""
    reach, drift = _log_or_simple(c, c.high, c.low), _log_or_simple(c, c.close, c.open)
    variance = 0.5 * reach**2 - (2 * np.log(2) - 1) * drift**2
    variance[:1] = np.nan  # the first bar has no previous close to stand in for a logarithm
    deviation = np.sqrt(np.maximum(ind.rolling_mean(variance, 20), 0.0))
    return 2 * ind.log(ind.ratio(deviation, c.s_lag))


def _log_or_simple(c: OwnBars, to: np.ndarray, start: np.ndarray) -> np.ndarray:
    """ln(to / start), or the simple change over |C_-1| on a bar with a price at or below zero; clipped like returns."""
    regular = c.low > 0
    logs = np.log(np.where(regular, to, 1.0) / np.where(regular, start, 1.0))
    clip = c.config.return_clip
    return np.clip(np.where(regular, logs, ind.ratio(to - start, np.abs(c.previous))), -clip, clip)


# Momentum


@feature("momentum", "change of cum over 40 bars / (s sqrt 40)")
def mom40(c: OwnBars) -> np.ndarray:
    return c.move(40)


@feature("momentum", "change of cum over 120 bars / (s sqrt 120)")
def mom120(c: OwnBars) -> np.ndarray:
    return c.move(120)


@feature("momentum", "(cum_-21 - cum_-126) / (s sqrt 105): six months without the last")
def mom6_1(c: OwnBars) -> np.ndarray:
    return c.move_between(21, 126)


@feature("momentum", "(cum_-21 - cum_-250) / (s sqrt 229): twelve months without the last")
def mom12_1(c: OwnBars) -> np.ndarray:
    return c.move_between(21, 250)


@feature("momentum", "20 * slope of cum over 20 bars / (s sqrt 20)")
def slope20(c: OwnBars) -> np.ndarray:
    return ind.ratio(20 * ind.rolling_slope(c.cum, 20), c.s_lag * np.sqrt(20))


@feature("momentum", "3 rho |rho|, rho the correlation of cum with time over 20 bars: how straight the trend is")
def time_corr20(c: OwnBars) -> np.ndarray:
    # rho = slope * deviation of time / deviation of cum; both deviations with the divisor n - 1.
    deviation_of_time = np.std(np.arange(20), ddof=1)
    rho = np.clip(ind.ratio(ind.rolling_slope(c.cum, 20) * deviation_of_time, ind.rolling_std(c.cum, 20)), -1, 1)
    return 3 * rho * np.abs(rho)


@feature("momentum", "4 |change of cum over 20 bars| / sum20(|r|) - 1: Kaufman's efficiency")
def efficiency20(c: OwnBars) -> np.ndarray:
    return 4 * ind.ratio(np.abs(ind.change(c.cum, 20)), ind.rolling_sum(np.abs(c.r), 20)) - 1


@feature("momentum", "ret5 - ret20")
def acceleration(c: OwnBars) -> np.ndarray:
    return c.move(5) - c.move(20)


@feature("momentum", "(EMA16 - EMA64 of cum) / (s sqrt(64) / 2)")
def ewmac(c: OwnBars) -> np.ndarray:
    return ind.ratio(ind.ewma(c.cum, 16, 16) - ind.ewma(c.cum, 64, 64), c.s_lag * np.sqrt(64) / 2)


@feature("momentum", "1 + (cum - its maximum of 60 bars) / (s sqrt 60): distance from the high")
def off_high60(c: OwnBars) -> np.ndarray:
    return 1 + ind.ratio(c.cum - ind.rolling_max(c.cum, 60), c.s_lag * np.sqrt(60))
