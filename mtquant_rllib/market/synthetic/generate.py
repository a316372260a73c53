"""Whole synthetic histories, vectorised over paths. Path p of a seed is the same however many paths are drawn beside
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from mtquant_rllib.config.sections.synthetic import OverlapStructure, SyntheticMacro, SyntheticVolatility
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import VOLUME, MarketData
from mtquant_rllib.market.synthetic import bars, innovations, macro, overlap, planted, predictability, regime_chain
from mtquant_rllib.universe import Universe

Variant = Literal["default", "planted", "null"]

_DAYS_PER_YEAR = 365.25
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
    steady_mu
        What mu would be if predictability did not come and go: that of whoever knows the proxy and not the factor.
    predictability
        The factor that comes and goes with macro series, in [0, 2]; 1 without that structure.
    forecast_sd
        Deviation of mu / sigma; 0 where nothing is planted.
    """

    latent: np.ndarray
    proxy: np.ndarray
    filtered: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    steady_mu: np.ndarray
    predictability: np.ndarray
    forecast_sd: float


@dataclass(frozen=True)
class SyntheticMarket:
    """`markets[p]` is path p, a view into arrays shared by all; `regimes` int8 (n_paths, T) is the chain that ruled
    it."""

    markets: list[MarketData]
    truth: PlantedTruth
    regimes: np.ndarray


@dataclass(frozen=True)
class _Law:
    """The tables of the settings as arrays: (n,) by instrument, (n, 4) by instrument and regime, per bar."""

    start_price: np.ndarray
    volume: np.ndarray
    gap_share: np.ndarray
    garch_alpha: np.ndarray
    inverse: np.ndarray
    bar_vol: np.ndarray
    tail_df: np.ndarray
    drift: np.ndarray
    correlations: np.ndarray
    transitions: np.ndarray
    regime_law: np.ndarray
    bars_per_year: float
    domain_of: np.ndarray

    @classmethod
    def of(cls, settings: Settings, timestamps: np.ndarray) -> _Law:
        config, symbols = settings.synthetic, settings.universe.symbols
        rows = [config.instruments[symbol] for symbol in symbols]
        days = (timestamps[-1] - timestamps[0]) / np.timedelta64(86400, "s")
        bars_per_year = (len(timestamps) - 1) / (days / _DAYS_PER_YEAR)
        transitions = regime_chain.transition_matrix(config.transitions)
        account = settings.desk.account.currency
        return cls(
            start_price=np.array([row.start_price for row in rows]),
            volume=np.array([row.volume for row in rows]),
            gap_share=np.array([row.gap_share for row in rows]),
            garch_alpha=np.array([row.garch_alpha for row in rows]),
            inverse=np.array([float(row.base == account) for row in settings.instruments]),
            bar_vol=np.array([row.volatility_pct for row in rows]) / 100 / math.sqrt(bars_per_year),
            tail_df=np.array([row.tail_df for row in rows]),
            drift=np.array([row.drift_pct for row in rows]) / 100 / config.drift_divisor / bars_per_year,
            correlations=innovations.correlation_matrices(config.correlations, symbols),
            transitions=transitions,
            regime_law=regime_chain.stationary_law(transitions),
            bars_per_year=bars_per_year,
            domain_of=np.array(settings.universe.domain_of),
        )


@dataclass(frozen=True)
class _Draws:
    """Regimes and uniforms (n_paths, T), normals (n_paths, T, n); `fresh` and `proxy_noise` start a burn-in earlier,
    `macro` (n_paths, 1 + T, 5) one row. `gap` and `body` already have the correlations of their bar's regime."""

    regime: np.ndarray
    tail: np.ndarray
    gap: np.ndarray
    body: np.ndarray
    fresh: np.ndarray
    proxy_noise: np.ndarray
    volume: np.ndarray
    macro: np.ndarray


@dataclass(frozen=True)
class _Noise:
    """Returns without any mean, (n_paths, T, n): gap and body, the volatility of the path in the body, |shock|."""

    gap: np.ndarray
    body: np.ndarray
    path_vol: np.ndarray
    size: np.ndarray


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
        proxy is in the bars and predicts nothing. Draws are the same for all three, and for every strength (but what
        instruments share where signals overlap).
    strength
        Of the planted part, in place of the configured one. Not for `null`. Structures of the planted part are drawn as
        configured; the null has none.

    Raises
    ------
    ConfigError
        For an unknown variant, a strength given to the null, or an instrument of the universe without a row.
    """
    _check(settings, variant, strength)
    drawn = _with_what_macro_reads(settings)
    market = _drawn(drawn, n_paths, n_years, seed, variant, strength)
    return market if drawn is settings else _of(market, settings.universe.symbols)


def _with_what_macro_reads(settings: Settings) -> Settings:
    """Settings that trade, besides, the instruments whose returns the macro series are drawn from."""
    chosen, macro = settings.market.instruments, settings.synthetic.macro
    read = (macro.vix.index, macro.dxy.currency)
    if chosen is None or settings.allocator is not None or set(read) <= set(chosen):
        return settings
    tree = settings.model_dump(mode="json")
    tree["market"]["instruments"] = [*chosen, *(symbol for symbol in read if symbol not in chosen)]
    return Settings.model_validate(tree)


def _of(market: SyntheticMarket, symbols: tuple[str, ...]) -> SyntheticMarket:
    """Some of the market's instruments."""
    columns = [market.markets[0].symbols.index(symbol) for symbol in symbols]
    markets = [
        replace(
            one,
            symbols=symbols,
            bars=np.ascontiguousarray(one.bars[:, columns]),
            valid=one.valid[:, columns],
            stale_open=one.stale_open[:, columns],
            volume_proxy=one.volume_proxy[columns],
        )
        for one in market.markets
    ]
    truth = market.truth
    names = ("latent", "proxy", "filtered", "mu", "sigma", "steady_mu", "predictability")
    parts = {name: getattr(truth, name)[..., columns] for name in names}
    return SyntheticMarket(markets, PlantedTruth(**parts, forecast_sd=truth.forecast_sd), market.regimes)


def _drawn(
    settings: Settings, n_paths: int, n_years: float, seed: int, variant: Variant, strength: float | None
) -> SyntheticMarket:
    config, symbols = settings.synthetic, settings.universe.symbols
    chosen = 0.0 if variant == "null" else settings.planted.strength if strength is None else strength
    momentum_strength = 0.0 if variant == "null" else config.planted.momentum.strength

    timestamps = business_days(np.datetime64(config.start), n_years)
    law = _Law.of(settings, timestamps)
    draws = _draw(seed, n_paths, len(timestamps), law)
    if variant != "null" and config.planted.overlap.strength > 0:
        _overlap(config.planted.overlap, seed, draws, law, symbols)
    noise = _noise(config.volatility, law, draws)
    drift = law.drift.T[draws.regime] if variant == "default" else np.zeros((1, 1, 1))

    kalman = planted.Filter.of(config.planted)
    latent, proxy = planted.latent_and_proxy(draws.fresh, draws.proxy_noise, kalman)
    filtered, surprise = kalman.run(proxy)
    latent, proxy, filtered, surprise = (
        np.ascontiguousarray(full[:, _BURN_IN:]) for full in (latent, proxy, filtered, surprise)
    )
    per_unit = chosen * kalman.phi / kalman.estimate_sd
    rates = macro.rates(config.macro.rates, draws.macro[:, 1:, 2:], draws.macro[:, :1, 2:])
    factor, factor_rms = np.broadcast_to(1.0, latent.shape), 1.0
    if variant != "null" and config.planted.predictability.strength > 0:
        factor = predictability.factors(config, _published(rates), settings.universe)
        factor_rms = predictability.root_mean_square(config, settings.universe)
    body, sigma, momentum_mean = bars.bodies(
        noise.gap,
        noise.body,
        drift,
        per_unit * factor * latent,
        law.inverse,
        law.bar_vol.T[draws.regime[:, 0]],
        1 - 2 / (config.volatility.trailing_span_bars + 1),
        config.planted.momentum,
        momentum_strength,
    )

    history = np.empty((*body.shape, 5))
    bars.prices(law.start_price, noise.gap, body, law.inverse, noise.path_vol, surprise, out=history)
    history[..., VOLUME] = bars.volume(law.volume, draws.volume, noise.size, proxy, config.volume)
    published = _published(_macro(config.macro, law, draws, rates, (1 + noise.gap) * (1 + body) - 1, symbols))

    everywhere = np.ones(body.shape[1:], dtype=bool)
    markets = [
        MarketData(
            symbols=symbols,
            timestamps=timestamps,
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
    mu = sigma * per_unit * factor * filtered + momentum_mean
    steady_mu = sigma * per_unit * filtered + momentum_mean
    forecast_sd = math.hypot(chosen * kalman.phi * factor_rms, momentum_strength)
    truth = PlantedTruth(latent, proxy, filtered, mu, sigma, steady_mu, factor, forecast_sd)
    return SyntheticMarket(markets, truth, draws.regime)


def _published(series: np.ndarray) -> np.ndarray:
    """What is known of series (n_paths, T, ...) at each close: a value is known the business day after its date. The
    first row has no day before it: it repeats the second."""
    return np.concatenate([series[:, :1], series[:, :-1]], axis=1)


def business_days(start: np.datetime64, n_years: float) -> np.ndarray:
    """Midnights of Monday to Friday, datetime64[s], from `start` over `n_years`."""
    days = start.astype("datetime64[D]") + np.arange(round(n_years * _DAYS_PER_YEAR))
    return days[np.is_busday(days)].astype("datetime64[s]")


def _check(settings: Settings, variant: str, strength: float | None) -> None:
    if variant not in get_args(Variant):
        raise ConfigError(f"variant = {variant!r}: expected one of {', '.join(get_args(Variant))}")
    if variant == "null" and strength:
        raise ConfigError(f"strength = {strength:g}: the null market plants nothing; expected none")
    for symbol in settings.universe.symbols:
        if symbol not in settings.synthetic.instruments:
            raise ConfigError(f"synthetic.instruments: no row for {symbol}")
    known, macro = Universe.from_specialists(settings.specialists).symbols, settings.synthetic.macro
    for key, symbol in (("vix.index", macro.vix.index), ("dxy.currency", macro.dxy.currency)):
        if symbol not in (settings.universe.symbols if settings.universe.allocates else known):
            raise ConfigError(
                f"synthetic.macro.{key} = {symbol}: no specialist trades it, and the embedded market draws that series "
                "from it; name another, or leave instruments out by market.instruments"
            )


def _draw(seed: int, n_paths: int, n_rows: int, law: _Law) -> _Draws:
    """All randomness, one generator a path keyed by (seed, path)."""
    n = len(law.start_price)
    uniforms = np.empty((2, n_paths, n_rows))
    own = np.empty((3, n_paths, n_rows, n))
    latent = np.empty((2, n_paths, _BURN_IN + n_rows, n))
    macro_normals = np.empty((n_paths, n_rows + 1, 5))
    for p in range(n_paths):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(p,)))
        uniforms[:, p] = rng.random((2, n_rows))
        own[:, p] = rng.standard_normal((3, n_rows, n))
        latent[:, p] = rng.standard_normal((2, _BURN_IN + n_rows, n))
        macro_normals[p] = rng.standard_normal((n_rows + 1, 5))
    regimes = regime_chain.walk(law.transitions, uniforms[0])
    for p in range(n_paths):
        for part in own[:2, p]:
            part[:] = innovations.correlate(part, regimes[p], law.correlations)
    return _Draws(regimes, uniforms[1], own[0], own[1], latent[0], latent[1], own[2], macro_normals)


def _overlap(config: OverlapStructure, seed: int, draws: _Draws, law: _Law, symbols: tuple[str, ...]) -> None:
    """Give the overlapping instruments what they share, in place: from a generator of its own a path, so that all other
    draws stay what they are."""
    shared = [symbols.index(symbol) for symbol in config.instruments if symbol in symbols]
    for p, regimes in enumerate(draws.regime):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(p, 1)))
        for part in (draws.fresh, draws.proxy_noise):
            overlap.share(part[p], rng.standard_normal(len(part[p])), shared, config.strength)
        for part in (draws.gap, draws.body):
            common = rng.standard_normal(len(part[p]))
            overlap.share_shocks(part[p], common, shared, config.strength, law.correlations[regimes], law.domain_of)


def _noise(config: SyntheticVolatility, law: _Law, draws: _Draws) -> _Noise:
    gap_part, body_part = np.sqrt(law.gap_share) * draws.gap, np.sqrt(1 - law.gap_share) * draws.body
    tail_law = innovations.TailLaw.of(law.tail_df, config.tail_cut)
    tails = tail_law.factors(draws.tail, draws.regime)
    shocks = tails * (gap_part + body_part)
    # Squared shocks of a fat tail would now and then multiply the variance by dozens and rule the sample's moments:
    # their excess over the cap is replaced by its mean.
    cap = config.largest_news_sd**2
    news = np.minimum(shocks**2, cap) + (1 - tail_law.capped_square(cap)).T[draws.regime]
    scale = np.sqrt(innovations.clustered_variance(news, law.garch_alpha, config.persistence))
    scale *= law.bar_vol.T[draws.regime] * tails
    limit = config.largest_move_frac
    return _Noise(
        gap=np.clip(scale * gap_part, -limit, limit),
        body=np.clip(scale * body_part, -limit, limit),
        path_vol=scale * np.sqrt(1 - law.gap_share),
        size=np.abs(shocks),
    )


def _macro(
    config: SyntheticMacro,
    law: _Law,
    draws: _Draws,
    rates: np.ndarray,
    moves: np.ndarray,
    symbols: tuple[str, ...],
) -> np.ndarray:
    """Series at the close of each bar, shape (n_paths, T, n_columns): rates (n_paths, T, 3), and those drawn from the
    instruments' returns."""
    index, currency = symbols.index(config.vix.index), symbols.index(config.dxy.currency)
    overall_vol = np.sqrt(law.bar_vol**2 @ law.regime_law)
    start, normals = draws.macro[:, :1], draws.macro[:, 1:]
    vix = macro.vix(
        config.vix,
        moves[..., index] / overall_vol[index],
        draws.regime,
        np.log(law.bar_vol[index]),
        law.transitions,
        law.regime_law,
        normals[..., 0],
        start[..., 0],
    )
    dxy = macro.dollar_index(
        config.dxy, moves[..., currency] / overall_vol[currency], normals[..., 1], law.bars_per_year
    )
    return np.concatenate([vix[..., None], dxy[..., None], rates], axis=-1)
