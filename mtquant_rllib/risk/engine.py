"""The desk's last word: from proposed to executed weights, for B desks at once.

Repair only ever shrinks: executed_i = lambda_i * proposed_i with lambda_i in [0, 1] for each tradable instrument. So
no position changes sign, gross never grows, a move toward zero is never blocked, and repairing twice is repairing once.
The rules run in one order,

    restrictions, price band, ADV, capital -> concentration -> sector -> correlation
    -> one uniform factor for VaR, total gross and margin -> breakers -> custom rules

because a shrunk hedge *raises* VaR: sectors and correlation are repaired per position, and only then VaR, by a factor
that leaves the book's shape, and so every earlier rule, as it is. What breakers, custom rules or untradable positions
break again is swept at most a few times, and then shrunk uniformly until all rules pass together.

The common case, a book that passes, costs two gathers, a product and a few comparisons over the batch; repairs run
only on the environments in breach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtquant_rllib.config.agents import PortfolioRiskConfig
from mtquant_rllib.config.instruments import InstrumentConfig
from mtquant_rllib.config.risk import RiskConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.risk import pretrade
from mtquant_rllib.risk.correlation import diversifying_factors, ratio
from mtquant_rllib.risk.limits import load_matrix, margin_rates, shrink_to_limit
from mtquant_rllib.risk.packed import PackedIndex
from mtquant_rllib.risk.rules import Proposal, RiskEdit, RiskInputError, Rule, RuleId
from mtquant_rllib.risk.single_book import FAILURE_TEXT, CurrentPortfolio
from mtquant_rllib.risk.var import normal_quantile
from mtquant_rllib.universe import Universe

TOLERANCE = 1e-10
"""Relative slack before a measure counts as a breach. Repairs aim at the limit itself, so a repaired book passes."""

_BISECTIONS = 50


@dataclass
class _Measures:
    """Measures of R books: loads (R, D + 2) sector gross, total gross, margin with buffer; the rest (R,)."""

    loads: np.ndarray
    pair_sum: np.ndarray
    pair_gross: np.ndarray
    variance: np.ndarray


@dataclass
class RiskDecision:
    """What is executed and why.

    Attributes
    ----------
    executed
        Signed weights, (B, n).
    factor
        lambda in [0, 1], (B, n); 1 for untradable instruments and for proposals of 0.
    rule
        `RuleId` of the smallest bound, int8 (B, n); 0 where nothing was changed.
    measures
        Of the executed book, (B,): `var`, `correlation`, `gross`, `margin` (with its buffer); (B, D): `sector_gross`.
    unrepairable
        bool (B,): a breach is left that no shrinking of tradable positions removes.
    limits
        Limit of each measure, and `position` for a single |weight|; in the same units.
    """

    executed: np.ndarray
    factor: np.ndarray
    rule: np.ndarray
    unrepairable: np.ndarray
    limits: Mapping[str, float]
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    _explain: Callable[[int], list[RiskEdit]] | None = None

    def edits(self, env: int) -> list[RiskEdit]:
        """Records of what was changed in one environment, computed now from the proposal's arrays.

        Ask before those arrays are overwritten.
        """
        assert self._explain is not None
        return self._explain(env)


class PortfolioRiskManager:
    """Limits of one desk's universe, applied to batches of books.

    Holds scratch memory, so one instance serves one thread.

    Parameters
    ----------
    universe, instruments
        The desk and its instruments' rows, in its order.
    limits
        VaR, correlation and sector limits.
    config
        Budgets, floors and margins.
    rules
        Custom rules, run after the built-in ones in this order.
    """

    def __init__(
        self,
        universe: Universe,
        instruments: Sequence[InstrumentConfig],
        limits: PortfolioRiskConfig,
        config: RiskConfig,
        rules: Sequence[Rule] = (),
    ) -> None:
        n, n_domains = universe.n_instruments, universe.n_domains
        self.universe = universe
        self.config = config
        self.rules: list[Rule] = []
        self.limits: dict[str, float] = {
            "var": limits.max_portfolio_var,
            "correlation": limits.max_correlation_exposure,
            "sector_gross": limits.max_sector_allocation * config.gross_budget,
            "gross": config.gross_budget,
            "margin": 1.0,
            "position": config.max_concentration_frac * config.gross_budget,
        }
        self.gross_floor = config.correlation_floor_frac * config.gross_budget
        self._z = normal_quantile(limits.var_confidence) * math.sqrt(config.var_horizon_days)
        self._variance_limit = (limits.max_portfolio_var / self._z) ** 2
        self._index = PackedIndex(n)
        self._domain_of = np.array(universe.domain_of)
        self._margin = margin_rates(instruments) * config.margin_buffer
        self._loads = load_matrix(universe.domain_of, n_domains, self._margin)
        self._load_limits = np.array([self.limits["sector_gross"]] * n_domains + [config.gross_budget, 1.0])
        self._load_triggers = self._load_limits * (1 + TOLERANCE)
        self._no_long, self._no_short = pretrade.restricted_sides(instruments)
        self._any_restricted = bool((self._no_long | self._no_short).any())
        self._max_order_ccy = np.array([row.adv_usd for row in instruments]) * config.max_adv_frac
        self._smallest_max_order_ccy = float(self._max_order_ccy.min())
        self._scratch = self._new_scratch(1)
        for rule in rules:
            self.add_rule(rule)

    @classmethod
    def from_settings(cls, settings: Settings, rules: Sequence[Rule] = ()) -> PortfolioRiskManager:
        return cls(settings.universe, settings.instruments, settings.portfolio_risk, settings.risk, rules)

    def add_rule(self, rule: Rule) -> None:
        """Register a custom rule; it runs after those registered before it."""
        if any(known.name == rule.name for known in self.rules):
            raise ValueError(f"a rule named {rule.name!r} is registered already")
        self.rules.append(rule)

    def rule_name(self, rule_id: int) -> str:
        """`var`, `sector`, ... or the name of a custom rule."""
        if rule_id >= RuleId.CUSTOM:
            return self.rules[rule_id - RuleId.CUSTOM].name
        return RuleId(rule_id).name.lower()

    # ------------------------------------------------------------------------------------------------ the last word

    def repair(self, proposal: Proposal, out: RiskDecision | None = None) -> RiskDecision:
        """Executed weights for B proposals.

        Parameters
        ----------
        proposal
            See `Proposal`. Not written to.
        out
            A decision of the same B to overwrite, to spare allocations.

        Raises
        ------
        RiskInputError
            A weight, covariance or correlation is NaN or infinite; nothing is executed then.
        """
        proposed = proposal.proposed
        decision = out if out is not None else self._new_decision(len(proposed))
        weights, rule = decision.executed, decision.rule
        np.copyto(weights, proposed)
        rule.fill(0)
        fixed = None
        if not proposal.tradable.all():
            fixed = ~proposal.tradable
            np.copyto(weights, proposal.current, where=fixed)
            rule[fixed] = RuleId.UNTRADABLE

        self._limit_orders(proposal, weights, rule, fixed)
        measures = self._run_rules(proposal, weights, rule, fixed)
        failing = self._failing(proposal, weights, fixed, measures)
        np.copyto(decision.unrepairable, failing)
        if failing.any():
            rows = np.flatnonzero(failing)
            decision.unrepairable[rows] = self._sweep(proposal.rows(rows), weights, rule, rows)
            self._remeasure(proposal, weights, measures, rows)

        changed = weights != proposed
        rule *= changed
        decision.factor.fill(1.0)
        if fixed is not None:
            changed &= proposal.tradable
        if changed.any():
            np.divide(weights, proposed, out=decision.factor, where=changed)
        decision.measures = self._named(measures)
        decision._explain = lambda env: self._edits(proposal, decision, env)
        return decision

    def measure(self, proposal: Proposal) -> dict[str, np.ndarray]:
        """The measures of `RiskDecision` for the books as proposed, untradable instruments at their current weight."""
        weights = np.where(proposal.tradable, proposal.proposed, proposal.current)
        return self._named(self._measure(weights, proposal.covariance, proposal.correlation))

    # ------------------------------------------------------------------------------------------- one book, by names

    def check_portfolio_risk(
        self, proposed_positions: Mapping[str, float], current_portfolio: CurrentPortfolio
    ) -> tuple[bool, list[str]]:
        """Would these positions pass as they are? With every reason why not: orders first, then the book.

        proposed_positions: signed weights by symbol, 0 where left out. `ValueError` for an unknown symbol.
        """
        proposal = current_portfolio.proposal(proposed_positions, self.universe, self._index)
        reasons = []
        bits = self.order_failures(proposal)[0]
        for symbol, found in zip(self.universe.symbols, bits.tolist(), strict=True):
            reasons += [f"{symbol}: {FAILURE_TEXT[failure]}" for failure in pretrade.Failure(found)]
        weights = np.where(proposal.tradable, proposal.proposed, proposal.current)
        for symbol, weight in zip(self.universe.symbols, np.abs(weights[0]).tolist(), strict=True):
            if weight > self.limits["position"] * (1 + TOLERANCE):
                reasons.append(f"{symbol}: |weight| {weight:.4g} exceeds {self.limits['position']:.4g} (concentration)")
        measured = self._measure(weights, proposal.covariance, proposal.correlation)
        self._require_finite(measured)
        values = {name: value[0] for name, value in self.measure(proposal).items()}
        for domain, gross in zip(self.universe.domains, values.pop("sector_gross"), strict=True):
            if gross > self.limits["sector_gross"] * (1 + TOLERANCE):
                reasons.append(f"{domain.name}: gross {gross:.4g} exceeds {self.limits['sector_gross']:.4g} (sector)")
        if not self._too_correlated(measured)[0]:
            values.pop("correlation")
        for name, value in values.items():
            if value > self.limits[name] * (1 + TOLERANCE):
                reasons.append(f"{name} {value:.4g} exceeds {self.limits[name]:.4g}")
        for custom in self.rules:
            value = float(custom.measure(weights, proposal)[0])
            if not value <= _trigger(custom.limit):
                reasons.append(f"{custom.name} {value:.4g} exceeds {custom.limit:.4g}")
        return not reasons, reasons

    def scale_down_to_risk_limit(
        self, proposed_positions: Mapping[str, float], current_portfolio: CurrentPortfolio
    ) -> dict[str, float]:
        """The executed weights by symbol: `repair` for one book."""
        proposal = current_portfolio.proposal(proposed_positions, self.universe, self._index)
        executed = self.repair(proposal).executed[0]
        return dict(zip(self.universe.symbols, executed.tolist(), strict=True))

    def order_failures(self, proposal: Proposal) -> np.ndarray:
        """All that is wrong with each order, as `pretrade.Failure` bits, int64 (B, n)."""
        return pretrade.failures(
            proposal.proposed,
            proposal.current,
            proposal.equity,
            tradable=proposal.tradable,
            price_band_ok=proposal.price_band_ok,
            opening_allowed=proposal.opening_allowed,
            no_long=self._no_long,
            no_short=self._no_short,
            max_order_ccy=self._max_order_ccy,
            margin_per_notional=self._margin,
        )

    # ------------------------------------------------------------------------------------- orders: bounds on one leg

    def _limit_orders(
        self, proposal: Proposal, weights: np.ndarray, rule: np.ndarray, fixed: np.ndarray | None
    ) -> None:
        """Restrictions, price band, refused openings, ADV and capital, each as a bound on the increasing leg."""
        if self._any_restricted:
            banned = ((weights > 0) & self._no_long) | ((weights < 0) & self._no_short)
            self._bound(weights, rule, proposal, banned, fixed, RuleId.RESTRICTION)
        if proposal.price_band_ok is not None and not proposal.price_band_ok.all():
            self._bound(weights, rule, proposal, ~proposal.price_band_ok, fixed, RuleId.PRICE_BAND)
        if proposal.opening_allowed is not None and not proposal.opening_allowed.all():
            self._bound(weights, rule, proposal, ~proposal.opening_allowed, fixed, RuleId.OPENING)

        equity = proposal.equity
        absolute = np.abs(weights)
        largest = float(absolute.max())
        if not math.isfinite(largest):
            raise RiskInputError("a proposed weight is not a finite number")
        solvent = equity.min() > 0
        # The largest position of the batch in the richest account: usually far below the thinnest market's limit.
        if largest * equity.max() > self._smallest_max_order_ccy:
            with np.errstate(divide="ignore"):
                cap = self._max_order_ccy / np.maximum(equity, 0.0)[:, None]
            self._bound(weights, rule, proposal, absolute > cap, fixed, RuleId.ADV, cap)
        # An order can lack margin only where the whole proposal does.
        margin = absolute @ self._margin
        if not solvent or margin.max() > 1.0:
            rows = np.flatnonzero((margin > 1.0) | (equity <= 0))
            room = pretrade.margin_room(weights[rows], proposal.current[rows], equity[rows], self._margin)
            allowed = np.full(weights.shape, np.inf)
            allowed[rows] = room[:, None] / self._margin
            self._bound(weights, rule, proposal, absolute > allowed, fixed, RuleId.CAPITAL, allowed)

    @staticmethod
    def _bound(
        weights: np.ndarray,
        rule: np.ndarray,
        proposal: Proposal,
        where: np.ndarray,
        fixed: np.ndarray | None,
        rule_id: RuleId,
        addable: np.ndarray | None = None,
    ) -> None:
        """|weight| <= held + addable where `where`, bool (B, n); nothing may be added when `addable` is None."""
        if fixed is not None:
            where = where & ~fixed
        at = np.nonzero(where)
        if not len(at[0]):
            return
        before = weights[at]
        most = pretrade.held(before, proposal.current[at])
        if addable is not None:
            most = most + addable[at]
        after = np.clip(before, -most, most)
        weights[at] = after
        rule[at] = np.where(after != before, rule_id, rule[at])

    # -------------------------------------------------------------------------------------------- books: the chain

    def _run_rules(
        self, proposal: Proposal, weights: np.ndarray, rule: np.ndarray, fixed: np.ndarray | None
    ) -> _Measures:
        """Everything from concentration to custom rules, once, on `weights` and `rule` in place."""
        absolute = np.abs(weights)
        position_limit = self.limits["position"]
        if absolute.max() > position_limit:
            over = absolute > position_limit
            if fixed is not None:
                over &= ~fixed
            weights[over] = np.copysign(position_limit, weights[over])
            rule[over] = RuleId.CONCENTRATION
            np.abs(weights, out=absolute)

        n_domains = self.universe.n_domains
        over_load = absolute @ self._loads > self._load_triggers
        if over_load.any():
            rows = np.flatnonzero(over_load[:, :n_domains].any(axis=1))
            if len(rows):
                self._repair_sectors(weights, rule, fixed, rows)

        measures = self._measure(weights, proposal.covariance, proposal.correlation)
        self._require_finite(measures)

        rows = np.flatnonzero(self._too_correlated(measures))
        if len(rows):
            self._repair_correlation(proposal, weights, rule, fixed, rows)
            self._remeasure(proposal, weights, measures, rows)

        too_risky = measures.variance > self._variance_limit * (1 + 2 * TOLERANCE)
        over_total = measures.loads[:, n_domains:] > self._load_triggers[n_domains:]
        if over_total.any():
            too_risky |= over_total.any(axis=1)
        rows = np.flatnonzero(too_risky)
        if len(rows):
            self._repair_total(proposal, weights, rule, fixed, rows, measures)
            self._remeasure(proposal, weights, measures, rows)

        rows = self._apply_breakers(proposal, weights, rule, fixed, measures)
        if len(rows):
            self._remeasure(proposal, weights, measures, rows)
        if self.rules:
            self._apply_custom_rules(proposal, weights, rule, fixed)
            measures = self._measure(weights, proposal.covariance, proposal.correlation)
        return measures

    def _repair_sectors(
        self, weights: np.ndarray, rule: np.ndarray, fixed: np.ndarray | None, rows: np.ndarray
    ) -> None:
        """Each domain above its limit shrinks by one factor."""
        n_domains = self.universe.n_domains
        book = weights[rows]
        absolute = np.abs(book)
        if fixed is None:
            free = absolute @ self._loads[:, :n_domains]
            standing: np.ndarray | float = 0.0
        else:
            free = (absolute * ~fixed[rows]) @ self._loads[:, :n_domains]
            standing = (absolute * fixed[rows]) @ self._loads[:, :n_domains]
        limit = self.limits["sector_gross"]
        factor = shrink_to_limit(free, standing, limit)
        # Slack of rounding is no breach: a repaired book must come out bit by bit the same.
        factor[free + standing <= limit * (1 + TOLERANCE)] = 1.0
        self._scale(weights, rule, fixed, rows, factor.take(self._domain_of, axis=1), RuleId.SECTOR)

    def _repair_correlation(
        self, proposal: Proposal, weights: np.ndarray, rule: np.ndarray, fixed: np.ndarray | None, rows: np.ndarray
    ) -> None:
        factors = diversifying_factors(
            weights[rows],
            self._index.hollow_matrices(proposal.correlation[rows]),
            None if fixed is None else ~fixed[rows],
            self.limits["correlation"],
            self.gross_floor,
            self.config.correlation_rounds,
            TOLERANCE,
        )
        self._scale(weights, rule, fixed, rows, factors, RuleId.CORRELATION)

    def _repair_total(
        self,
        proposal: Proposal,
        weights: np.ndarray,
        rule: np.ndarray,
        fixed: np.ndarray | None,
        rows: np.ndarray,
        measures: _Measures,
    ) -> None:
        """One factor on all tradable positions for VaR, total gross and margin."""
        n_domains = self.universe.n_domains
        gross, margin = measures.loads[rows, n_domains], measures.loads[rows, n_domains + 1]
        variance = measures.variance[rows]
        limits = self._load_limits[n_domains:]
        if fixed is None:
            zeros = np.zeros_like(gross)
            by_gross = shrink_to_limit(gross, zeros, limits[0])
            by_margin = shrink_to_limit(margin, zeros, limits[1])
            by_var = np.sqrt(shrink_to_limit(variance, zeros, self._variance_limit))
        else:
            book, moves = weights[rows], ~fixed[rows]
            free = book * moves
            free_loads = np.abs(free) @ self._loads[:, n_domains:]
            by_gross = shrink_to_limit(free_loads[:, 0], gross - free_loads[:, 0], limits[0])
            by_margin = shrink_to_limit(free_loads[:, 1], margin - free_loads[:, 1], limits[1])
            by_var = self._variance_factor(free, book - free, proposal.covariance[rows], variance)
        # A measure within rounding of its limit asks for nothing.
        by_gross[gross <= limits[0] * (1 + TOLERANCE)] = 1.0
        by_margin[margin <= limits[1] * (1 + TOLERANCE)] = 1.0
        by_var[variance <= self._variance_limit * (1 + 2 * TOLERANCE)] = 1.0
        factor = np.minimum(np.minimum(by_gross, by_margin), by_var)
        binding = np.where(factor == by_var, RuleId.VAR, np.where(factor == by_gross, RuleId.GROSS, RuleId.MARGIN))
        factors = np.broadcast_to(factor[:, None], (len(rows), weights.shape[1]))
        self._scale(weights, rule, fixed, rows, factors, binding[:, None])

    def _variance_factor(
        self, free: np.ndarray, standing: np.ndarray, covariance: np.ndarray, variance: np.ndarray
    ) -> np.ndarray:
        """Largest factor on `free` that keeps the variance of free + standing within the limit; else its minimiser.

        The variance is a convex quadratic a x^2 + 2 b x + c in the factor x; (R, n), (R, n), (R, 36), (R,) -> (R,).
        """
        matrix = self._index.matrices(covariance)
        marginal = np.matvec(matrix, free)
        a = (free * marginal).sum(axis=1)
        b = (standing * marginal).sum(axis=1)
        c = variance - a - 2 * b
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = c - self._variance_limit
            root = np.sqrt(b * b - a * excess)
            # The stable form of (-b + root) / a.
            largest = np.where(b <= 0, (root - b) / a, -excess / (root + b))
            feasible = (largest >= 0) & (largest <= 1)
            minimiser = np.clip(-b / a, 0.0, 1.0)
        minimiser[~np.isfinite(minimiser)] = 1.0
        # Rounding may move a book that is at its minimum already: leave it.
        minimiser[np.abs(minimiser - 1.0) < TOLERANCE] = 1.0
        return np.where(feasible, largest, minimiser)

    def _apply_breakers(
        self,
        proposal: Proposal,
        weights: np.ndarray,
        rule: np.ndarray,
        fixed: np.ndarray | None,
        measures: _Measures,
    ) -> np.ndarray:
        """Caps, no increases, flattening, and closing by component VaR. Rows changed, whose measures are stale."""
        touched = np.zeros(len(weights), dtype=bool)
        if proposal.cap_abs is not None:
            over = np.abs(weights) > proposal.cap_abs
            if fixed is not None:
                over &= ~fixed
            if over.any():
                weights[over] = np.copysign(proposal.cap_abs[over], weights[over])
                rule[over] = RuleId.BREAKER
                touched |= over.any(axis=1)
        if proposal.no_increase is not None and proposal.no_increase.any():
            where = np.broadcast_to(proposal.no_increase[:, None], weights.shape)
            self._bound(weights, rule, proposal, where, fixed, RuleId.BREAKER)
            touched |= proposal.no_increase
        if proposal.flatten is not None and proposal.flatten.any():
            close = proposal.flatten[:, None] & (weights != 0)
            if fixed is not None:
                close &= ~fixed
            weights[close] = 0.0
            rule[close] = RuleId.BREAKER
            touched |= proposal.flatten
        scale = proposal.var_limit_scale
        if scale is not None:
            rows = np.flatnonzero(scale < 1)
            if len(rows):
                self._close_riskiest(proposal, weights, rule, fixed, rows)
                touched[rows] = True
        return np.flatnonzero(touched)

    def _close_riskiest(
        self, proposal: Proposal, weights: np.ndarray, rule: np.ndarray, fixed: np.ndarray | None, rows: np.ndarray
    ) -> None:
        """Close whole positions, largest component VaR first, until VaR is within its scaled limit."""
        assert proposal.var_limit_scale is not None
        limit = self._variance_limit * proposal.var_limit_scale[rows] ** 2 * (1 + 2 * TOLERANCE)
        matrix = self._index.matrices(proposal.covariance[rows])
        for _ in range(weights.shape[1]):
            book = weights[rows]
            component = book * np.matvec(matrix, book)
            # A position with a negative component is a hedge: closing it would add risk.
            closable = component > 0 if fixed is None else (component > 0) & ~fixed[rows]
            failing = (component.sum(axis=1) > limit) & closable.any(axis=1)
            if not failing.any():
                return
            worst = np.where(closable, component, -np.inf).argmax(axis=1)
            weights[rows[failing], worst[failing]] = 0.0
            rule[rows[failing], worst[failing]] = RuleId.BREAKER

    def _apply_custom_rules(
        self, proposal: Proposal, weights: np.ndarray, rule: np.ndarray, fixed: np.ndarray | None
    ) -> None:
        for number, custom in enumerate(self.rules):
            rows = np.flatnonzero(~(custom.measure(weights, proposal) <= _trigger(custom.limit)))
            if len(rows):
                factors = np.clip(custom.repair(weights[rows], proposal.rows(rows)), 0.0, 1.0)
                self._scale(weights, rule, fixed, rows, factors, RuleId.CUSTOM + number)

    @staticmethod
    def _scale(
        weights: np.ndarray,
        rule: np.ndarray,
        fixed: np.ndarray | None,
        rows: np.ndarray,
        factors: np.ndarray,
        rule_id: int | np.ndarray,
    ) -> None:
        """Multiply the tradable weights of `rows` by factors (R, n) and note the rule where one is below 1."""
        shrunk = factors < 1
        if fixed is not None:
            shrunk &= ~fixed[rows]
        weights[rows] *= np.where(shrunk, factors, 1.0)
        rule[rows] = np.where(shrunk, rule_id, rule[rows])

    # --------------------------------------------------------------------------------------- what remains: sweeps

    def _sweep(self, proposal: Proposal, all_weights: np.ndarray, all_rule: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Run the rules again over the books that still fail, then shrink them uniformly. True where that fails too.

        proposal: of these rows only; all_weights, all_rule: of the whole batch, written in place.
        """
        weights, rule = all_weights[rows], all_rule[rows]
        fixed = None if proposal.tradable.all() else ~proposal.tradable
        failing = np.ones(len(rows), dtype=bool)
        settled = np.zeros(len(rows), dtype=bool)
        for _ in range(self.config.custom_rule_sweeps):
            before, rule_before = weights.copy(), rule.copy()
            measures = self._run_rules(proposal, weights, rule, fixed)
            # A book that no rule can move any further keeps its breach: only untradable positions hold it there.
            settled = np.abs(weights - before).max(axis=1) <= TOLERANCE
            weights[settled], rule[settled] = before[settled], rule_before[settled]
            failing = self._failing(proposal, weights, fixed, measures)
            if not (failing & ~settled).any():
                break
        if fixed is not None and not self.rules:
            stuck = np.flatnonzero(failing & ~(settled & fixed.any(axis=1)))
        else:
            stuck = np.flatnonzero(failing)
        if len(stuck):
            failing[stuck] = self._shrink_until_all_pass(
                proposal.rows(stuck), weights, rule, fixed, stuck, keep=settled[stuck]
            )
        all_weights[rows], all_rule[rows] = weights, rule
        return failing

    def _shrink_until_all_pass(
        self,
        proposal: Proposal,
        all_weights: np.ndarray,
        all_rule: np.ndarray,
        all_fixed: np.ndarray | None,
        rows: np.ndarray,
        keep: np.ndarray,
    ) -> np.ndarray:
        """Largest uniform factor on tradable positions under which every rule passes.

        Where none is found, 0; or, for books that the rules leave as they are (`keep`, bool (R,)), 1. True where a
        breach is left.
        """
        book, moves = all_weights[rows], proposal.tradable
        fixed = None if all_fixed is None else all_fixed[rows]
        standing = np.where(moves, 0.0, book)
        free = book - standing
        passes, fails = np.zeros(len(rows)), np.ones(len(rows))
        for _ in range(_BISECTIONS):
            middle = (passes + fails) / 2
            trial = standing + free * middle[:, None]
            measures = self._measure(trial, proposal.covariance, proposal.correlation)
            bad = self._failing(proposal, trial, fixed, measures)
            fails = np.where(bad, middle, fails)
            passes = np.where(bad, passes, middle)
        final = standing + free * passes[:, None]
        measures = self._measure(final, proposal.covariance, proposal.correlation)
        failing = self._failing(proposal, final, fixed, measures)
        final[failing & keep] = book[failing & keep]
        all_weights[rows] = final
        all_rule[rows] = np.where(final != book, RuleId.JOINT, all_rule[rows])
        return failing

    # ---------------------------------------------------------------------------------------------------- measures

    def _measure(self, weights: np.ndarray, covariance: np.ndarray, correlation: np.ndarray) -> _Measures:
        """Measures of books (R, n)."""
        n_rows, n = weights.shape
        if n_rows > len(self._scratch[0]):
            self._scratch = self._new_scratch(n_rows)
        doubled, pairs, second, off = (buffer[:n_rows] for buffer in self._scratch)
        index = self._index
        loads = np.abs(weights) @ self._loads
        doubled[:, :n] = weights
        np.multiply(weights, 2.0, out=doubled[:, n:])
        # The modes only switch off numpy's buffering for bounds checks: the indices are ours.
        weights.take(index.first, axis=1, out=pairs, mode="clip")
        doubled.take(index.doubled, axis=1, out=second, mode="clip")
        np.multiply(pairs, second, out=pairs)
        pairs.take(index.off, axis=1, out=off, mode="clip")
        gross = loads[:, self.universe.n_domains]
        return _Measures(
            loads=loads,
            pair_sum=np.vecdot(off, correlation),
            pair_gross=gross * gross - np.vecdot(weights, weights),
            variance=np.vecdot(pairs, covariance),
        )

    def _named(self, measures: _Measures) -> dict[str, np.ndarray]:
        n_domains = self.universe.n_domains
        return {
            "var": self._z * np.sqrt(np.maximum(measures.variance, 0.0)),
            "correlation": ratio(measures.pair_sum, measures.pair_gross),
            "sector_gross": measures.loads[:, :n_domains],
            "gross": measures.loads[:, n_domains],
            "margin": measures.loads[:, n_domains + 1],
        }

    def _remeasure(self, proposal: Proposal, weights: np.ndarray, measures: _Measures, rows: np.ndarray) -> None:
        """Update `measures` at `rows`."""
        some = self._measure(weights[rows], proposal.covariance[rows], proposal.correlation[rows])
        measures.loads[rows] = some.loads
        measures.pair_sum[rows] = some.pair_sum
        measures.pair_gross[rows] = some.pair_gross
        measures.variance[rows] = some.variance

    def _too_correlated(self, measures: _Measures) -> np.ndarray:
        # Rounding in the difference of two squares is relative to gross squared.
        gross = measures.loads[:, self.universe.n_domains]
        excess = measures.pair_sum - (self.limits["correlation"] + TOLERANCE) * measures.pair_gross
        return (excess > TOLERANCE * 1e-3 * gross * gross) & (gross > self.gross_floor * (1 + TOLERANCE))

    def _failing(
        self, proposal: Proposal, weights: np.ndarray, fixed: np.ndarray | None, measures: _Measures
    ) -> np.ndarray:
        """bool (R,): some rule does not pass."""
        failing = self._too_correlated(measures)
        failing |= measures.variance > self._variance_limit * (1 + 2 * TOLERANCE)
        over_load = measures.loads > self._load_triggers
        if over_load.any():
            failing |= over_load.any(axis=1)
        if fixed is not None:
            failing |= (np.abs(weights) > self.limits["position"]).any(axis=1)
            if proposal.cap_abs is not None:
                failing |= (np.abs(weights) > proposal.cap_abs).any(axis=1)
            if proposal.flatten is not None:
                failing |= proposal.flatten & (weights != 0).any(axis=1)
        if proposal.var_limit_scale is not None:
            scaled = self._variance_limit * proposal.var_limit_scale**2
            failing |= measures.variance > scaled * (1 + 2 * TOLERANCE)
        for custom in self.rules:
            failing |= ~(custom.measure(weights, proposal) <= _trigger(custom.limit))
        return failing

    @staticmethod
    def _require_finite(measures: _Measures) -> None:
        total = float(measures.variance.sum()) + float(measures.pair_sum.sum())
        if not math.isfinite(total):
            finite = np.isfinite(measures.variance) & np.isfinite(measures.pair_sum)
            raise RiskInputError(
                f"environment {int(np.flatnonzero(~finite)[0])}: a weight, covariance or correlation is not a finite "
                "number; decide only after the features' warm-up, and mask what has no price"
            )

    def _new_scratch(self, capacity: int) -> tuple[np.ndarray, ...]:
        n, n_pairs = self._index.n, len(self._index.first)
        widths = (2 * n, n_pairs, n_pairs, n_pairs - n)
        return tuple(np.empty((capacity, width)) for width in widths)

    def _new_decision(self, n_envs: int) -> RiskDecision:
        n = self.universe.n_instruments
        return RiskDecision(
            executed=np.empty((n_envs, n)),
            factor=np.empty((n_envs, n)),
            rule=np.empty((n_envs, n), dtype=np.int8),
            unrepairable=np.empty(n_envs, dtype=bool),
            limits=self.limits,
        )

    # --------------------------------------------------------------------------------------------------- the record

    def _edits(self, proposal: Proposal, decision: RiskDecision, env: int) -> list[RiskEdit]:
        changed = np.flatnonzero(decision.rule[env])
        if not len(changed):
            return []
        one = proposal.rows(np.array([env]))
        measured = {name: values[0] for name, values in self.measure(one).items()}
        size = pretrade.increase(one.proposed[0], one.current[0])
        room = pretrade.margin_room(one.proposed, one.current, one.equity, self._margin)[0]
        edits = []
        for i in changed.tolist():
            rule_id = int(decision.rule[env, i])
            weight = abs(float(one.proposed[0, i]))
            measure, limit = math.nan, math.nan
            if rule_id >= RuleId.CUSTOM:
                custom = self.rules[rule_id - RuleId.CUSTOM]
                measure, limit = float(custom.measure(one.proposed, one)[0]), custom.limit
            elif rule_id == RuleId.ADV:
                measure, limit = float(size[i] * one.equity[0]), float(self._max_order_ccy[i])
            elif rule_id == RuleId.CAPITAL:
                measure, limit = float(size[i] * self._margin[i]), float(room)
            elif rule_id == RuleId.CONCENTRATION:
                measure, limit = weight, self.limits["position"]
            elif rule_id == RuleId.SECTOR:
                measure, limit = float(measured["sector_gross"][self._domain_of[i]]), self.limits["sector_gross"]
            elif rule_id in (RuleId.CORRELATION, RuleId.VAR, RuleId.GROSS, RuleId.MARGIN):
                name = RuleId(rule_id).name.lower()
                measure, limit = float(measured[name]), self.limits[name]
            elif rule_id == RuleId.BREAKER:
                measure, limit = weight, abs(float(decision.executed[env, i]))
            edits.append(
                RiskEdit(
                    instrument=self.universe.symbols[i],
                    proposed=float(one.proposed[0, i]),
                    executed=float(decision.executed[env, i]),
                    rule=self.rule_name(rule_id),
                    measure=measure,
                    limit=limit,
                )
            )
        return edits


def _trigger(limit: float) -> float:
    """Measure above which a custom rule counts as broken."""
    return limit + TOLERANCE * max(1.0, abs(limit))
