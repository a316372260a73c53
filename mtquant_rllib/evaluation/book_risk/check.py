"""A book against the desk's risk rules: measures and limits, what the rules would make of it, and where its risk
sits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation.book_risk.book_file import BookFile
from mtquant_rllib.evaluation.book_risk.market_risk import MarketRisk
from mtquant_rllib.risk import var
from mtquant_rllib.risk.engine import PortfolioRiskManager
from mtquant_rllib.risk.rules import RiskEdit
from mtquant_rllib.risk.single_book import CurrentPortfolio


@dataclass(frozen=True)
class TailRisk:
    """Value at risk and expected shortfall of one day by one method, positive fractions of equity; with intervals where
    the method has them."""

    method: str
    var: float
    shortfall: float
    var_interval: tuple[float, float] | None = None
    shortfall_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class PositionRisk:
    """component: its share of the book's parametric VaR, which add up to it; marginal: by how much VaR grows with its
    weight; executed: what the rules let it be."""

    symbol: str
    weight: float
    executed: float
    component: float
    marginal: float


@dataclass(frozen=True)
class BookCheck:
    """reasons: why the book does not pass, empty where it does. measures, limits: by name, of the book as it is. edits:
    what the rules would change. var_method, shortfall: how the rule measures VaR, and the expected shortfall that it
    implies over the rule's horizon."""

    timestamp: str
    reasons: tuple[str, ...]
    measures: Mapping[str, float]
    limits: Mapping[str, float]
    positions: tuple[PositionRisk, ...]
    tails: tuple[TailRisk, ...]
    edits: tuple[RiskEdit, ...]
    confidence: float
    var_method: str
    shortfall: float

    @property
    def passes(self) -> bool:
        return not self.reasons


def check_book(settings: Settings, market: MarketRisk, book: BookFile, equity_ccy: float) -> BookCheck:
    """Check a book of this much equity, account currency, at the market's close."""
    manager, universe = PortfolioRiskManager.from_settings(settings), settings.universe
    held = CurrentPortfolio(book.current, equity_ccy, market.covariance, market.correlation, past=market.past)
    _, reasons = manager.check_portfolio_risk(book.weights, held)
    proposal = held.proposal(book.weights, universe, manager.index)
    decision = manager.repair(proposal)
    measured = {name: values[0] for name, values in manager.measure(proposal).items()}
    measures = {name: float(value) for name, value in measured.items() if np.ndim(value) == 0}
    limits = {name: float(manager.limits[name]) for name in measures}
    for domain, gross in zip(universe.domains, measured["sector_gross"]):
        measures[f"gross of {domain.name}"] = float(gross)
        limits[f"gross of {domain.name}"] = float(manager.limits["sector_gross"])
    weights = book.row(universe.symbols)
    confidence = settings.portfolio_risk.var_confidence
    measures["largest position"] = float(np.abs(weights).max(initial=0.0))
    limits["largest position"] = float(manager.limits["position"])
    component = var.component_var(weights, market.covariance, confidence)
    marginal = var.marginal_var(weights, market.covariance, confidence)
    return BookCheck(
        timestamp=str(market.timestamp),
        reasons=tuple(reasons),
        measures=measures,
        limits=limits,
        positions=tuple(
            PositionRisk(symbol, *(float(part[i]) for part in (weights, decision.executed[0], component, marginal)))
            for i, symbol in enumerate(universe.symbols)
        ),
        tails=tail_risks(settings, market, weights),
        edits=tuple(decision.edits(0)),
        confidence=confidence,
        var_method=settings.risk.var_method,
        shortfall=float(manager.expected_shortfall(proposal)[0]),
    )


def tail_risks(settings: Settings, market: MarketRisk, weights: np.ndarray) -> tuple[TailRisk, ...]:
    """VaR and expected shortfall of a book (n,) by every method, of one day."""
    config, confidence = settings.risk.var_methods, settings.portfolio_risk.var_confidence
    rng = np.random.default_rng(settings.seed)
    past = market.returns[-config.history_days :]
    losses = -(past @ weights)
    ages = var.age_weights(len(losses), config.age_decay)
    filtered = -(var.at_present_volatility(past, config.volatility_decay) @ weights)
    bounds = var.bootstrap_bounds(losses, confidence, config.interval_confidence, config.resamples, rng)
    found = [
        TailRisk(
            "parametric, normal",
            float(var.parametric_var(weights, market.covariance, confidence)),
            float(var.parametric_shortfall(weights, market.covariance, confidence)),
        ),
        TailRisk(
            f"historical, {len(losses)} days",
            float(var.historical_var(weights, past, confidence)),
            float(var.expected_shortfall(losses, confidence)),
            *bounds,
        ),
        TailRisk(
            "historical, weighted by age",
            float(var.weighted_var(losses, confidence, ages)),
            float(var.expected_shortfall(losses, confidence, ages)),
        ),
        TailRisk(
            "historical, at present volatility",
            float(np.maximum(np.quantile(filtered, confidence), 0.0)),
            float(var.expected_shortfall(filtered, confidence)),
        ),
    ]
    for name, degrees in (("normal", None), (f"Student t, {config.degrees_of_freedom:g}", config.degrees_of_freedom)):
        drawn = var.monte_carlo_losses(weights, market.covariance, config.draws, rng, degrees)
        quantile = float(np.maximum(np.quantile(drawn, confidence), 0.0))
        found.append(TailRisk(f"Monte Carlo, {name}", quantile, float(var.expected_shortfall(drawn, confidence))))
    return tuple(found)
