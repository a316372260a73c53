"""Whole synthetic histories, vectorised over paths. Path p of a seed is the same however many paths are drawn beside
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.synthetic import bars, innovations, macro, planted, regime_chain

Variant = Literal["default", "planted", "null"]

_BURN_IN = 128
"""Bars by which latent and filter run ahead of the first row: 2^(-128/7) of their start is left."""


@dataclass(frozen=True)
class PlantedTruth:
    """What no agent sees. All arrays are float64 of shape (n_paths, T, n_instruments); row t knows bars to the close
    of t.

    Attributes
    ----------
    latent, proxy
        a and p of `market.synthetic.planted`, of variance 1.
    filtered
        a_hat, the Kalman estimate of `latent` from the proxy's history.
    mu
        Conditional mean, given that history (and past returns where the momentum structure is on), of what a long
        position of one unit of account currency earns from the next open to the next close: C/O - 1, or 1 - O/C where
        the price is in foreign currency. Regime drift of the default variant is not in it.
    sigma
        Trailing volatility of close-to-close simple returns, per bar: the unit of the planted part.
    strength
        Conditional mean's deviation in units of sigma is strength * phi.
    """

    latent: np.ndarray
    proxy: np.ndarray
    filtered: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    strength: float


@dataclass(frozen=True)
class SyntheticMarket:
    """`markets[p]` is path p, a view into arrays shared by all; `regimes` int8 (n_paths, T) is the chain that ruled
    it."""

    markets: list[MarketData]
    truth: PlantedTruth
    regimes: np.ndarray


@dataclass(frozen=True)
class _Draws:
    """Independent draws: uniforms (n_paths, T), normals (n_paths, T, n), of the latent (n_paths, burn-in + T, n)."""

    regime: np.ndarray
    tail: np.ndarray
    gap: np.ndarray
    body: np.ndarray
    fresh: np.ndarray
    proxy_noise: np.ndarray
    volume: np.ndarray
    macro: np.ndarray


def synthesise(
    settings: Settings,
    *,
    n_paths: int,
    n_years: float,
    seed: int,
    variant: Variant = "default",
    strength: float | None = None,
) -> SyntheticMarket:
    """Draw `n_paths` independent histories of `n_years` of business days.

    Parameters
    ----------
    variant
        `default`: regime drifts and the planted part. `planted`: the planted part, no drift. `null`: neither; the
        proxy is in the bars and predicts nothing. Draws are the same for all three, and for every strength.
    strength
        Of the planted part, in place of the configured one. Not for `null`.

    Raises
    ------
    ConfigError
        For an unknown variant, a strength given to the null, or an instrument of the universe without a row.
    """
    config, symbols = settings.synthetic, settings.universe.symbols
    if variant not in get_args(Variant):
        raise ConfigError(f"variant = {variant!r}: expected one of {', '.join(get_args(Variant))}")
    if variant == "null" and strength:
        raise ConfigError(f"strength = {strength:g}: the null market plants nothing; expected none")
    for symbol in symbols:
        if symbol not in config.instruments:
            raise ConfigError(f"synthetic.instruments: no row for {symbol}")
    rows = [config.instruments[symbol] for symbol in symbols]
    strength = 0.0 if variant == "null" else config.planted.strength if strength is None else strength
    momentum_strength = 0.0 if variant == "null" else config.planted.momentum.strength

    stamps = business_days(np.datetime64(config.start), n_years)
    bars_per_year = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) / np.timedelta64(86400, "s") / 365.25)
    matrix = regime_chain.transition_matrix(config.transitions)
    law = regime_chain.stationary_law(matrix)
    matrices = innovations.correlation_matrices(config.correlations, symbols)
    draws = _draw(seed, n_paths, len(stamps), len(symbols), matrix, matrices)
    regimes = draws.regime

    bar_vol = np.array([row.volatility_pct for row in rows]) / 100 / math.sqrt(bars_per_year)  # (n, 4)
    gap_share = np.array([row.gap_share for row in rows])
    gap_part, body_part = np.sqrt(gap_share) * draws.gap, np.sqrt(1 - gap_share) * draws.body
    tail_law = innovations.TailLaw.of(np.array([row.tail_df for row in rows]), config.volatility.tail_cut)
    tails = tail_law.factors(draws.tail, regimes)
    shocks = tails * (gap_part + body_part)
    # Squared shocks of a fat tail would now and then multiply the variance by dozens and rule the sample's moments:
    # their excess over the cap is replaced by its mean.
    cap = config.volatility.largest_news_sd**2
    news = np.minimum(shocks**2, cap) + (1 - tail_law.capped_square(cap)).T[regimes]
    variance = innovations.clustered_variance(
        news, np.array([row.garch_alpha for row in rows]), config.volatility.persistence
    )
    scale = bar_vol.T[regimes] * np.sqrt(variance) * tails
    limit = config.volatility.largest_move_frac
    gaps, noise = np.clip(scale * gap_part, -limit, limit), np.clip(scale * body_part, -limit, limit)
    drift = np.zeros((1, 1, 1))
    if variant == "default":
        annual = np.array([row.drift_pct for row in rows]) / 100 / config.drift_divisor
        drift = (annual / bars_per_year).T[regimes]

    kalman = planted.Filter.of(config.planted)
    latent, proxy = planted.latent_and_proxy(draws.fresh, draws.proxy_noise, kalman)
    filtered, surprise = kalman.run(proxy)
    latent, proxy, filtered, surprise = (
        np.ascontiguousarray(full[:, _BURN_IN:]) for full in (latent, proxy, filtered, surprise)
    )
    per_unit = strength * kalman.phi / kalman.estimate_sd
    account = settings.desk.account.currency
    inverse = np.array([float(row.base == account) for row in settings.instruments])
    decay = 1 - 2 / (config.volatility.trailing_span_bars + 1)
    body, sigma, momentum_mean = bars.bodies(
        gaps,
        noise,
        drift,
        per_unit * latent,
        inverse,
        bar_vol.T[regimes[:, 0]],
        decay,
        config.planted.momentum,
        momentum_strength,
    )

    history = np.empty((*body.shape, 5))
    bars.prices(
        np.array([row.start_price for row in rows]),
        gaps,
        body,
        inverse,
        scale * np.sqrt(1 - gap_share),
        surprise,
        out=history,
    )
    history[..., 4] = bars.volume(
        np.array([row.volume for row in rows]), draws.volume, np.abs(shocks), proxy, config.volume
    )

    moves = (1 + gaps) * (1 + body) - 1  # earned; of the price itself but for a term in its square
    overall_vol = np.sqrt(bar_vol**2 @ law)
    index, currency = symbols.index(config.macro.vix.index), symbols.index(config.macro.dxy.currency)
    series = np.empty((n_paths, len(stamps), len(config.macro.columns)))
    series[..., 0] = macro.vix(
        config.macro.vix,
        moves[..., index] / overall_vol[index],
        regimes,
        np.log(bar_vol[index]),
        matrix,
        law,
        draws.macro[:, 1:, 0],
        draws.macro[:, :1, 0],
    )
    series[..., 1] = macro.dollar_index(
        config.macro.dxy, moves[..., currency] / overall_vol[currency], draws.macro[:, 1:, 1], bars_per_year
    )
    series[..., 2:] = macro.rates(config.macro.rates, draws.macro[:, 1:, 2:], draws.macro[:, :1, 2:])
    published = np.concatenate([series[:, :1], series[:, :-1]], axis=1)
    # A value is known the business day after its date. The first row has no day before it: it repeats the second.

    everywhere = np.ones(body.shape[1:], dtype=bool)
    markets = [
        MarketData(
            symbols=symbols,
            stamps=stamps,
            bars=history[p],
            valid=everywhere,
            macro=published[p],
            macro_columns=config.macro.columns,
            stale_open=~everywhere,
            volume_proxy=np.zeros(len(symbols), dtype=bool),
            daily=True,
        )
        for p in range(n_paths)
    ]
    mu = sigma * per_unit * filtered + momentum_mean
    return SyntheticMarket(markets, PlantedTruth(latent, proxy, filtered, mu, sigma, strength), regimes)


def business_days(start: np.datetime64, n_years: float) -> np.ndarray:
    """Midnights of Monday to Friday, datetime64[s], from `start` over `n_years` of 365.25 days."""
    days = start.astype("datetime64[D]") + np.arange(round(n_years * 365.25))
    return days[np.is_busday(days)].astype("datetime64[s]")


def _draw(seed: int, n_paths: int, n_rows: int, n: int, matrix: np.ndarray, correlations: np.ndarray) -> _Draws:
    """All randomness, one generator a path keyed by (seed, path)."""
    uniforms = np.empty((2, n_paths, n_rows))
    own = np.empty((3, n_paths, n_rows, n))
    latent = np.empty((2, n_paths, _BURN_IN + n_rows, n))
    macro_normals = np.empty((n_paths, n_rows + 1, 5))
    generators = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(p,))) for p in range(n_paths)]
    for p, rng in enumerate(generators):
        uniforms[:, p] = rng.random((2, n_rows))
        own[:, p] = rng.standard_normal((3, n_rows, n))
        latent[:, p] = rng.standard_normal((2, _BURN_IN + n_rows, n))
        macro_normals[p] = rng.standard_normal((n_rows + 1, 5))
    regimes = regime_chain.walk(matrix, uniforms[0])
    for p in range(n_paths):
        for part in own[:2, p]:
            part[:] = innovations.correlate(part, regimes[p], correlations)
    return _Draws(regimes, uniforms[1], own[0], own[1], latent[0], latent[1], own[2], macro_normals)
