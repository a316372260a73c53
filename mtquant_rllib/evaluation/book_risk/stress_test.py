"""A book under stress: windows of history, shocks, correlations to one, and the most likely shock that stops the
desk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.book_risk.market_risk import MarketRisk
from mtquant_rllib.risk import stress


@dataclass(frozen=True)
class Scenario:
    """loss: positive fraction of equity. breaker: the level that a day's loss of this size trips, 0 for none; of a
    window, its worst day's. by_instrument: what each position lost, which add up to the loss of a shock."""

    name: str
    kind: str
    loss: float
    worst_day: str
    worst_day_loss: float
    breaker: int
    by_instrument: dict[str, float]


@dataclass(frozen=True)
class StressTest:
    """scenarios, worst first. missing: windows that the bars do not have. reverse: the most likely shock that loses as
    much as trips the breaker that halts the desk."""

    timestamp: str
    scenarios: tuple[Scenario, ...]
    missing: tuple[str, ...]
    reverse: stress.ReverseStress
    correlated_var: float
    parametric_var: float


def stress_book(settings: Settings, market: MarketRisk, weights: np.ndarray) -> StressTest:
    """Stress a book (n,), weights in the order of the universe.

    Raises
    ------
    ConfigError
        When a shock of the settings names neither an instrument nor a domain.
    """
    from mtquant_rllib.risk.var import parametric_var

    config, universe = settings.risk.stress, settings.universe
    thresholds = settings.risk.breakers.thresholds

    def breaker(loss: float) -> int:
        return int(sum(loss >= threshold for threshold in thresholds))

    found, missing = [], []
    for name, window in config.windows.items():
        days, returns = market.between(window.first, window.last)
        if not len(days):
            missing.append(name)
            continue
        loss, worst_loss, worst = stress.window_losses(weights, returns)
        added = (returns * weights).sum(axis=0)
        found.append(
            Scenario(
                name,
                "window",
                loss,
                str(days[worst]),
                worst_loss,
                breaker(worst_loss),
                _named(universe.symbols, -added),
            )
        )
    for name, shock in config.shocks.items():
        try:
            returns = stress.shocked(universe, shock)
        except ValueError as error:
            raise ConfigError(f"risk.stress.shocks.{name}: {error}; expected one of {_names(settings)}") from None
        lost = -(returns * weights)
        loss = float(lost.sum())
        found.append(Scenario(name, "shock", loss, "", loss, breaker(loss), _named(universe.symbols, lost)))
    confidence = settings.portfolio_risk.var_confidence
    return StressTest(
        timestamp=str(market.timestamp),
        scenarios=tuple(sorted(found, key=lambda one: -one.loss)),
        missing=tuple(missing),
        reverse=stress.reverse_stress(weights, market.covariance, settings.risk.breakers.level_3.loss_frac),
        correlated_var=stress.correlated_var(weights, market.covariance, confidence),
        parametric_var=float(parametric_var(weights, market.covariance, confidence)),
    )


def _named(symbols: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {symbol: float(value) for symbol, value in zip(symbols, values) if value}


def _names(settings: Settings) -> str:
    return ", ".join([*(domain.name for domain in settings.universe.domains), *settings.universe.symbols])
