"""Figures of the risk report: use of limits, edits by rule, tests of the forecast, the worst days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation.measures import living_returns
from mtquant_rllib.evaluation.risk_report.history import RiskHistory
from mtquant_rllib.evaluation.statistics.var_tests import VarTests, judge_forecast
from mtquant_rllib.risk.calibration import calibration_factors
from mtquant_rllib.risk.engine import PortfolioRiskManager
from mtquant_rllib.risk.repair.limits import margin_rates

NEAR = 0.9
"""Share of a limit from which a book counts as near it."""
_WORST = 10


@dataclass(frozen=True)
class LimitUse:
    """Use of one limit over all bars: the measure over the limit. over: share of bars beyond it, which prices can carry
    a book to between decision and close."""

    name: str
    limit: float
    mean: float
    largest: float
    near: float
    over: float


@dataclass(frozen=True)
class RuleEdits:
    """bars: in which it bound any instrument; edits: instruments and bars; reduced: mean reduction of a weight."""

    rule: str
    edits: int
    bars: int
    reduced: float


@dataclass(frozen=True)
class WorstDay:
    """A day's net return, the forecast that it began with, and what risk did in it."""

    day: str
    environment: int
    net_return: float
    forecast: float
    edits: Mapping[str, int]


@dataclass(frozen=True)
class RiskReport:
    """tests: of the forecast that was in force; raw_tests and calibrated_tests: of the forecast as it is measured, and
    scaled by `risk.calibration`. calibrated: the one in force is the scaled one."""

    book: str
    n_bars: int
    limits: tuple[LimitUse, ...]
    edits: tuple[RuleEdits, ...]
    tests: VarTests | None
    raw_tests: VarTests | None
    calibrated_tests: VarTests | None
    calibrated: bool
    worst: tuple[WorstDay, ...]
    breaker_trips: tuple[int, ...]
    confidence: float
    significance: float


def uses(history: RiskHistory, settings: Settings) -> dict[str, tuple[float, np.ndarray]]:
    """Limit and use of it on every bar, (M,), by name."""
    limits = PortfolioRiskManager.from_settings(settings).limits
    domain_of = np.array(settings.universe.domain_of)
    size = np.abs(history.weights)
    measured = {
        "gross": (float(limits["gross"]), size.sum(axis=1)),
        "largest position": (float(limits["position"]), size.max(axis=1)),
        "margin, with its buffer": (
            float(limits["margin"]),
            size @ margin_rates(settings.instruments) * settings.risk.margin_buffer,
        ),
        "VaR forecast": (float(limits["var"]), history.forecast * np.sqrt(settings.risk.var_horizon_days)),
    }
    for number, domain in enumerate(settings.universe.domains):
        measured[f"gross of {domain.name}"] = (float(limits["sector_gross"]), size[:, domain_of == number].sum(axis=1))
    return {name: (limit, values / limit) for name, (limit, values) in measured.items()}


def build_report(history: RiskHistory, settings: Settings, breaker_trips: tuple[int, ...]) -> RiskReport:
    """The report of a book."""
    days, returns, forecast = history.days()
    confidence, calibrated = settings.portfolio_risk.var_confidence, settings.risk.var_calibration.enabled
    raw, scaled = raw_and_calibrated(returns, forecast, settings)
    raw_tests, scaled_tests = (
        judge_forecast(returns, one, confidence, np.random.default_rng(settings.seed)) for one in (raw, scaled)
    )
    return RiskReport(
        book=history.name,
        n_bars=len(history.returns),
        limits=tuple(_use(name, *use) for name, use in uses(history, settings).items()),
        edits=tuple(_edits(history)),
        tests=scaled_tests if calibrated else raw_tests,
        raw_tests=raw_tests,
        calibrated_tests=scaled_tests,
        calibrated=calibrated,
        worst=tuple(_worst_days(history, days, returns, forecast)),
        breaker_trips=breaker_trips,
        confidence=confidence,
        significance=settings.evaluation.var_test_significance,
    )


def raw_and_calibrated(returns: np.ndarray, forecast: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The VaR forecast of each environment's days (B, D) without and with the calibration of the settings, from the one
    that was in force."""
    config, confidence = settings.risk.var_calibration, settings.portfolio_risk.var_confidence
    in_force = np.nan_to_num(forecast)
    factors = np.stack(
        [
            calibration_factors(own, ahead, confidence, config, calibrated=config.enabled)
            for own, ahead in zip(living_returns(returns), in_force, strict=True)
        ]
    )
    return (forecast / factors, forecast) if config.enabled else (forecast, forecast * factors)


def _use(name: str, limit: float, use: np.ndarray) -> LimitUse:
    known = use[np.isfinite(use)]
    return LimitUse(
        name,
        limit,
        mean=float(known.mean()),
        largest=float(known.max()),
        near=float((known >= NEAR).mean()),
        over=float((known > 1 + 1e-9).mean()),
    )


def _edits(history: RiskHistory) -> list[RuleEdits]:
    found = []
    reduction = np.abs(history.proposed) - np.abs(history.weights)
    for rule in sorted({rule for rule in history.rule.ravel() if rule is not None}):
        at = history.rule == rule
        found.append(RuleEdits(rule, int(at.sum()), int(at.any(axis=1).sum()), float(np.mean(reduction[at]))))
    return sorted(found, key=lambda one: -one.edits)


def _worst_days(history: RiskHistory, days: np.ndarray, returns: np.ndarray, forecast: np.ndarray) -> list[WorstDay]:
    order = np.argsort(np.where(np.isfinite(returns), returns, np.inf), axis=None, kind="stable")[:_WORST]
    found = []
    for env, place in zip(*np.unravel_index(order, returns.shape)):
        if not np.isfinite(returns[env, place]):
            break
        rows = (history.environment == env) & (history.day == days[place])
        rules = [rule for rule in history.rule[rows].ravel() if rule is not None]
        edits = {rule: rules.count(rule) for rule in dict.fromkeys(rules)}
        values = float(returns[env, place]), float(forecast[env, place])
        found.append(WorstDay(str(days[place]), int(env), *values, edits))
    return found
