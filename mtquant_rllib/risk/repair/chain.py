"""The rules in their order, as repairs of a batch of books, and the question whether they all pass.

    restrictions, price band, ADV, capital -> concentration -> sector -> correlation
    -> one uniform factor for VaR, total gross and margin -> breakers -> custom rules

A shrunk hedge *raises* VaR. So sectors and correlation are repaired per position first, and VaR last, by a factor that
leaves the book's shape, and with it every earlier rule, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mtquant_rllib.config.sections.agents import PortfolioRiskConfig
from mtquant_rllib.config.sections.instruments import InstrumentConfig
from mtquant_rllib.config.sections.risk import RiskConfig
from mtquant_rllib.risk import pretrade
from mtquant_rllib.risk.repair.batch import RepairBatch
from mtquant_rllib.risk.repair.correlation import diversifying_factors
from mtquant_rllib.risk.repair.limits import margin_rates, shrink_to_limit
from mtquant_rllib.risk.repair.measures import TOLERANCE, BookMeasurer, Measures
from mtquant_rllib.risk.rules import Proposal, RiskInputError, Rule, RuleId
from mtquant_rllib.risk.var import normal_quantile
from mtquant_rllib.short_rows import row_any
from mtquant_rllib.universe import Universe

_FACTORS_TRIED, _BISECTIONS = 17, 50
"""Of the factor that brings a VaR which is not the parametric one within its limit beside untradable positions."""


class RuleChain:
    """Every limit of one desk, and the repair that belongs to it.

    Attributes
    ----------
    limits
        `var`, `correlation`, `sector_gross`, `gross`, `margin`, `position` (a single |weight|); fractions of equity.
    custom
        Custom rules, run in this order.
    """

    def __init__(
        self,
        universe: Universe,
        instruments: Sequence[InstrumentConfig],
        limits: PortfolioRiskConfig,
        config: RiskConfig,
    ) -> None:
        z = normal_quantile(limits.var_confidence) * math.sqrt(config.var_horizon_days)
        self.limits: dict[str, float] = {
            "var": limits.max_portfolio_var,
            "correlation": limits.max_correlation_exposure,
            "sector_gross": limits.max_sector_allocation * config.gross_budget,
            "gross": config.gross_budget,
            "margin": 1.0,
            "position": config.max_concentration_frac * config.gross_budget,
        }
        self.custom: list[Rule] = []
        self.margin_per_notional = margin_rates(instruments) * config.margin_buffer
        self.measurer = BookMeasurer(universe, self.margin_per_notional, z, limits.var_confidence, config)
        self.max_order_ccy = np.array([row.adv_ccy for row in instruments]) * config.max_adv_frac
        self.no_long, self.no_short = pretrade.restricted_sides(instruments)
        self._any_restricted = bool((self.no_long | self.no_short).any())
        self._smallest_max_order_ccy = float(self.max_order_ccy.min())
        self._gross_floor = config.correlation_floor_frac * config.gross_budget
        self._rounds = config.correlation_rounds
        self._domain_of = np.array(universe.domain_of)
        self._variance_limit = (limits.max_portfolio_var / z) ** 2
        self._variance_trigger = self._variance_limit * (1 + 2 * TOLERANCE)
        sectors = [self.limits["sector_gross"]] * universe.n_domains
        self._load_triggers = np.array([*sectors, self.limits["gross"], self.limits["margin"]]) * (1 + TOLERANCE)

    def limit_orders(self, batch: RepairBatch) -> None:
        """Restrictions, price band, refused openings, ADV and capital, each as a bound on the increasing leg."""
        weights, proposal = batch.weights, batch.proposal
        if self._any_restricted:
            banned = ((weights > 0) & self.no_long) | ((weights < 0) & self.no_short)
            batch.refuse(banned, RuleId.RESTRICTION)
        if proposal.price_band_ok is not None and not proposal.price_band_ok.all():
            batch.refuse(~proposal.price_band_ok, RuleId.PRICE_BAND)
        if proposal.opening_allowed is not None and not proposal.opening_allowed.all():
            batch.refuse(~proposal.opening_allowed, RuleId.OPENING)

        equity = proposal.equity
        absolute = np.abs(weights)
        largest = float(absolute.max())
        if not math.isfinite(largest):
            raise RiskInputError("a proposed weight is not a finite number")
        # The largest position of the batch in the richest account: usually far below the thinnest market's limit.
        if largest * equity.max() > self._smallest_max_order_ccy:
            with np.errstate(divide="ignore"):
                most = self.max_order_ccy / np.maximum(equity, 0.0)[:, None]
            batch.refuse(absolute > most, RuleId.ADV, most)
        # An order can lack margin only where the whole proposal does.
        margin = absolute @ self.margin_per_notional
        if margin.max() > 1.0 or equity.min() <= 0:
            rows = np.flatnonzero((margin > 1.0) | (equity <= 0))
            room = pretrade.margin_room(weights[rows], proposal.current[rows], equity[rows], self.margin_per_notional)
            affordable = np.full(weights.shape, np.inf)
            affordable[rows] = room[:, None] / self.margin_per_notional
            batch.refuse(absolute > affordable, RuleId.CAPITAL, affordable)

    def run(self, batch: RepairBatch) -> Measures:
        """Everything from concentration to custom rules, once, in place. The measures of what comes out."""
        weights, proposal, measurer = batch.weights, batch.proposal, self.measurer
        absolute = np.abs(weights)
        if absolute.max() > self.limits["position"]:
            batch.cap(self.limits["position"], absolute > self.limits["position"], RuleId.CONCENTRATION)
            np.abs(weights, out=absolute)

        over = absolute @ measurer.loads > self._load_triggers
        if over.any():
            rows = np.flatnonzero(row_any(over[:, :-2]))
            if len(rows):
                self._repair_sectors(batch, rows)

        measures = measurer.measure(weights, proposal)
        measures.require_finite()

        rows = np.flatnonzero(self.too_correlated(measures))
        if len(rows):
            self._repair_correlation(batch, rows)
            measurer.update(measures, weights, proposal, rows)

        too_risky = measures.variance > self._variance_trigger
        over = measures.totals > self._load_triggers[-2:]
        if over.any():
            too_risky |= row_any(over)
        rows = np.flatnonzero(too_risky)
        if len(rows):
            self._repair_total(batch, rows, measures)
            measurer.update(measures, weights, proposal, rows)

        rows = self._apply_breakers(batch)
        if len(rows):
            measurer.update(measures, weights, proposal, rows)
        if self.custom:
            self._apply_custom_rules(batch)
            measures = measurer.measure(weights, proposal)
        return measures

    def too_correlated(self, measures: Measures) -> np.ndarray:
        """bool (R,): above the correlation limit, and above the gross under which it does not bind."""
        gross = measures.loads[:, -2]
        excess = measures.pair_sum - (self.limits["correlation"] + TOLERANCE) * measures.pair_gross
        # Rounding in the difference of two squares is relative to gross squared.
        return (excess > TOLERANCE * 1e-3 * gross * gross) & (gross > self._gross_floor * (1 + TOLERANCE))

    def failing(self, batch: RepairBatch, measures: Measures) -> np.ndarray:
        """bool (R,): some rule does not pass."""
        proposal = batch.proposal
        failing = self.too_correlated(measures)
        failing |= measures.variance > self._variance_trigger
        over = measures.loads > self._load_triggers
        if over.any():
            failing |= row_any(over)
        if batch.fixed is not None:
            # Bounds on one instrument cannot fail where it was free to move.
            absolute = np.abs(batch.weights)
            failing |= row_any(absolute > self.limits["position"])
            if proposal.cap_abs is not None:
                failing |= row_any(absolute > proposal.cap_abs)
            if proposal.flatten is not None:
                failing |= proposal.flatten & row_any(absolute > 0)
        if proposal.var_limit_scale is not None:
            failing |= measures.variance > self._variance_trigger * proposal.var_limit_scale**2
        for rule in self.custom:
            failing |= ~(rule.measure(batch.weights, proposal) <= trigger(rule.limit))
        return failing

    def _repair_sectors(self, batch: RepairBatch, rows: np.ndarray) -> None:
        """Each domain above its limit shrinks by one factor."""
        absolute = np.abs(batch.weights[rows])
        sectors = self.measurer.loads[:, :-2]
        total = absolute @ sectors
        remaining = np.zeros_like(total) if batch.fixed is None else (absolute * batch.fixed[rows]) @ sectors
        factor = shrink_to_limit(total - remaining, remaining, self.limits["sector_gross"])
        # Within rounding of the limit is no breach: a repaired book must come out bit by bit the same.
        factor[total <= self._load_triggers[:-2]] = 1.0
        batch.scale(rows, factor.take(self._domain_of, axis=1), RuleId.SECTOR)

    def _repair_correlation(self, batch: RepairBatch, rows: np.ndarray) -> None:
        factors = diversifying_factors(
            batch.weights[rows],
            self.measurer.index.hollow_matrices(batch.proposal.correlation[rows]),
            None if batch.fixed is None else ~batch.fixed[rows],
            self.limits["correlation"],
            self._gross_floor,
            self._rounds,
            TOLERANCE,
        )
        batch.scale(rows, factors, RuleId.CORRELATION)

    def _repair_total(self, batch: RepairBatch, rows: np.ndarray, measures: Measures) -> None:
        """One factor on all tradable positions for VaR, total gross and margin."""
        totals, variance = measures.totals[rows], measures.variance[rows]
        if batch.fixed is None:
            remaining = np.zeros_like(totals)
            by_var = np.sqrt(shrink_to_limit(variance, np.zeros_like(variance), self._variance_limit))
        else:
            weights = batch.weights[rows]
            free = weights * ~batch.fixed[rows]
            remaining = totals - np.abs(free) @ self.measurer.loads[:, -2:]
            by_var = self._var_factor(batch.proposal, rows, free, weights - free, variance)
        by_gross = shrink_to_limit(totals[:, 0] - remaining[:, 0], remaining[:, 0], self.limits["gross"])
        by_margin = shrink_to_limit(totals[:, 1] - remaining[:, 1], remaining[:, 1], self.limits["margin"])
        # Within rounding of its limit a measure asks for nothing.
        by_var[variance <= self._variance_trigger] = 1.0
        by_gross[totals[:, 0] <= self._load_triggers[-2]] = 1.0
        by_margin[totals[:, 1] <= self._load_triggers[-1]] = 1.0
        factor = np.minimum(np.minimum(by_gross, by_margin), by_var)
        binding = np.where(factor == by_var, RuleId.VAR, np.where(factor == by_gross, RuleId.GROSS, RuleId.MARGIN))
        batch.scale(rows, factor[:, None], binding[:, None])

    def _var_factor(
        self, proposal: Proposal, rows: np.ndarray, free: np.ndarray, remaining: np.ndarray, variance: np.ndarray
    ) -> np.ndarray:
        """The factor on `free` that brings the VaR of free + remaining within its limit, (R,); see `_variance_factor`.

        Other methods' VaR need not be convex in the factor. The largest of a few factors that passes is searched for,
        and the limit between it and the next larger one, which does not; where none passes, the factor is that of the
        least variance.
        """
        if self.measurer.has_variance_limit:
            return self._variance_factor(free, remaining, proposal.covariance[rows], variance)

        def passes(factor: np.ndarray) -> np.ndarray:
            books = remaining + free * factor[:, None]
            return self.measurer.variance(books, proposal, rows) <= self._variance_limit

        low, high = np.full(len(rows), -1.0), np.ones(len(rows))
        for factor in np.linspace(0.0, 1.0, _FACTORS_TRIED):
            good = passes(np.full(len(rows), factor))
            low[good], high[good] = factor, min(factor + 1.0 / (_FACTORS_TRIED - 1), 1.0)
        found = low >= 0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            good = passes(middle)
            low, high = np.where(good, middle, low), np.where(good, high, middle)
        covariance = proposal.covariance[rows]
        least = self._variance_factor(free, remaining, covariance, np.full(len(rows), np.inf))
        return np.where(found, np.maximum(low, 0.0), least)

    def _variance_factor(
        self, free: np.ndarray, remaining: np.ndarray, covariance: np.ndarray, variance: np.ndarray
    ) -> np.ndarray:
        """Largest factor on `free` that keeps the variance of free + remaining within the limit; else its minimiser.

        The variance is a convex quadratic a x^2 + 2 b x + c in the factor x. Weights (R, n), packed covariances,
        variances (R,) of the whole books; returns (R,).
        """
        marginal = np.matvec(self.measurer.index.matrices(covariance), free)
        a = (free * marginal).sum(axis=1)
        b = (remaining * marginal).sum(axis=1)
        excess = variance - a - 2 * b - self._variance_limit
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(b * b - a * excess)
            # (root - b) / a, in the form that does not cancel.
            largest = np.where(b <= 0, (root - b) / a, -excess / (root + b))
            minimiser = np.clip(-b / a, 0.0, 1.0)
        # A book at its minimum (or without tradable risk) stays, whatever rounding says.
        minimiser[~(np.abs(minimiser - 1.0) >= TOLERANCE)] = 1.0
        return np.where((largest >= 0) & (largest <= 1), largest, minimiser)

    def _apply_breakers(self, batch: RepairBatch) -> np.ndarray:
        """Caps, no increases, flattening, and closing by component VaR. Rows whose measures may be stale."""
        weights, proposal = batch.weights, batch.proposal
        touched = np.zeros(len(weights), dtype=bool)
        if proposal.cap_abs is not None:
            over = np.abs(weights) > proposal.cap_abs
            if over.any():
                batch.cap(proposal.cap_abs, over, RuleId.BREAKER)
                touched |= row_any(over)
        if proposal.no_increase is not None and proposal.no_increase.any():
            batch.refuse(np.broadcast_to(proposal.no_increase[:, None], weights.shape), RuleId.BREAKER)
            touched |= proposal.no_increase
        if proposal.flatten is not None and proposal.flatten.any():
            batch.cap(0.0, proposal.flatten[:, None] & (weights != 0), RuleId.BREAKER)
            touched |= proposal.flatten
        if proposal.var_limit_scale is not None:
            rows = np.flatnonzero(proposal.var_limit_scale < 1)
            if len(rows):
                self._close_riskiest(batch, rows, proposal.var_limit_scale[rows])
                touched[rows] = True
        return np.flatnonzero(touched)

    def _close_riskiest(self, batch: RepairBatch, rows: np.ndarray, scale: np.ndarray) -> None:
        """Close whole positions, largest component VaR first, until VaR is within `scale` (len(rows),) of its limit."""
        limit = self._variance_trigger * scale**2
        matrix = self.measurer.index.matrices(batch.proposal.covariance[rows])
        for _ in range(batch.weights.shape[1]):
            weights = batch.weights[rows]
            component = weights * np.matvec(matrix, weights)
            # A position with a negative component is a hedge: closing it would add risk.
            closable = component > 0 if batch.fixed is None else (component > 0) & ~batch.fixed[rows]
            if self.measurer.has_variance_limit:
                variance = component.sum(axis=1)
            else:
                variance = self.measurer.variance(weights, batch.proposal, rows)
            failing = (variance > limit) & row_any(closable)
            if not failing.any():
                return
            worst = np.where(closable, component, -np.inf).argmax(axis=1)
            batch.weights[rows[failing], worst[failing]] = 0.0
            batch.rule[rows[failing], worst[failing]] = RuleId.BREAKER

    def _apply_custom_rules(self, batch: RepairBatch) -> None:
        for number, rule in enumerate(self.custom):
            rows = np.flatnonzero(~(rule.measure(batch.weights, batch.proposal) <= trigger(rule.limit)))
            if len(rows):
                factors = np.clip(rule.repair(batch.weights[rows], batch.proposal.rows(rows)), 0.0, 1.0)
                batch.scale(rows, factors, RuleId.CUSTOM + number)


def trigger(limit: float) -> float:
    """Measure above which a custom rule counts as broken."""
    return limit + TOLERANCE * max(1.0, abs(limit))
