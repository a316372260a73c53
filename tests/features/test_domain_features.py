"""Domain and macro features by hand on one history without holidays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.layout import MACRO, domain_layout
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, MarketData

N = 900
T = slice(320, None)


@pytest.fixture(scope="module")
def market(walk: Callable[..., MarketData]) -> MarketData:
    return walk(N, seed=11)


@pytest.fixture(scope="module")
def table(market: MarketData, settings: Settings) -> FeatureTable:
    return build_features(settings, [market], None)


@pytest.fixture(scope="module")
def macro(market: MarketData) -> pd.DataFrame:
    return pd.DataFrame(market.macro, columns=list(market.macro_columns))


@pytest.fixture(scope="module")
def feature(table: FeatureTable, settings: Settings) -> Callable[[str, str], np.ndarray]:
    def read(domain: str, name: str) -> np.ndarray:
        d = [item.name for item in settings.universe.domains].index(domain)
        columns = domain_layout(settings.universe.domains[d], settings)
        return np.asarray(table.domain[d][:, columns.column(name)])

    return read


def agree(ours: np.ndarray, theirs: pd.Series, clip: float = 3) -> None:
    np.testing.assert_allclose(ours[T], np.clip(theirs.to_numpy(), -clip, clip)[T], atol=2e-6)


def close_of(market: MarketData, settings: Settings, symbol: str) -> pd.Series:
    return pd.Series(market.bars[:, settings.universe.symbols.index(symbol), CLOSE])


def z(x: pd.Series, window: int) -> pd.Series:
    rolling = x.rolling(window, min_periods=window // 3)
    return ((x - rolling.mean()) / rolling.std()).clip(-3, 3)


def move(close: pd.Series, bars: int) -> pd.Series:
    r = close.pct_change()
    s = np.sqrt((r**2).ewm(span=60).mean()).shift()
    return r.fillna(0).cumsum().diff(bars) / (s * np.sqrt(bars))


def drift(x: pd.Series, rows: int) -> pd.Series:
    step = x.diff()
    return step.rolling(rows).sum() / (np.sqrt((step**2).ewm(span=60).mean()).shift() * np.sqrt(rows))


def test_macro_levels(table: FeatureTable, macro: pd.DataFrame) -> None:
    columns = {name: table.macro[:, j] for j, name in enumerate(MACRO.names)}
    agree(columns["vix_level"], np.log(macro.vix / 19) / 0.38, clip=5)
    agree(columns["dxy_level"], z(np.log(macro.dxy), 252), clip=5)
    agree(columns["rate_10y_level"], (macro.rate_10y - 2) / 1.5, clip=5)


def test_rate_spreads_read_the_previous_year_end(
    feature: Callable[[str, str], np.ndarray], market: MarketData, macro: pd.DataFrame, settings: Settings
) -> None:
    years = market.timestamps.astype("datetime64[Y]").astype(int) + 1970
    spreads = []
    for symbol, currency in (("EURUSD", "EUR"), ("GBPUSD", "GBP"), ("USDJPY", "JPY")):
        foreign = np.array([settings.policy_rates[currency][year - 1] for year in years])
        spreads.append(macro.rate_2y - foreign)
        agree(feature("forex", f"rate_spread_{symbol}"), spreads[-1] / 1.5)
    mean = sum(spreads) / 3
    agree(feature("forex", "mean_spread"), 2 * (mean - mean.rolling(252, min_periods=84).mean()))


def test_carry_is_paid_by_the_spread_for_the_risk(
    feature: Callable[[str, str], np.ndarray], market: MarketData, macro: pd.DataFrame, settings: Settings
) -> None:
    paid = []
    for symbol, rate in (("EURUSD", 4.75), ("GBPUSD", 6.0), ("USDJPY", 0.25)):
        r = close_of(market, settings, symbol).pct_change()
        annual = np.sqrt((r**2).ewm(span=60).mean() * 5 * 365.25 / 7)
        paid.append(((macro.rate_2y - rate) / 100 / annual).abs())
    first_year = market.timestamps < np.datetime64("2002-01-01")
    rows = np.flatnonzero(first_year)[-5:]
    expected = (5 * sum(paid) / 3 - 1).to_numpy()[rows]
    np.testing.assert_allclose(feature("forex", "carry")[rows], expected, atol=2e-3)


def test_risk_appetite_of_shares_and_vix(
    feature: Callable[[str, str], np.ndarray], market: MarketData, macro: pd.DataFrame, settings: Settings
) -> None:
    index = close_of(market, settings, "SPX500")
    agree(feature("forex", "risk_sentiment"), (-z(np.log(macro.vix), 252) + move(index, 20)) / 2)
    agree(feature("equity", "volatility_regime"), z(np.log(macro.vix), 252))
    i = settings.universe.symbols.index("SPX500")
    highest = pd.Series(market.bars[:, i, HIGH]).rolling(252, min_periods=84).max()
    lowest = pd.Series(market.bars[:, i, LOW]).rolling(252, min_periods=84).min()
    position = 2 * (index - lowest) / (highest - lowest) - 1
    agree(feature("equity", "fear_greed"), (-z(np.log(macro.vix), 60) + move(index, 20) + position) / 2)


def test_commodity_features(
    feature: Callable[[str, str], np.ndarray], market: MarketData, macro: pd.DataFrame, settings: Settings
) -> None:
    oil, gold, index = (close_of(market, settings, symbol) for symbol in ("WTIUSD", "XAUUSD", "SPX500"))
    agree(feature("commodities", "inflation_expectations"), (move(oil, 60) + drift(macro.rate_10y, 60)) / 1.5)
    agree(feature("commodities", "demand"), (move(index, 60) + drift(macro.rate_10y, 60)) / 1.5)
    agree(feature("commodities", "geopolitical_risk"), (move(gold, 5) + move(oil, 5) - move(index, 5)) / np.sqrt(3))
    agree(feature("commodities", "real_rate"), (macro.rate_10y - 2) / 1.5)
    agree(feature("commodities", "dollar_effect"), -drift(np.log(macro.dxy), 20))
    scaled = [move(close, 1) for close in (oil, index)]
    beta = scaled[0].rolling(252, min_periods=84).cov(scaled[1]) / scaled[1].rolling(252, min_periods=84).var()
    agree(feature("commodities", "supply"), -(move(oil, 20) - beta * move(index, 20)))


def test_equity_features(
    feature: Callable[[str, str], np.ndarray], market: MarketData, macro: pd.DataFrame, settings: Settings
) -> None:
    closes = [close_of(market, settings, symbol) for symbol in ("SPX500", "NAS100", "US30")]
    above = [
        close > close.rolling(window, min_periods=round(window / 3)).mean()
        for close in closes
        for window in (20, 50, 100, 200)
    ]
    agree(feature("equity", "breadth"), 2 * sum(one.astype(float) for one in above) / 12 - 1)
    log_index = np.log(closes[0])
    agree(feature("equity", "valuation"), -(log_index - log_index.rolling(756, min_periods=252).mean()) / 0.15)
    agree(
        feature("equity", "policy_stance"), -(macro.rate_2y - macro.rate_2y.rolling(250, min_periods=83).mean()) / 0.5
    )
    relative = closes[1].pct_change().fillna(0).cumsum() - closes[2].pct_change().fillna(0).cumsum()
    agree(feature("equity", "growth_value"), drift(relative, 60))


def test_earnings_season_peaks_four_weeks_into_the_quarter(
    feature: Callable[[str, str], np.ndarray], market: MarketData
) -> None:
    season = feature("equity", "earnings_season")
    day = int(np.flatnonzero(market.timestamps == np.datetime64("2003-04-29"))[0])  # 28 days after the first of April
    assert season[day] == pytest.approx(2)
    assert season[int(np.flatnonzero(market.timestamps == np.datetime64("2003-06-27"))[0])] == pytest.approx(
        -1, abs=1e-3
    )
