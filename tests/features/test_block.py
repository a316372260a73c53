"""The 50 features of an instrument: textbook formulas, scale, warm-up, and odd bars."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.features.block import block_features, feature, market_block
from mtquant_rllib.features.layout import BLOCK
from mtquant_rllib.features.own_bars import OwnBars
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME, MarketData

Walk = Callable[..., MarketData]
N = 700
FIRST = 250
"""Index of the 251st bar."""


def own_bars_of(bars: np.ndarray, settings: Settings, proxy: bool = False) -> OwnBars:
    """`OwnBars` of one daily history, bars (k, 5)."""
    timestamps = np.busday_offset("2001-01-01", np.arange(len(bars)), roll="forward").astype("datetime64[s]")
    return OwnBars(timestamps, np.arange(len(bars)), bars[:, None, :], proxy, settings.features)


@pytest.fixture(scope="module")
def bars(walk: Walk) -> np.ndarray:
    return walk(N, seed=7).bars[:, 5]


@pytest.fixture(scope="module")
def own_bars(bars: np.ndarray, settings: Settings) -> OwnBars:
    return own_bars_of(bars, settings)


def value(name: str, own_bars: OwnBars) -> np.ndarray:
    return feature[name].compute(own_bars)[:, 0]


def agree(ours: np.ndarray, theirs: np.ndarray, start: int = FIRST) -> None:
    np.testing.assert_allclose(ours[start:], theirs[start:], atol=1e-8)


def wilder_loop(x: np.ndarray, period: int, start: int) -> np.ndarray:
    out = np.full(len(x), np.nan)
    out[start + period - 1] = x[start : start + period].mean()
    for t in range(start + period, len(x)):
        out[t] = out[t - 1] + (x[t] - out[t - 1]) / period
    return out


@pytest.fixture(scope="module")
def book(bars: np.ndarray) -> dict[str, np.ndarray]:
    """Quantities of the formulas, written out one bar at a time."""
    o, h, lo, c, v = (bars[:, j] for j in (OPEN, HIGH, LOW, CLOSE, VOLUME))
    tr = np.full(N, np.nan)
    for t in range(1, N):
        tr[t] = max(h[t] - lo[t], abs(h[t] - c[t - 1]), abs(lo[t] - c[t - 1]))
    r = np.concatenate([[np.nan], c[1:] / c[:-1] - 1])
    s = np.sqrt(pd.Series(r**2).ewm(span=60).mean()).to_numpy()
    cum = np.cumsum(np.nan_to_num(r))
    return {
        "o": o, "h": h, "l": lo, "c": c, "v": v, "tr": tr, "atr": wilder_loop(tr, 14, 1), "r": r, "cum": cum,
        "s": s, "s_lag": np.concatenate([[np.nan], s[:-1]]),
    }  # fmt: skip


@pytest.mark.slow
def test_atr_is_wilders(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    agree(own_bars.atr[:, 0], book["atr"], 20)


@pytest.mark.parametrize("period", [7, 14])
def test_rsi_is_wilders(own_bars: OwnBars, book: dict[str, np.ndarray], period: int) -> None:
    step = np.diff(book["c"], prepend=np.nan)
    gains = wilder_loop(np.maximum(step, 0), period, 1)
    losses = wilder_loop(np.maximum(-step, 0), period, 1)
    rsi = 100 - 100 / (1 + gains / losses)
    agree(value(f"rsi{period}", own_bars), 4 * (rsi / 100 - 0.5))


def test_macd_is_appels(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    close = pd.Series(book["c"])
    line = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    histogram = line - line.ewm(span=9, adjust=False).mean()
    # By row 400 it no longer matters that the textbook's averages start from the first price.
    agree(value("macd", own_bars), (line / book["atr"]).to_numpy(), 400)
    agree(value("macd_hist", own_bars), (3 * histogram / book["atr"]).to_numpy(), 400)


def test_bollinger_and_stochastic(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    close = pd.Series(book["c"])
    agree(value("bollinger", own_bars), ((close - close.rolling(20).mean()) / close.rolling(20).std()).to_numpy())
    lowest, highest = pd.Series(book["l"]).rolling(14).min(), pd.Series(book["h"]).rolling(14).max()
    k = 4 * ((close - lowest) / (highest - lowest) - 0.5)
    agree(value("stoch_k", own_bars), k.to_numpy())
    agree(value("stoch_d", own_bars), k.rolling(3).mean().to_numpy())


def test_cci_is_lamberts(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    typical = pd.Series((book["h"] + book["l"] + book["c"]) / 3)
    deviation = typical.rolling(20).apply(lambda w: np.abs(w - w.mean()).mean(), raw=True)
    agree(value("cci", own_bars), ((typical - typical.rolling(20).mean()) / (0.015 * deviation) / 100).to_numpy())


def test_directional_movement_is_wilders(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    plus, minus = np.zeros(N), np.zeros(N)
    for t in range(1, N):
        up, down = book["h"][t] - book["h"][t - 1], book["l"][t - 1] - book["l"][t]
        plus[t] = up if up > down and up > 0 else 0
        minus[t] = down if down > up and down > 0 else 0
    plus_di = 100 * wilder_loop(plus, 14, 1) / book["atr"]
    minus_di = 100 * wilder_loop(minus, 14, 1) / book["atr"]
    dx = 100 * np.abs(plus_di - minus_di) / (plus_di + minus_di)
    agree(value("di", own_bars), 3 * (plus_di - minus_di) / (plus_di + minus_di))
    agree(value("adx", own_bars), 6 * (wilder_loop(dx, 14, 14) / 100 - 0.25))


@pytest.mark.parametrize(("name", "bars_back"), [("ret1", 1), ("ret5", 5), ("ret60", 60), ("mom120", 120)])
def test_returns_are_in_units_of_the_deviation_known_before(
    own_bars: OwnBars, book: dict[str, np.ndarray], name: str, bars_back: int
) -> None:
    cum = pd.Series(book["cum"])
    agree(value(name, own_bars), (cum.diff(bars_back) / (book["s_lag"] * np.sqrt(bars_back))).to_numpy())


def test_long_momentum_leaves_out_the_last_month(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    cum = pd.Series(book["cum"])
    six = (cum.shift(21) - cum.shift(126)) / (book["s_lag"] * np.sqrt(105))
    twelve = (cum.shift(21) - cum.shift(250)) / (book["s_lag"] * np.sqrt(229))
    agree(value("mom6_1", own_bars), six.to_numpy())
    agree(value("mom12_1", own_bars), twelve.to_numpy())


def test_trend_measures_equal_a_regression_on_time(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    for t in (FIRST, 400, N - 1):
        window = book["cum"][t - 19 : t + 1]
        slope = np.polyfit(np.arange(20), window, 1)[0]
        rho = np.corrcoef(np.arange(20), window)[0, 1]
        path = np.abs(book["r"][t - 19 : t + 1]).sum()
        scale = book["s_lag"][t] * np.sqrt(20)
        assert value("slope20", own_bars)[t] == pytest.approx(slope * 20 / scale, abs=1e-9)
        assert value("time_corr20", own_bars)[t] == pytest.approx(3 * rho * abs(rho), abs=1e-7)
        moved = abs(book["cum"][t] - book["cum"][t - 20])
        assert value("efficiency20", own_bars)[t] == pytest.approx(4 * moved / path - 1, abs=1e-9)


def test_volume_features_by_hand(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    a = pd.Series(np.log(book["v"]))
    z60 = ((a - a.rolling(60).mean()) / a.rolling(60).std()).clip(-3, 3)
    va = np.exp(z60)
    sign = pd.Series(np.sign(np.nan_to_num(book["r"])))
    location = (2 * book["c"] - book["h"] - book["l"]) / (book["h"] - book["l"])
    agree(value("volume_z60", own_bars), z60.to_numpy())
    agree(value("obv", own_bars), (2 * (sign * va).rolling(20).sum() / va.rolling(20).sum()).to_numpy())
    agree(value("cmf", own_bars), (3 * (location * va).rolling(20).sum() / va.rolling(20).sum()).to_numpy())
    agree(value("volume_change", own_bars), (a.diff() / a.diff().rolling(60).std()).to_numpy())
    trend = (a.rolling(5).mean() - a.rolling(20).mean()) / a.rolling(60).std()
    agree(value("volume_trend", own_bars), trend.to_numpy())
    move = pd.Series(np.abs(book["r"]) / book["s_lag"])
    agree(value("volume_move_corr", own_bars), 2 * move.rolling(20).corr(a).to_numpy())
    ratio = np.log(move.clip(lower=0.05)) - a
    amihud = ((ratio - ratio.rolling(60).mean()) / ratio.rolling(60).std()).clip(-3, 3)
    agree(value("amihud", own_bars), amihud.to_numpy())


def test_volatility_features_by_hand(own_bars: OwnBars, book: dict[str, np.ndarray]) -> None:
    rms = np.sqrt(pd.Series(book["r"] ** 2).rolling(10).mean())
    agree(value("vol_ratio", own_bars), (2 * np.log(rms / book["s_lag"])).to_numpy())
    garman_klass = 0.5 * np.log(book["h"] / book["l"]) ** 2 - (2 * np.log(2) - 1) * np.log(book["c"] / book["o"]) ** 2
    deviation = np.sqrt(pd.Series(garman_klass).rolling(20).mean())
    agree(value("garman_klass", own_bars), (2 * np.log(deviation / book["s_lag"])).to_numpy())
    agree(value("atr_ratio", own_bars), 3 * np.log(book["atr"] / pd.Series(book["tr"]).rolling(100).mean()).to_numpy())


def test_registry_and_layout_name_the_same_features(settings: Settings) -> None:
    assert {item.name for item in feature} == set(BLOCK.names)
    for item in block_features(settings.features):
        assert item.name in BLOCK.names[BLOCK[item.group]]
        assert item.formula


@pytest.mark.parametrize("name", BLOCK.names)
def test_every_feature_speaks_by_the_251st_bar(name: str, own_bars: OwnBars) -> None:
    assert not np.isnan(value(name, own_bars)[FIRST:]).any()


def test_the_block_starts_at_the_251st_bar(own_bars: OwnBars) -> None:
    values, complete = market_block(own_bars)
    assert complete[:, 0].argmax() == FIRST
    assert (values[:FIRST] == 0).all()
    assert np.abs(values).max() <= own_bars.config.block_clip


@pytest.mark.parametrize("name", BLOCK.names)
def test_price_level_does_not_matter(name: str, bars: np.ndarray, settings: Settings) -> None:
    scaled = own_bars_of(bars * np.array([37, 37, 37, 37, 1]), settings)
    difference = value(name, scaled) - value(name, own_bars_of(bars, settings))
    assert np.nanmax(np.abs(difference)) < 1e-9


def test_price_level_does_not_matter_on_real_ticks(real_bars: MarketData, settings: Settings) -> None:
    """Real prices tie, and a tie must not depend on how a price rounds."""
    for i in range(real_bars.valid.shape[1]):
        rows = np.flatnonzero(real_bars.valid[:, i])
        own = real_bars.bars[rows, i]
        plain, scaled = (
            own_bars_of(one, settings, bool(real_bars.volume_proxy[i])) for one in (own, own * [37, 37, 37, 37, 1])
        )
        for item in block_features(settings.features):
            difference = np.abs(item.compute(scaled) - item.compute(plain))[FIRST:]
            assert difference.max() < 1e-9, (real_bars.symbols[i], item.name)


def test_a_series_without_volume_uses_its_ranges(bars: np.ndarray, settings: Settings) -> None:
    silent = bars.copy()
    silent[:, VOLUME] = np.nan
    values, _ = market_block(own_bars_of(silent, settings, proxy=True))
    volume = values[FIRST:, 0, BLOCK["volume"]]
    assert (volume.std(axis=0) > 0.1).all()
    values, complete = market_block(own_bars_of(silent, settings, proxy=False))
    assert complete[-1, 0]
    assert (values[FIRST:, 0, BLOCK.column("volume_z20")] == 0).all()


def test_a_bar_without_volume_keeps_the_last_score(bars: np.ndarray, settings: Settings) -> None:
    holed = bars.copy()
    holed[500, VOLUME] = np.nan
    z = value("volume_z20", own_bars_of(holed, settings))
    assert z[500] == z[499]
    assert not np.isnan(z).any()
    np.testing.assert_allclose(z[525:], value("volume_z20", own_bars_of(bars, settings))[525:], atol=1e-9)


def test_a_negative_price_leaves_finite_features(bars: np.ndarray, settings: Settings) -> None:
    crashed = bars.copy()
    crashed[:, :4] /= 100
    # The expiring front month of 20 and 21 April 2020.
    crashed[500, :4] = [17.73, 17.85, -40.32, -37.63]
    crashed[501, :4] = [-14.00, 13.86, -16.74, 10.01]
    own_bars = own_bars_of(crashed, settings, proxy=True)
    values, _ = market_block(own_bars)
    assert np.isfinite(values).all()
    assert own_bars.r[500, 0] == -0.5
    assert own_bars.r[501, 0] == 0.5
    assert np.isfinite(own_bars.cum).all()


def test_frozen_prices_leave_finite_features(bars: np.ndarray, settings: Settings) -> None:
    frozen = bars.copy()
    frozen[400:, :4] = frozen[399, CLOSE]
    values, _ = market_block(own_bars_of(frozen, settings))
    assert np.isfinite(values).all()
    assert (values[600:, 0, BLOCK.column("bollinger")] == 0).all()
