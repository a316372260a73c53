"""Worlds without skill, and with as much as was put into them, by the hundred: cheap books on bars that cannot be
predicted.

A book follows random signals that persist for days and know nothing of the bars: sized by trailing volatility, decided
at a close, paid by the next bar, before costs, so that its true Sharpe ratio is exactly none. Skill is planted as a
constant return beside it. Bars are the synthetic null market, or a real history whose bars are drawn in blocks with
their means taken out: fat tails, volatility that clusters and instruments that move together stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.evaluation import ErrorRatesConfig, MomentumConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.evaluation.statistics.bootstrap import stationary_bootstrap_indices
from mtquant_rllib.market.bars import CLOSE, MarketData
from mtquant_rllib.market.synthetic import synthesise

_YEAR = np.timedelta64(int(365.25 * 86400), "s")
_PATHS_AT_ONCE = 25
_DECAY = 0.94
"""Of the trailing variance that sizes positions, a bar."""
_WARM_BARS = 260
"""Bars before the record, from which trailing volatility and momentum begin."""


@dataclass(frozen=True)
class SimulatedMarket:
    """Returns (N, T) of N books that follow signals of their own, returns (T,) of simple rules by name, and bars a
    year."""

    books: np.ndarray
    rules: Mapping[str, np.ndarray]
    bars_per_year: float

    def planted(self, sharpe_ann: float) -> np.ndarray:
        """The books, the first of which has this true Sharpe ratio."""
        books = self.books.copy()
        books[0] += sharpe_ann / np.sqrt(self.bars_per_year) * books[0].std()
        return books


def null_worlds(settings: Settings, market: MarketData | None, n_worlds: int, seed: int) -> Iterator[SimulatedMarket]:
    """Worlds on the synthetic null market, or on blocks of a real one.

    Raises
    ------
    MarketDataError
        When too few bars of the real one have all instruments.
    """
    config, momentum = settings.evaluation.error_rates, settings.evaluation.baselines.momentum
    n_books = max(config.trials)
    for number, (returns, bars_per_year) in enumerate(_histories(settings, market, n_worlds, seed)):
        yield _world(returns, bars_per_year, n_books, config, momentum, np.random.default_rng((seed, number)))


def _histories(
    settings: Settings, market: MarketData | None, n_worlds: int, seed: int
) -> Iterator[tuple[np.ndarray, float]]:
    """Returns a bar of all instruments, (warm bars + T, n), and bars a year."""
    years = settings.evaluation.error_rates.years
    if market is None:
        for start in range(0, n_worlds, _PATHS_AT_ONCE):
            n_paths = min(_PATHS_AT_ONCE, n_worlds - start)
            drawn = synthesise(
                settings, n_paths=n_paths, n_years=years + 1.2, seed=seed + 1 + start, variant="null"
            ).markets
            yield from (_returns_of(own, settings) for own in drawn)
        return
    pool, bars_per_year = _returns_of(market, settings)
    pool = pool - pool.mean(axis=0)
    n_bars = round(years * bars_per_year) + _WARM_BARS
    block = settings.evaluation.bootstrap.mean_block_bars
    if len(pool) < 10 * block:
        raise MarketDataError(
            f"{len(pool)} bars have all instruments: too few to draw blocks of {block:g} from; accepted: a longer "
            "history"
        )
    rng = np.random.default_rng((seed, n_worlds))
    for _ in range(n_worlds):
        parts = [stationary_bootstrap_indices(len(pool), block, 1, rng)[0] for _ in range(-(-n_bars // len(pool)))]
        yield pool[np.concatenate(parts)[:n_bars]], bars_per_year


def _returns_of(market: MarketData, settings: Settings) -> tuple[np.ndarray, float]:
    """Simple returns (T - 1, n) on the bars that all instruments have, clipped as features clip them, and such bars a
    year."""
    everywhere = market.valid.all(axis=1)
    close, timestamps = market.bars[everywhere, :, CLOSE], market.timestamps[everywhere]
    clip = settings.features.return_clip
    returns = np.clip((close[1:] - close[:-1]) / np.abs(close[:-1]), -clip, clip)
    return returns, float(len(returns) / ((timestamps[-1] - timestamps[0]) / _YEAR)) if len(returns) else float("nan")


def _world(
    returns: np.ndarray,
    bars_per_year: float,
    n_books: int,
    config: ErrorRatesConfig,
    momentum: Mapping[str, MomentumConfig],
    rng: np.random.Generator,
) -> SimulatedMarket:
    n_bars, n = returns.shape
    size = 1.0 / (n * _trailing_deviation(returns))
    persistence = 2.0 ** (-1.0 / config.half_life_bars)
    signal = _autoregression(rng.standard_normal((n_bars, n_books, n)), persistence)
    position = signal * size[:, None]
    books = np.einsum("tbn,tn->bt", position[:-1], returns[1:])
    rules = {"inverse_vol": size, **{name: _direction(returns, own) * size for name, own in momentum.items()}}
    return SimulatedMarket(
        books=books[:, _WARM_BARS:],
        rules={name: (own[:-1] * returns[1:]).sum(axis=1)[_WARM_BARS:] for name, own in rules.items()},
        bars_per_year=bars_per_year,
    )


def _trailing_deviation(returns: np.ndarray) -> np.ndarray:
    """Exponentially weighted deviation up to and including each bar, (T, n)."""
    variance = np.empty_like(returns)
    state = returns[:_WARM_BARS].var(axis=0)
    for t, squares in enumerate(returns**2):
        state = _DECAY * state + (1 - _DECAY) * squares
        variance[t] = state
    return np.sqrt(variance)


def _autoregression(shocks: np.ndarray, persistence: float) -> np.ndarray:
    """Unit-variance first-order autoregression along the first axis, in place."""
    scale = np.sqrt(1 - persistence**2)
    for t in range(1, len(shocks)):
        shocks[t] = persistence * shocks[t - 1] + scale * shocks[t]
    return shocks


def _direction(returns: np.ndarray, config: MomentumConfig) -> np.ndarray:
    """Sign of the move from `lookback_days` to `skip_days` ago, of daily bars, (T, n); 0 before there is one."""
    level = np.cumsum(returns, axis=0)
    direction = np.zeros_like(level)
    back, skip = config.lookback_days, config.skip_days
    direction[back:] = np.sign(level[back - skip : len(level) - skip] - level[: len(level) - back])
    return direction
