"""Covariance, correlation and volatility against numpy and pandas, on full, holed and hourly bars."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.moments import Days
from mtquant_rllib.market.bars import CLOSE, MarketData
from mtquant_rllib.market.calendar import trading_day

Walk = Callable[..., MarketData]


def common_returns(market: MarketData) -> tuple[np.ndarray, np.ndarray]:
    """(rows on which all have bars, change of the cumulative simple return since the previous such row)."""
    cum = np.zeros(market.valid.shape)
    for i in range(market.valid.shape[1]):
        rows = np.flatnonzero(market.valid[:, i])
        close = market.bars[rows, i, CLOSE]
        own = np.concatenate([[0], np.cumsum(close[1:] / close[:-1] - 1)])
        cum[:, i] = pd.Series(own, index=rows).reindex(range(len(market))).ffill().to_numpy()
    rows = np.flatnonzero(market.valid.all(axis=1))
    return rows[1:], np.diff(cum[rows], axis=0)


@pytest.mark.parametrize("masked", [False, True])
def test_correlation_equals_numpy_over_the_last_hundred_common_rows(
    walk: Walk, settings: Settings, masked: bool
) -> None:
    market = walk(500, seed=1, masked=masked)
    table = build_features(settings, [market], None)
    rows, returns = common_returns(market)
    upper = np.triu_indices(8, 1)
    for k in (320, len(rows) - 1):
        long = np.corrcoef(returns[k - 99 : k + 1].T)[upper]
        short = np.corrcoef(returns[k - 19 : k + 1].T)[upper]
        np.testing.assert_allclose(table.correlation[rows[k]], long, atol=1e-6)
        assert table.correlation_shift[rows[k]] == pytest.approx(abs(short.mean() - long.mean()), abs=1e-6)


def test_covariance_is_the_weighted_mean_of_products(walk: Walk, settings: Settings) -> None:
    market = walk(500, seed=2, masked=True)
    table = build_features(settings, [market], None)
    rows, returns = common_returns(market)
    weights = 0.94 ** np.arange(len(returns))[::-1]
    expected = (returns * weights[:, None]).T @ returns / weights.sum()
    np.testing.assert_allclose(table.covariance[rows[-1]], expected[np.triu_indices(8)], rtol=1e-9)


def test_moments_stand_still_on_a_row_that_not_all_have(walk: Walk, settings: Settings) -> None:
    market = walk(500, seed=3, masked=True)
    table = build_features(settings, [market], None)
    for t in np.flatnonzero(~market.valid.all(axis=1)):
        if t > table.warmup:
            np.testing.assert_array_equal(table.covariance[t], table.covariance[t - 1])
            np.testing.assert_array_equal(table.correlation[t], table.correlation[t - 1])


def test_volatility_is_annualised_by_own_bars_and_floored(walk: Walk, settings: Settings) -> None:
    market = walk(600, seed=4, masked=True)
    table = build_features(settings, [market], None)
    for i in (0, 3):
        rows = np.flatnonzero(market.valid[:, i])
        close = pd.Series(market.bars[rows, i, CLOSE])
        r = close.pct_change()
        ewma = np.sqrt((r**2).ewm(span=60).mean().iloc[-1])
        floor = 0.5 * r.rolling(252).std().iloc[-1]
        expected = max(max(ewma, floor) * np.sqrt(market.bars_per_year_of[i]), 0.04)
        assert table.vol_ann[-1, i] == pytest.approx(expected, rel=0.01)  # bars a year by whole weeks
        assert table.sigma_day[-1, i] == pytest.approx(ewma, rel=1e-9)


def test_a_calm_instrument_is_not_sized_below_the_floor(walk: Walk, settings: Settings) -> None:
    market = walk(500, seed=5)
    market.bars[:, 0, :4] = 1.1 + (market.bars[:, 0, :4] - 1.1) * 1e-3
    table = build_features(settings, [market], None)
    assert (table.vol_ann[table.warmup :, 0] == settings.features.sizing.floor_ann).all()


def test_hourly_covariance_is_a_days(walk: Walk, settings: Settings) -> None:
    """Hours of an independent walk: a day's variance is that of its bars together, about 24 times an hour's."""
    market = walk(3000, seed=6, hourly=True)
    table = build_features(settings, [market], None)
    variance = table.covariance[table.warmup :, 0].mean()
    hours_of_a_day = len(market) / len(np.unique(trading_day(market.timestamps, False)))
    hourly = np.var(np.diff(np.log(market.bars[:, 0, CLOSE])))
    assert variance / hourly == pytest.approx(hours_of_a_day, rel=0.25)
    ratio = table.sigma_day[table.warmup :, 0] ** 2 / hourly
    assert ratio.mean() == pytest.approx(hours_of_a_day, rel=0.1)


def test_a_day_of_hours_is_known_on_the_first_bar_of_the_next(walk: Walk) -> None:
    market = walk(200, seed=7, hourly=True)
    days = Days.of(market.timestamps, daily=False)
    day = trading_day(market.timestamps, False)
    assert (days.known == days.last + 1).all()
    assert (day[days.known] != day[days.last]).all()
    values = days.on_rows(np.arange(len(days.last), dtype=float)[:, None], len(market))[:, 0]
    assert np.isnan(values[days.last[0]])
    assert values[days.known[0]] == 0
    assert values[-1] == len(days.last) - 1
