"""The embedded market has the moments of its table, a null that is fair, and a planted part whose oracle is exact."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from mtquant_rllib.config.sections.synthetic import REGIMES
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import CLOSE, HIGH, LOW, OPEN, VOLUME
from mtquant_rllib.market.synthetic import SyntheticMarket, Variant, innovations, planted, regime_chain, synthesise

SETTINGS = Settings.load()
CONFIG = SETTINGS.synthetic
SYMBOLS = SETTINGS.universe.symbols
ROWS = [CONFIG.instruments[symbol] for symbol in SYMBOLS]
YEN = SYMBOLS.index("USDJPY")
STRENGTH = 0.058


def draw(variant: Variant, seed: int, strength: float | None = None) -> SyntheticMarket:
    return synthesise(SETTINGS, n_paths=24, n_years=10, seed=seed, variant=variant, strength=strength)


@pytest.fixture(scope="module")
def null() -> SyntheticMarket:
    return draw("null", seed=21)


@pytest.fixture(scope="module")
def with_plant() -> SyntheticMarket:
    return draw("planted", seed=12, strength=STRENGTH)


def bars_of(market: SyntheticMarket) -> np.ndarray:
    """(n_paths, T, n, 5)"""
    return np.stack([path.bars for path in market.markets])


def macro_of(market: SyntheticMarket, name: str) -> np.ndarray:
    return np.stack([path.macro[:, path.macro_columns.index(name)] for path in market.markets])


def close_moves(market: SyntheticMarket) -> np.ndarray:
    """Simple returns of bar t + 1, shape (n_paths, T - 1, n)."""
    closes = bars_of(market)[..., CLOSE]
    return closes[:, 1:] / closes[:, :-1] - 1


def earned(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What one dollar of each instrument, held long, earns in dollars."""
    gain = after / before - 1
    gain[..., YEN] = 1 - before[..., YEN] / after[..., YEN]
    return gain


def earned_in_body(market: SyntheticMarket) -> np.ndarray:
    bars = bars_of(market)
    return earned(bars[:, 1:, :, OPEN], bars[:, 1:, :, CLOSE])


def t_of_daily_sums(gains: np.ndarray) -> float:
    """t statistic of a martingale difference: instruments of a day are correlated, days and paths are not."""
    daily = gains.sum(axis=2).ravel()
    return float(daily.mean() / daily.std() * np.sqrt(len(daily)))


# -- the chain, the shocks, the clustering


def test_time_in_each_regime_is_what_a_long_walk_spends_there() -> None:
    matrix = regime_chain.transition_matrix(CONFIG.transitions)
    law = regime_chain.stationary_law(matrix)
    np.testing.assert_allclose(law, np.linalg.matrix_power(matrix, 5000)[0], atol=1e-9)


def test_regimes_follow_each_other_as_often_as_the_table_says() -> None:
    matrix = regime_chain.transition_matrix(CONFIG.transitions)
    walk = regime_chain.walk(matrix, np.random.default_rng(0).random((60, 5000)))
    counts = np.zeros((4, 4))
    np.add.at(counts, (walk[:, :-1], walk[:, 1:]), 1)
    error = np.sqrt(matrix * (1 - matrix) / counts.sum(axis=1, keepdims=True))
    assert (np.abs(counts / counts.sum(axis=1, keepdims=True) - matrix) <= 4.5 * error).all()


def test_a_correlation_matrix_is_left_alone_and_an_impossible_one_becomes_the_nearest() -> None:
    possible = np.array([[1.0, 0.5], [0.5, 1.0]])
    assert innovations.nearest_correlation(possible) is possible
    # Higham (2002): the example of section 4, whose nearest correlation matrix is known.
    impossible = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    expected = np.array([[1.0, 0.7607, 0.1573], [0.7607, 1.0, 0.7607], [0.1573, 0.7607, 1.0]])
    np.testing.assert_allclose(innovations.nearest_correlation(impossible), expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("df", [3.1, 5.0, 8.0])
def test_innovations_are_student_t_of_unit_variance(df: float) -> None:
    rng = np.random.default_rng(1)
    n_draws = 200_000
    uniforms, regimes = rng.random((1, n_draws)), np.zeros((1, n_draws), dtype=np.int8)
    law = innovations.TailLaw.of(np.full((1, 4), df), CONFIG.volatility.tail_cut)
    factors = law.factors(uniforms, regimes)[0, :, 0]
    shocks = factors * rng.standard_normal(n_draws)
    assert np.mean(factors**2) == pytest.approx(1.0, abs=0.02)
    assert np.minimum(shocks**2, 9).mean() == pytest.approx(law.capped_square(9)[0, 0], abs=0.01)
    uncut = innovations.TailLaw.of(np.full((1, 4), df), 1e-12).factors(uniforms, regimes)[0, :, 0]
    uncut = uncut * rng.standard_normal(n_draws)
    student = stats.t(df, scale=np.sqrt((df - 2) / df))
    assert stats.kstest(uncut, student.cdf).pvalue > 1e-3
    assert stats.kstest(uncut, stats.norm.cdf).pvalue < 1e-6
    assert np.abs(shocks).max() < 25


def test_variance_inside_a_regime_is_garch() -> None:
    news = np.random.default_rng(2).standard_normal((2, 50, 3)) ** 2
    alpha = np.array([0.04, 0.1, 0.14])
    variance = innovations.clustered_variance(news, alpha, 0.95)
    expected = 1.0
    for t in range(49):
        expected = 0.05 + 0.1 * expected * news[1, t, 1] + 0.85 * expected
    assert variance[1, 49, 1] == pytest.approx(expected, rel=1e-12)


# -- moments of the bars, against the table


@pytest.mark.slow
def test_volatility_by_regime_is_the_tables(null: SyntheticMarket) -> None:
    moves, regimes = close_moves(null), null.regimes[:, 1:]
    per_year = null.markets[0].bars_per_year
    for k, regime in enumerate(REGIMES):
        measured = moves[regimes == k].std(axis=0) * np.sqrt(per_year) * 100
        expected = np.array([row.volatility_pct[k] for row in ROWS])
        np.testing.assert_allclose(measured, expected, rtol=0.13, err_msg=regime)


def test_correlation_by_regime_is_the_tables(null: SyntheticMarket) -> None:
    moves, regimes = close_moves(null), null.regimes[:, 1:]
    for pair, expected in CONFIG.correlations.items():
        i, j = (SYMBOLS.index(name) for name in pair.split())
        for k, regime in enumerate(REGIMES):
            inside = moves[regimes == k]
            measured = np.corrcoef(inside[:, i], inside[:, j])[0, 1]
            assert measured == pytest.approx(expected[k], abs=0.08), (pair, regime)


def test_tails_are_fat_and_volatility_clusters_but_returns_do_not_follow_each_other(null: SyntheticMarket) -> None:
    moves = close_moves(null)
    assert (np.median(stats.kurtosis(moves, axis=1), axis=0) > 3).all()
    flat = moves.reshape(-1, len(SYMBOLS))
    for i in range(len(SYMBOLS)):
        ranks = pd.DataFrame(moves[:, :, i].T).rank().to_numpy().T  # ranks: one wild bar must not decide a correlation
        lag_one = [np.corrcoef(path[1:], path[:-1])[0, 1] for path in ranks]
        assert abs(np.mean(lag_one)) < 0.02
        size = np.abs(moves[:, :, i])
        assert np.mean([np.corrcoef(path[1:], path[:-1])[0, 1] for path in size]) > 0.04
    assert np.abs(flat.mean(axis=0) / flat.std(axis=0) * np.sqrt(len(flat))).max() < 3.5


@pytest.mark.slow
def test_share_of_variance_in_the_gap_is_the_tables(null: SyntheticMarket) -> None:
    bars = bars_of(null)
    gaps = bars[:, 1:, :, OPEN] / bars[:, :-1, :, CLOSE] - 1
    bodies = bars[:, 1:, :, CLOSE] / bars[:, 1:, :, OPEN] - 1
    share = gaps.var(axis=(0, 1)) / (gaps.var(axis=(0, 1)) + bodies.var(axis=(0, 1)))
    np.testing.assert_allclose(share, [row.gap_share for row in ROWS], rtol=0.15)


def test_volume_rises_with_the_size_of_the_move(null: SyntheticMarket) -> None:
    volume, moves = np.log(bars_of(null)[:, 1:, :, VOLUME]), np.abs(close_moves(null))
    surprise = np.diff(volume, axis=1)
    assert all(np.corrcoef(surprise[..., i].ravel(), moves[:, 1:, i].ravel())[0, 1] > 0.05 for i in range(len(SYMBOLS)))


@pytest.mark.slow
def test_default_drift_is_the_tables_divided() -> None:
    """The same draws with and without drift differ by the drift and nothing else."""
    drifting, still = (draw(variant, seed=13, strength=0) for variant in ("default", "null"))
    np.testing.assert_array_equal(drifting.regimes, still.regimes)
    difference = (earned_in_body(drifting) - earned_in_body(still)) * still.markets[0].bars_per_year * 100
    for k in range(len(REGIMES)):
        expected = np.array([row.drift_pct[k] for row in ROWS]) / CONFIG.drift_divisor
        np.testing.assert_allclose(difference[still.regimes[:, 1:] == k].mean(axis=0), expected, atol=1e-6)


# -- macro


def test_vix_has_the_tables_level_spread_memory_and_fear_of_the_index(null: SyntheticMarket) -> None:
    config = CONFIG.macro.vix
    level = np.log(macro_of(null, "vix"))
    assert level.mean() == pytest.approx(np.log(config.mean), abs=0.06)
    assert level.std() == pytest.approx(config.deviation, rel=0.1)
    assert np.corrcoef(level[:, 1:].ravel(), level[:, :-1].ravel())[0, 1] == pytest.approx(
        config.persistence, abs=0.004
    )
    index = close_moves(null)[..., SYMBOLS.index(config.index)]
    change = np.diff(level, axis=1)
    assert np.corrcoef(change[:, 1:].ravel(), index[:, :-1].ravel())[0, 1] == pytest.approx(
        config.correlation, abs=0.05
    )


def test_macro_is_published_a_business_day_after_the_bar_it_belongs_to(null: SyntheticMarket) -> None:
    change = np.diff(np.log(macro_of(null, "dxy")), axis=1)
    euro = close_moves(null)[..., SYMBOLS.index(CONFIG.macro.dxy.currency)]
    same_row = np.corrcoef(change.ravel(), euro.ravel())[0, 1]
    next_row = np.corrcoef(change[:, 1:].ravel(), euro[:, :-1].ravel())[0, 1]
    assert next_row == pytest.approx(CONFIG.macro.dxy.correlation, abs=0.03)
    assert abs(same_row) < 0.03


def test_dollar_and_rates_move_as_much_as_the_table_says_and_rates_stay_sensible(null: SyntheticMarket) -> None:
    change = np.diff(np.log(macro_of(null, "dxy")), axis=1)
    per_year = null.markets[0].bars_per_year
    assert change.std() * np.sqrt(per_year) * 100 == pytest.approx(CONFIG.macro.dxy.volatility_pct, rel=0.08)
    for name in CONFIG.macro.rates.names:
        rate = macro_of(null, name)
        assert np.diff(rate, axis=1).std() * 100 == pytest.approx(CONFIG.macro.rates.deviation_bp, rel=0.03)
        assert rate.min() >= CONFIG.macro.rates.floor_pct
        assert rate.max() < 10


# -- the planted part


def test_steady_state_filter_is_the_kalman_filter_of_the_textbook() -> None:
    law = planted.Filter.of(CONFIG.planted)
    rng = np.random.default_rng(3)
    fresh, noise = rng.standard_normal((2, 1, 400, 1))
    _, proxy = planted.latent_and_proxy(fresh, noise, law)
    estimate, surprise = law.run(proxy)
    mean, variance = 0.0, 0.0  # the latent starts at exactly 0
    for t in range(400):
        mean, variance = law.phi * mean, law.phi**2 * variance + 1 - law.phi**2
        spread = law.loading**2 * variance + 1 - law.loading**2
        innovation = proxy[0, t, 0] - law.loading * mean
        if t == 399:
            assert surprise[0, t, 0] == pytest.approx(innovation / np.sqrt(spread), rel=1e-9)
        gain = law.loading * variance / spread
        mean, variance = mean + gain * innovation, variance * (1 - gain * law.loading)
    assert estimate[0, -1, 0] == pytest.approx(mean, rel=1e-9)
    assert law.estimate_sd**2 == pytest.approx(1 - variance, rel=1e-9)


@pytest.mark.slow
def test_latent_proxy_and_estimate_have_their_variances_and_half_life(with_plant: SyntheticMarket) -> None:
    truth, law = with_plant.truth, planted.Filter.of(CONFIG.planted)
    assert truth.latent.std() == pytest.approx(1.0, abs=0.01)
    assert truth.proxy.std() == pytest.approx(1.0, abs=0.01)
    assert truth.filtered.std() == pytest.approx(law.estimate_sd, abs=0.01)
    half_life = int(CONFIG.planted.half_life_bars)
    later, now = truth.latent[:, half_life:].ravel(), truth.latent[:, :-half_life].ravel()
    assert np.corrcoef(later, now)[0, 1] == pytest.approx(0.5, abs=0.01)


def test_mu_is_the_conditional_mean_of_the_next_body(with_plant: SyntheticMarket, null: SyntheticMarket) -> None:
    """Regressing the next open-to-close on mu gives a slope of 1; on what mu would have been, in the null, 0."""
    truth = with_plant.truth
    forecast = truth.mu[:, :-1] / truth.sigma[:, :-1]
    for market, slope in ((with_plant, 1.0), (null, 0.0)):
        if market is null:
            law = planted.Filter.of(CONFIG.planted)
            forecast = STRENGTH * law.phi * null.truth.filtered[:, :-1] / law.estimate_sd
        outcome = earned_in_body(market) / market.truth.sigma[:, :-1]
        # Per day over instruments, so that the error allows for their correlation.
        top, below = (forecast * outcome).sum(axis=2).ravel(), (forecast**2).sum(axis=2).ravel()
        estimate = top.sum() / below.sum()
        error = np.sqrt(((top - estimate * below) ** 2).sum()) / below.sum()
        assert error < 0.05
        assert estimate == pytest.approx(slope, abs=3 * error)
    assert (truth.mu / truth.sigma).std() == pytest.approx(truth.forecast_sd, rel=0.02)


def test_sigma_is_the_trailing_volatility_known_at_the_close(with_plant: SyntheticMarket) -> None:
    span = CONFIG.volatility.trailing_span_bars
    squares = pd.DataFrame(close_moves(with_plant)[0] ** 2)
    reference = np.sqrt(squares.ewm(span=span, adjust=False).mean().to_numpy())
    np.testing.assert_allclose(with_plant.truth.sigma[0, 600:], reference[599:], rtol=1e-6)


@pytest.mark.slow
def test_a_linear_reader_of_the_bars_finds_the_filter(null: SyntheticMarket) -> None:
    """Pooled ridge on simple columns of one bar and of 5 and 20 bars, fitted on half the paths, read on the other."""
    bars, sigma = bars_of(null), null.truth.sigma
    opens, highs, lows, closes, volume = np.moveaxis(bars[:, 1:], -1, 0)
    move, log_volume = close_moves(null) / sigma[:, :-1], np.log(volume)

    def rolling(x: np.ndarray, window: int, what: str) -> np.ndarray:
        frame = pd.DataFrame(x.transpose(1, 0, 2).reshape(x.shape[1], -1))
        return getattr(frame.rolling(window), what)().to_numpy().reshape(x.shape[1], x.shape[0], -1).transpose(1, 0, 2)

    score = {k: (log_volume - rolling(log_volume, k, "mean")) / rolling(log_volume, k, "std") for k in (20, 60)}
    activity = np.exp(np.clip(np.nan_to_num(score[60]), -3, 3))
    spread, body = highs - lows, closes - opens
    location = 2 * (closes - lows) / spread - 1
    wick = (2 * (closes - lows) - spread - body) / spread
    signed = {k: rolling(np.sign(move) * activity, k, "sum") / rolling(activity, k, "sum") for k in (5, 20)}
    swing = (rolling(log_volume, 5, "mean") - rolling(log_volume, 20, "mean")) / rolling(log_volume, 60, "std")
    small = [location, score[60], signed[5], signed[20], wick, body / spread]
    wide = [*small, score[20], swing, move, rolling(location * activity, 20, "sum") / rolling(activity, 20, "sum")]
    truth = null.truth.filtered[:, 1:][:, 100:]

    def correlation(columns: list[np.ndarray]) -> float:
        table = np.stack([np.clip(column[:, 100:], -5, 5) for column in columns], axis=-1)
        half = len(table) // 2
        x, y = table[:half].reshape(-1, len(columns)), truth[:half].ravel()
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(len(columns)), x.T @ y)
        return float(np.corrcoef((table[half:] @ weights).ravel(), truth[half:].ravel())[0, 1])

    assert correlation(small) > 0.85
    assert correlation(wide) > 0.92
    assert correlation([move, body / spread]) < 0.2  # the return itself says next to nothing


@pytest.mark.slow
def test_momentum_structure_is_off_until_asked_for_and_then_belongs_to_mu() -> None:
    base = ["synthetic.planted.oracle_sharpe=0"]
    off = synthesise(Settings.load(overrides=base), n_paths=2, n_years=2, seed=4, variant="planted")
    assert not off.truth.mu.any()
    on = synthesise(
        Settings.load(overrides=[*base, "synthetic.planted.momentum.strength=0.2"]),
        n_paths=12,
        n_years=8,
        seed=4,
        variant="planted",
    )
    forecast = on.truth.mu[:, :-1] / on.truth.sigma[:, :-1]
    outcome = earned_in_body(on) / on.truth.sigma[:, :-1]
    top, below = (forecast * outcome).sum(axis=2).ravel(), (forecast**2).sum(axis=2).ravel()
    slope = top.sum() / below.sum()
    error = np.sqrt(((top - slope * below) ** 2).sum()) / below.sum()
    assert error < 0.05
    assert slope == pytest.approx(1.0, abs=3 * error)


def test_momentum_score_has_unit_size_on_returns_that_mean_nothing() -> None:
    config = CONFIG.planted.momentum
    path = np.random.default_rng(6).standard_normal(400_000).cumsum()
    window, trend = (
        (path[config.trend_bars :] - path[config.trend_bars - k : -k]) / np.sqrt(k)
        for k in (config.window_bars, config.trend_bars)
    )
    assert np.sqrt(np.mean(planted.momentum_score(window, trend, config) ** 2)) == pytest.approx(1.0, abs=0.01)


# -- the null


def bets(market: SyntheticMarket) -> dict[str, np.ndarray]:
    """Rules of what was known at the close of t, shape (n_paths, T - 1, n)."""
    truth, moves = market.truth, close_moves(market)
    past = np.concatenate([np.zeros_like(moves[:, :1]), moves], axis=1)[:, :-1] / truth.sigma[:, :-1]
    regimes = np.sign(market.regimes[:, :-1, None] - 1.5)
    return {
        "long": np.ones_like(moves),
        "proxy": np.sign(truth.proxy[:, :-1]),
        "filter": np.clip(truth.filtered[:, :-1], -2, 2),
        "momentum": np.clip(past, -3, 3),
        "regime": np.broadcast_to(regimes, moves.shape),
    }


def test_nothing_known_at_the_close_earns_anything_in_the_null(
    null: SyntheticMarket, with_plant: SyntheticMarket
) -> None:
    def t_values(market: SyntheticMarket) -> dict[tuple[str, str], float]:
        bars, sigma = bars_of(market), market.truth.sigma[:, :-1]
        closes, opens = bars[..., CLOSE], bars[..., OPEN]
        legs = {
            "gap": earned(closes[:, :-1], opens[:, 1:]),
            "body": earned(opens[:, 1:], closes[:, 1:]),
            "day": earned(closes[:, :-1], closes[:, 1:]),
        }
        return {
            (rule, leg): t_of_daily_sums(bet * gain / sigma)
            for rule, bet in bets(market).items()
            for leg, gain in legs.items()
        }

    assert max(abs(t) for t in t_values(null).values()) < 3.5
    planted_t = t_values(with_plant)
    assert planted_t["filter", "body"] > 6  # the same test sees a planted part
    assert abs(planted_t["filter", "gap"]) < 3.5  # which lies wholly after the fill


@pytest.mark.parametrize("distance", [0.3, 1.0])
def test_a_stop_is_fair_in_the_null_whatever_the_filter_says(null: SyntheticMarket, distance: float) -> None:
    """An order out at the touched level gains nothing on staying: a free gift there would be a leak of its own."""
    bars, sigma = bars_of(null), null.truth.sigma[:, :-1]
    opens, highs, lows, closes = (bars[:, 1:, :, k] for k in (OPEN, HIGH, LOW, CLOSE))
    high_filter = null.truth.filtered[:, :-1] > 0

    def advantage(low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
        floor, ceiling = opens * (1 - distance * sigma), opens * (1 + distance * sigma)
        long = np.where(low <= floor, -earned(floor, closes), 0.0) / sigma
        short = np.where(high >= ceiling, earned(ceiling, closes), 0.0) / sigma
        return [np.where(known, gain, 0.0) for gain in (long, short) for known in (high_filter, ~high_filter)]

    assert max(abs(t_of_daily_sums(gain)) for gain in advantage(lows, highs)) < 3.5
    shallow = opens - 0.7 * (opens - lows), opens + 0.7 * (highs - opens)  # wicks drawn at will would be a leak
    assert min(abs(t_of_daily_sums(gain)) for gain in advantage(*shallow)) > 6


# -- shape


@pytest.mark.slow
@hypothesis_settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), variant=st.sampled_from(["default", "planted", "null"]))
def test_bars_are_consistent_for_any_seed(seed: int, variant: Variant) -> None:
    market = synthesise(SETTINGS, n_paths=2, n_years=1.5, seed=seed, variant=variant)
    bars = bars_of(market)
    opens, highs, lows, closes, volume = np.moveaxis(bars, -1, 0)
    assert np.isfinite(bars).all()
    assert (lows > 0).all()
    assert (volume > 0).all()
    assert (highs >= np.maximum(opens, closes)).all()
    assert (lows <= np.minimum(opens, closes)).all()
    assert (highs > lows).all()
    assert np.isfinite(market.markets[0].macro).all()


@pytest.mark.slow
def test_twenty_years_neither_explode_nor_vanish() -> None:
    closes = bars_of(synthesise(SETTINGS, n_paths=8, n_years=20, seed=14))[..., CLOSE]
    growth = closes / np.array([row.start_price for row in ROWS])
    assert growth.min() > 1e-4
    assert growth.max() < 1e3


def test_a_market_has_the_shape_of_real_bars(null: SyntheticMarket) -> None:
    first, second = null.markets[:2]
    assert first.symbols == SYMBOLS
    assert first.timestamps.dtype == np.dtype("datetime64[s]")
    weekdays = first.timestamps.astype("datetime64[D]")
    assert np.is_busday(weekdays).all()
    np.testing.assert_array_equal(weekdays.astype("datetime64[s]"), first.timestamps)
    assert first.bars_per_year == pytest.approx(260.9, abs=0.2)
    assert first.valid.all()
    assert not first.stale_open.any()
    assert not first.volume_proxy.any()
    assert first.macro_columns == ("vix", "dxy", "rate_3m", "rate_2y", "rate_10y")
    assert first.timestamps is second.timestamps
    assert first.bars.base is second.bars.base is not None


@pytest.mark.slow
def test_a_path_does_not_depend_on_how_many_are_drawn_beside_it() -> None:
    alone = synthesise(SETTINGS, n_paths=1, n_years=3, seed=5)
    among = synthesise(SETTINGS, n_paths=7, n_years=3, seed=5)
    np.testing.assert_array_equal(alone.markets[0].bars, among.markets[0].bars)
    np.testing.assert_array_equal(alone.markets[0].macro, among.markets[0].macro)
    np.testing.assert_array_equal(alone.truth.mu[0], among.truth.mu[0])
    assert not np.array_equal(among.markets[0].bars, among.markets[1].bars)


def test_the_same_seed_gives_the_same_market_and_another_seed_another() -> None:
    once, again, other = (synthesise(SETTINGS, n_paths=2, n_years=1, seed=seed) for seed in (8, 8, 9))
    np.testing.assert_array_equal(bars_of(once), bars_of(again))
    assert not np.array_equal(bars_of(once), bars_of(other))


# -- settings


def test_strength_is_read_off_the_calibration_table() -> None:
    table = {"strength_of_sharpe": {1.0: 0.03, 3.0: 0.08}}
    for sharpe, strength in ((0.0, 0.0), (0.5, 0.015), (1.0, 0.03), (2.0, 0.055), (3.0, 0.08)):
        planted_at = CONFIG.planted.model_copy(update={**table, "oracle_sharpe": sharpe})
        assert planted_at.strength == pytest.approx(strength)
    default = synthesise(SETTINGS, n_paths=1, n_years=1, seed=0)
    assert default.truth.forecast_sd == pytest.approx(CONFIG.planted.strength * planted.Filter.of(CONFIG.planted).phi)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("synthetic.planted.oracle_sharpe=9", "strength_of_sharpe"),
        ("synthetic.transitions.bull=[0.5, 0, 0, 0]", "sums to 0.5"),
        ("synthetic.macro.vix.index=DAX", "DAX"),
        ("synthetic.instruments.XAUUSD.garch_alpha=0.97", "XAUUSD"),
        ("synthetic.instruments.XAUUSD.tail_df=[2, 3, 3, 3]", "tail_df"),
    ],
)
def test_tables_that_do_not_fit_are_refused(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Settings.load(overrides=[override])


def test_a_null_with_a_strength_and_an_unknown_variant_are_refused() -> None:
    with pytest.raises(ConfigError, match="null market plants nothing"):
        synthesise(SETTINGS, n_paths=1, n_years=1, seed=0, variant="null", strength=0.05)
    with pytest.raises(ConfigError, match="expected one of default, planted, null"):
        synthesise(SETTINGS, n_paths=1, n_years=1, seed=0, variant="nil")  # type: ignore[arg-type]
