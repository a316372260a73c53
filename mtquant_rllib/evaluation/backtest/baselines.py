"""Rules that anyone could follow: what the desk must beat, on the same bars, costs and risk rules.

A rule looks at the row of the market at which each environment stands and proposes weights; the desk's own core then
trims, fills, charges and marks them as it does the agents'. A rule owns no state: what it proposes follows from the
rows, the arrays and the weights now held, so that it can be replayed and shared by any number of environments.

- `flat`: nothing.
- `equal_weight`: 1/n of equity in each, long. `inverse_volatility`: the same gross of 1, in proportion to 1/volatility.
- `momentum_60`, `momentum_12_1`: the sign of the past move (60 trading days; 250 without the last 21), sized as the
  desk sizes full conviction at equal allocations: sign / D / n_d * vol_target / vol (Moskowitz, Ooi and Pedersen 2012).
- `long_all`: that size, always long.
- `random`: that size times a conviction drawn anew each bar, uniform in [-1, 1]; the draw is a function of seed, row
  and instrument alone.
- `hold_<instrument>`: bought once at the held weight and left to drift; bought again only as far as risk rules or
  stops sold it. It never sells.

Beside an allocator stand two more, long and of gross 1:

- `sixty_forty`: fixed shares in the spirit of stocks and bonds (`allocator.sixty_forty`).
- `risk_parity`: every asset contributes the same risk, by the covariance that the risk rules use.

A position within the no-trade band of its target is left alone, as are those whose last price is not positive. Where
the history inside the path is still too short for a rule, it stays flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation.backtest.long_only_optimiser import equal_risk_weights
from mtquant_rllib.risk.repair.packed import PackedIndex

HOLD_PREFIX = "hold_"
"""Names of the rules that hold one instrument begin with this; report and picture show them as a group."""

_RETURN_CLIP = 0.5
"""Statistics clip simple returns here, so that one negative price cannot decide a year's trend; money never clips."""


@dataclass(frozen=True)
class MarketView:
    """What a rule may read. Rows are those of the flattened execution data: path p owns [p * T, (p + 1) * T).

    Attributes
    ----------
    closes
        (N, n) closes in quote currency, a masked bar repeating the last one.
    vol_ann
        (N, n) annualised volatility for sizing, floored.
    covariance
        (N, n(n+1)/2) of daily returns, upper triangles row by row; None where no rule needs it.
    weights
        (B, n) signed weights now held, marked at the close of the current row.
    n_rows_per_path
        T.
    bars_per_day
        Rows of a trading day, on average; 1 for daily bars.
    """

    closes: np.ndarray
    vol_ann: np.ndarray
    weights: np.ndarray
    n_rows_per_path: int
    covariance: np.ndarray | None = None
    bars_per_day: float = 1.0


class WeightRule(Protocol):
    """Proposed weights (B, n) at the close of `rows` (B,), from data up to those rows only."""

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray: ...


@dataclass(frozen=True)
class Flat:
    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        return np.zeros((len(rows), market.closes.shape[1]))


@dataclass(frozen=True)
class EqualWeight:
    """1/n each, long, gross 1."""

    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        n = market.closes.shape[1]
        return _with_band(np.full((len(rows), n), 1 / n), rows, market, self.no_trade_band)


@dataclass(frozen=True)
class InverseVolatility:
    """Long, gross 1, in proportion to 1 / volatility."""

    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        inverse = _inverse_volatility(rows, market)
        total = inverse.sum(axis=1, keepdims=True)
        target = np.divide(inverse, total, out=np.zeros_like(inverse), where=total > 0)
        return _with_band(target, rows, market, self.no_trade_band)


@dataclass(frozen=True)
class LongAll:
    """Full conviction, long. `risk_shares` (n,): annual stand-alone risk of each position, as a fraction of equity."""

    risk_shares: tuple[float, ...]
    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        target = np.array(self.risk_shares) * _inverse_volatility(rows, market)
        return _with_band(target, rows, market, self.no_trade_band)


@dataclass(frozen=True)
class Momentum:
    """Full conviction on the sign of the summed clipped returns from `lookback_days` ago to `skip_days` ago."""

    lookback_days: int
    skip_days: int
    risk_shares: tuple[float, ...]
    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        lookback, skip = (round(days * market.bars_per_day) for days in (self.lookback_days, self.skip_days))
        direction = np.sign(past_move(rows, market, lookback, skip))
        target = direction * np.array(self.risk_shares) * _inverse_volatility(rows, market)
        return _with_band(target, rows, market, self.no_trade_band)


@dataclass(frozen=True)
class Random:
    """Conviction uniform in [-1, 1], drawn anew on every row."""

    seed: int
    risk_shares: tuple[float, ...]
    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        conviction = 2 * uniform_of_rows(self.seed, rows, market.closes.shape[1]) - 1
        target = conviction * np.array(self.risk_shares) * _inverse_volatility(rows, market)
        return _with_band(target, rows, market, self.no_trade_band)


@dataclass(frozen=True)
class Hold:
    """One instrument, bought once at `held_weight`; never sold by the rule."""

    instrument: int
    held_weight: float
    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        current = market.weights[:, self.instrument]
        # The weight of a fully invested long in account currency does not move with the price: a shortfall beyond the
        # band is what risk rules or stops sold (or, for a long USDJPY, a gain of that size, which is then reinvested).
        enough = current >= self.held_weight - self.no_trade_band
        target = np.zeros((len(rows), market.closes.shape[1]))
        target[:, self.instrument] = np.where(enough, current, self.held_weight)
        return _with_band(target, rows, market, self.no_trade_band)


@dataclass(frozen=True)
class FixedShares:
    """The same weights at all times."""

    shares: tuple[float, ...]
    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        target = np.broadcast_to(self.shares, (len(rows), len(self.shares)))
        return _with_band(target, rows, market, self.no_trade_band)


@dataclass(frozen=True)
class RiskParity:
    """Equal contributions to risk; long, gross 1."""

    no_trade_band: float

    def __call__(self, rows: np.ndarray, market: MarketView) -> np.ndarray:
        assert market.covariance is not None
        matrices = PackedIndex(market.closes.shape[1]).matrices(np.asarray(market.covariance[rows]))
        return _with_band(equal_risk_weights(matrices), rows, market, self.no_trade_band)


def weight_rules(settings: Settings) -> dict[str, WeightRule]:
    """Every baseline of the table, by name, in the order in which it is shown."""
    universe, config = settings.universe, settings.evaluation.baselines
    band = config.no_trade_band
    per_domain = settings.desk.decision.vol_target_ann / universe.n_domains
    shares = tuple(per_domain / len(universe.domains[d].symbols) for d in universe.domain_of)
    rules: dict[str, WeightRule] = {
        "flat": Flat(),
        "equal_weight": EqualWeight(band),
        "inverse_volatility": InverseVolatility(band),
    }
    if settings.allocator is not None:
        mix = settings.allocator.sixty_forty
        rules["sixty_forty"] = FixedShares(tuple(mix.get(symbol, 0.0) for symbol in universe.symbols), band)
        rules["risk_parity"] = RiskParity(band)
    for name, momentum in config.momentum.items():
        rules[name] = Momentum(momentum.lookback_days, momentum.skip_days, shares, band)
    rules["long_all"] = LongAll(shares, band)
    rules["random"] = Random(settings.seed, shares, band)
    for i, symbol in enumerate(universe.symbols):
        rules[f"{HOLD_PREFIX}{symbol}"] = Hold(i, config.held_weight, band)
    return rules


def past_move(rows: np.ndarray, market: MarketView, lookback_bars: int, skip_bars: int) -> np.ndarray:
    """Summed clipped simple returns of bars (row - lookback, row - skip], shape (B, n); 0 in too young a path."""
    offsets = np.arange(lookback_bars, skip_bars - 1, -1)  # lookback .. skip ago: one price more than returns
    young = rows % market.n_rows_per_path < lookback_bars
    prices = market.closes[np.maximum(rows[:, None] - offsets, 0)]
    before = np.abs(prices[:, :-1])
    change = np.divide(np.diff(prices, axis=1), before, out=np.zeros_like(before), where=before > 0)
    move = np.clip(change, -_RETURN_CLIP, _RETURN_CLIP).sum(axis=1)
    return np.where(young[:, None] | ~np.isfinite(move), 0.0, move)


def uniform_of_rows(seed: int, rows: np.ndarray, n: int) -> np.ndarray:
    """Uniform numbers in [0, 1), shape (B, n): a hash of (seed, row, instrument) by SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        cell = rows.astype(np.uint64)[:, None] * np.uint64(n) + np.arange(n, dtype=np.uint64)
        state = _mix(cell + _mix(np.array([seed], dtype=np.uint64) + _GOLDEN) + _GOLDEN)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _inverse_volatility(rows: np.ndarray, market: MarketView) -> np.ndarray:
    """1 / vol (B, n); 0 where the volatility is not known yet."""
    vol = np.asarray(market.vol_ann[rows], dtype=np.float64)
    known = np.isfinite(vol) & (vol > 0)
    return np.where(known, 1 / np.where(known, vol, 1.0), 0.0)


def _with_band(target: np.ndarray, rows: np.ndarray, market: MarketView, band: float) -> np.ndarray:
    """The target, or the weight now held where that is near enough, or where the last price is not positive.

    A target of zero is always sent: what is to be closed is closed whole. An instrument without a price yet is left
    flat.
    """
    price = market.closes[rows]
    target = np.where(np.isfinite(price), target, 0.0)
    near = (np.abs(target - market.weights) <= band) & (target != 0)
    return np.where(near | (price <= 0), market.weights, target)
