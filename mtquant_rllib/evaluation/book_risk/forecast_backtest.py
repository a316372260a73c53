"""VaR forecasts of simple books over a history of days, by every method and every covariance, held against what the
books then lost.

Two books, rebalanced every day without costs: equal weights long, and the sign of each instrument's past move (the
longest momentum rule of `evaluation.baselines`) at equal weights. The forecasts for a day use the days before it; all
are judged on the same days, the first of which has `risk.var_methods.history_days` before it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError, MarketDataError
from mtquant_rllib.evaluation.statistics.var_tests import VarTests, judge_forecast
from mtquant_rllib.features.covariance import covariance_of_days
from mtquant_rllib.features.moments import Days
from mtquant_rllib.features.past_returns import past_returns
from mtquant_rllib.risk import var
from mtquant_rllib.risk.calibration import calibration_factors
from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.repair.tail_measures import tail_measure

BY_COVARIANCE = ("parametric", "monte_carlo_normal", "monte_carlo_student_t")
BY_HISTORY = ("historical", "historical_age_weighted", "historical_volatility_filtered")
METHODS = (*BY_COVARIANCE, *BY_HISTORY)
COVARIANCES = ("ewma", "sample", "ledoit_wolf", "regime_switching", "garch_constant", "garch_dcc")


def computable() -> tuple[str, ...]:
    """The covariances that can be computed here: those of GARCH need a library."""
    return COVARIANCES if importlib.util.find_spec("arch") else COVARIANCES[:-2]


@dataclass(frozen=True)
class ForecastBacktest:
    """One forecast of one book. covariance: empty where the method uses none. raw, calibrated: tests of the forecast
    as it is, and scaled by `risk.calibration`; None of a flat book. mean_var: mean raw forecast."""

    book: str
    method: str
    covariance: str
    confidence: float
    mean_var: float
    raw: VarTests | None
    calibrated: VarTests | None


def backtest_forecasts(
    settings: Settings,
    days: np.ndarray,
    returns: np.ndarray,
    *,
    methods: Sequence[str] = METHODS,
    covariances: Sequence[str] = COVARIANCES,
    confidences: Sequence[float] = (0.95, 0.99),
    simulations: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[ForecastBacktest, ...]:
    """Backtest forecasts of both books.

    Parameters
    ----------
    days, returns
        Trading days (S,) and simple returns of every instrument on them (S, n), such as `market_risk.daily_returns`.
    simulations
        As of `judge_forecast`.
    progress
        Called with a line as each forecast begins.

    Raises
    ------
    ConfigError
        When a method or covariance is unknown, or a covariance needs a library that is not installed.
    MarketDataError
        When there are too few days.
    """
    _known("method", methods, METHODS)
    _known("covariance", covariances, COVARIANCES)
    first = max(settings.risk.var_methods.history_days, _lookback(settings))
    if len(returns) - first < settings.risk.var_calibration.window_days:
        raise MarketDataError(
            f"{len(returns):,} days on which every instrument was traded: forecasts begin after {first:,} of them "
            f"(risk.var_methods.history_days), and {settings.risk.var_calibration.window_days} more are needed to judge"
        )
    clip = settings.features.return_clip
    seen = np.clip(returns, -clip, clip)
    judged = slice(first, len(returns))
    books = {name: weights[judged] for name, weights in _books(settings, seen).items()}
    earned = {name: (weights * returns[judged]).sum(axis=1) for name, weights in books.items()}
    found = []
    for method, covariance, tail in _forecasters(settings, methods, covariances):
        progress(f"{method} {covariance}".rstrip())
        packed = _covariances(settings, covariance or "ewma", seen)[judged]
        past = _past(settings, method, seen, judged)
        for name, weights in books.items():
            for confidence in confidences:
                ahead, shortfall = tail(confidence)(weights, packed, past)
                factor = calibration_factors(earned[name], ahead, confidence, settings.risk.var_calibration)
                raw, scaled = (
                    judge_forecast(
                        earned[name],
                        ahead * scale,
                        confidence,
                        np.random.default_rng(settings.seed),
                        simulations,
                        shortfall=shortfall * scale,
                    )
                    for scale in (np.ones(len(ahead)), factor)
                )
                mean = float(ahead.mean())
                found.append(ForecastBacktest(name, method, covariance, confidence, mean, raw, scaled))
    return tuple(found)


Forecast = Callable[[np.ndarray, np.ndarray, PastReturns | None], tuple[np.ndarray, np.ndarray]]
"""VaR and expected shortfall of books, from their weights, covariances and past returns."""


def _forecasters(
    settings: Settings, methods: Sequence[str], covariances: Sequence[str]
) -> Iterator[tuple[str, str, Callable[[float], Forecast]]]:
    """Method, covariance if it has one, and the forecast at a confidence."""
    index = PackedIndex(settings.universe.n_instruments)
    for method in methods:
        chosen = settings_with(settings, {"risk.var_method": method}).risk

        def forecast(confidence: float, chosen=chosen) -> Forecast:
            tail = tail_measure(chosen, index, confidence)
            if tail is None:
                return lambda weights, packed, past: (
                    var.parametric_var(weights, index.matrices(packed), confidence),
                    var.parametric_shortfall(weights, index.matrices(packed), confidence),
                )
            return lambda weights, packed, past: (
                tail.var(weights, packed, past),
                tail.shortfall(weights, packed, past),
            )

        for covariance in covariances if method in BY_COVARIANCE else ("",):
            yield method, covariance, forecast


def _known(what: str, given: Sequence[str], accepted: Sequence[str]) -> None:
    for name in given:
        if name not in accepted:
            raise ConfigError(f"{what} {name!r}: expected one of {', '.join(accepted)}")


def _momentum(settings: Settings) -> tuple[int, int]:
    """Lookback and skip of the longest momentum rule, days."""
    longest = max(settings.evaluation.baselines.momentum.values(), key=lambda rule: rule.lookback_days)
    return longest.lookback_days, longest.skip_days


def _lookback(settings: Settings) -> int:
    return _momentum(settings)[0]


def _books(settings: Settings, returns: np.ndarray) -> dict[str, np.ndarray]:
    """Weights (S, n) held on each day, decided from the days before it."""
    n = returns.shape[1]
    lookback, skip = _momentum(settings)
    level = np.concatenate([np.zeros((1, n)), np.cumsum(returns, axis=0)])
    move = np.zeros_like(returns)
    move[lookback:] = level[lookback - skip : len(returns) - skip] - level[: len(returns) - lookback]
    return {"equal weight": np.full(returns.shape, 1 / n), "momentum": np.sign(move) / n}


def _covariances(settings: Settings, covariance: str, returns: np.ndarray) -> np.ndarray:
    """Packed covariances (S, n(n+1)/2) known before each day."""
    chosen = settings_with(settings, {"features.moments.covariance": covariance})
    before = np.concatenate([np.full((1, returns.shape[1]), np.nan), returns])
    return covariance_of_days(chosen, before[:, None])[:-1, 0]


def _past(settings: Settings, method: str, returns: np.ndarray, judged: slice) -> PastReturns | None:
    """Past returns known before each day of `judged`; None where the method does not look at them."""
    if method not in BY_HISTORY:
        return None
    chosen = settings_with(settings, {"risk.var_method": method})
    rows = np.arange(len(returns) + 1)
    level = np.concatenate([np.zeros((1, returns.shape[1])), np.cumsum(returns, axis=0)])[:, None]
    arrays, _ = past_returns(chosen, Days(rows, rows, rows), level, np.ones(level.shape, dtype=bool))
    scale = arrays.get("past_scale")
    days = arrays["past_days"][:-1, 0][judged].astype(np.int64)
    return PastReturns(arrays["past_returns"][:, 0], days, None if scale is None else scale[:-1, 0][judged])
