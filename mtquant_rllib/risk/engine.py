"""The portfolio risk manager: from proposed to executed weights, for B desks at once.

Repair only ever shrinks: executed_i = lambda_i * proposed_i with lambda_i in [0, 1] for each tradable instrument. So
no position changes sign, gross never grows, a move toward zero is never blocked, and repairing twice is repairing once.
`chain` holds the rules and their order; here they are run once over the batch, and again over what breakers, custom
rules or untradable positions have broken: at most a few sweeps, then uniform shrinking until all rules pass together.

The common case, a book that passes, costs two gathers, a product and a few comparisons over the batch; repairs run
only on the environments in breach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtquant_rllib.config.sections.agents import PortfolioRiskConfig
from mtquant_rllib.config.sections.instruments import InstrumentConfig
from mtquant_rllib.config.sections.risk import RiskConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.risk import pretrade
from mtquant_rllib.risk.custom_rules import custom_rules
from mtquant_rllib.risk.repair.batch import RepairBatch
from mtquant_rllib.risk.repair.chain import RuleChain, trigger
from mtquant_rllib.risk.repair.measures import TOLERANCE
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.rules import Proposal, RiskEdit, Rule, RuleId
from mtquant_rllib.risk.single_book import FAILURE_TEXT, CurrentPortfolio
from mtquant_rllib.short_rows import row_any, row_max
from mtquant_rllib.universe import Universe

_BISECTIONS = 50


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
        self.universe = universe
        self.limits = (chain := RuleChain(universe, instruments, limits, config)).limits
        self._chain = chain
        self._max_sweeps = config.max_sweeps
        for rule in rules:
            self.add_rule(rule)

    @classmethod
    def from_settings(cls, settings: Settings, rules: Sequence[Rule] = ()) -> PortfolioRiskManager:
        """With the rules that the settings name, and after them `rules`."""
        own = [*custom_rules(settings.risk.rules), *rules]
        return cls(settings.universe, settings.instruments, settings.portfolio_risk, settings.risk, own)

    @property
    def rules(self) -> Sequence[Rule]:
        """Custom rules in the order they run."""
        return tuple(self._chain.custom)

    @property
    def index(self) -> PackedIndex:
        """How covariances and correlations are packed."""
        return self._chain.measurer.index

    def add_rule(self, rule: Rule) -> None:
        """Register a custom rule; it runs after those registered before it."""
        if any(known.name == rule.name for known in self.rules):
            raise ValueError(f"a rule named {rule.name!r} is registered already")
        self._chain.custom.append(rule)

    def rule_name(self, rule_id: int) -> str:
        """`var`, `sector`, ... or the name of a custom rule."""
        if rule_id >= RuleId.CUSTOM:
            return self.rules[rule_id - RuleId.CUSTOM].name
        return RuleId(rule_id).name.lower()

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
        proposed, chain = proposal.proposed, self._chain
        decision = out if out is not None else self._new_decision(*proposed.shape)
        batch = RepairBatch(proposal, decision.executed, decision.rule, None)
        np.copyto(batch.weights, proposed)
        batch.rule.fill(RuleId.NONE)
        if not proposal.tradable.all():
            batch.fixed = ~proposal.tradable
            np.copyto(batch.weights, proposal.current, where=batch.fixed)
            batch.rule[batch.fixed] = RuleId.UNTRADABLE

        chain.limit_orders(batch)
        measures = chain.run(batch)
        failing = chain.failing(batch, measures)
        if failing.any():
            rows = np.flatnonzero(failing)
            some = batch.select(rows)
            failing[rows] = self._sweep(some)
            batch.weights[rows], batch.rule[rows] = some.weights, some.rule
            chain.measurer.update(measures, batch.weights, proposal, rows)

        np.copyto(decision.unrepairable, failing)
        changed = batch.weights != proposed
        decision.rule *= changed
        decision.factor.fill(1.0)
        if batch.fixed is not None:
            changed &= proposal.tradable
        if changed.any():
            np.divide(batch.weights, proposed, out=decision.factor, where=changed)
        decision.measures = chain.measurer.named(measures)
        decision._explain = lambda env: self._edits(proposal, decision, env)
        return decision

    def measure(self, proposal: Proposal) -> dict[str, np.ndarray]:
        """The measures of `RiskDecision` for the books as proposed, untradable instruments at their current weight."""
        weights = np.where(proposal.tradable, proposal.proposed, proposal.current)
        measurer = self._chain.measurer
        return measurer.named(measurer.measure(weights, proposal))

    def expected_shortfall(self, proposal: Proposal) -> np.ndarray:
        """Mean loss beyond VaR, by the VaR's method and over its horizon, of the books as proposed, untradable
        instruments at their current weight; (B,), positive fractions of equity."""
        weights = np.where(proposal.tradable, proposal.proposed, proposal.current)
        return self._chain.measurer.shortfall(weights, proposal)

    def _sweep(self, batch: RepairBatch) -> np.ndarray:
        """Run the rules again over books that fail, then shrink them uniformly, in place. True where that fails too."""
        chain = self._chain
        failing = settled = np.zeros(len(batch.weights), dtype=bool)
        for _ in range(self._max_sweeps):
            weights, rule = batch.weights.copy(), batch.rule.copy()
            measures = chain.run(batch)
            # A book that no rule moves any further is left exactly as it was: repairing twice is repairing once.
            settled = row_max(np.abs(batch.weights - weights)) <= TOLERANCE
            batch.weights[settled], batch.rule[settled] = weights[settled], rule[settled]
            failing = chain.failing(batch, measures)
            if not (failing & ~settled).any():
                break
        stuck = failing
        if batch.fixed is not None and not self.rules:
            # The built-in repairs rest only on a breach that untradable positions hold: no factor would lift it.
            stuck = failing & ~(settled & row_any(batch.fixed))
        if stuck.any():
            rows = np.flatnonzero(stuck)
            some = batch.select(rows)
            failing[rows] = self._shrink_until_all_pass(some, keep=settled[rows])
            batch.weights[rows], batch.rule[rows] = some.weights, some.rule
        return failing

    def _shrink_until_all_pass(self, batch: RepairBatch, keep: np.ndarray) -> np.ndarray:
        """Largest uniform factor on tradable positions under which every rule passes, in place.

        Where none is found, 0; or, for books that the rules leave as they are (`keep`, bool (R,)), 1. True where a
        breach is left.
        """
        chain, proposal = self._chain, batch.proposal
        original = batch.weights.copy()
        remaining = np.where(proposal.tradable, 0.0, original)
        free = original - remaining
        passes, fails = np.zeros(len(original)), np.ones(len(original))

        def still_failing(factor: np.ndarray) -> np.ndarray:
            batch.weights[:] = remaining + free * factor[:, None]
            measures = chain.measurer.measure(batch.weights, proposal)
            return chain.failing(batch, measures)

        for _ in range(_BISECTIONS):
            middle = (passes + fails) / 2
            bad = still_failing(middle)
            fails = np.where(bad, middle, fails)
            passes = np.where(bad, passes, middle)
        failing = still_failing(passes)
        batch.weights[failing & keep] = original[failing & keep]
        batch.rule[batch.weights != original] = RuleId.JOINT
        return failing

    def _new_decision(self, n_envs: int, n: int) -> RiskDecision:
        return RiskDecision(
            executed=np.empty((n_envs, n)),
            factor=np.empty((n_envs, n)),
            rule=np.empty((n_envs, n), dtype=np.int8),
            unrepairable=np.empty(n_envs, dtype=bool),
            limits=self.limits,
        )

    def check_portfolio_risk(
        self, proposed_positions: Mapping[str, float], current_portfolio: CurrentPortfolio
    ) -> tuple[bool, list[str]]:
        """Would these positions pass as they are? With every reason why not: orders first, then the book.

        proposed_positions: signed weights by symbol, 0 where left out. `ValueError` for an unknown symbol.
        """
        proposal = current_portfolio.proposal(proposed_positions, self.universe, self._chain.measurer.index)
        chain, reasons = self._chain, []
        bits = self.order_failures(proposal)[0]
        for symbol, found in zip(self.universe.symbols, bits.tolist(), strict=True):
            reasons += [f"{symbol}: {FAILURE_TEXT[failure]}" for failure in pretrade.Failure(found)]
        weights = np.where(proposal.tradable, proposal.proposed, proposal.current)
        for symbol, weight in zip(self.universe.symbols, np.abs(weights[0]).tolist(), strict=True):
            if weight > self.limits["position"]:
                reasons.append(f"{symbol}: |weight| {weight:.4g} exceeds {self.limits['position']:.4g} (concentration)")
        measures = chain.measurer.measure(weights, proposal)
        measures.require_finite()
        values = {name: value[0] for name, value in chain.measurer.named(measures).items()}
        for domain, gross in zip(self.universe.domains, values.pop("sector_gross"), strict=True):
            if gross > self.limits["sector_gross"] * (1 + TOLERANCE):
                reasons.append(f"{domain.name}: gross {gross:.4g} exceeds {self.limits['sector_gross']:.4g} (sector)")
        if not chain.too_correlated(measures)[0]:
            values.pop("correlation")
        for name, value in values.items():
            if value > self.limits[name] * (1 + TOLERANCE):
                reasons.append(f"{name} {value:.4g} exceeds {self.limits[name]:.4g}")
        for custom in self.rules:
            value = float(custom.measure(weights, proposal)[0])
            if not value <= trigger(custom.limit):
                reasons.append(f"{custom.name} {value:.4g} exceeds {custom.limit:.4g}")
        return not reasons, reasons

    def scale_down_to_risk_limit(
        self, proposed_positions: Mapping[str, float], current_portfolio: CurrentPortfolio
    ) -> dict[str, float]:
        """The executed weights by symbol: `repair` for one book."""
        proposal = current_portfolio.proposal(proposed_positions, self.universe, self._chain.measurer.index)
        executed = self.repair(proposal).executed[0]
        return dict(zip(self.universe.symbols, executed.tolist(), strict=True))

    def order_failures(self, proposal: Proposal) -> np.ndarray:
        """All that is wrong with each order, as `pretrade.Failure` bits, int64 (B, n)."""
        chain = self._chain
        return pretrade.failures(
            proposal.proposed,
            proposal.current,
            proposal.equity,
            tradable=proposal.tradable,
            price_band_ok=proposal.price_band_ok,
            opening_allowed=proposal.opening_allowed,
            no_long=chain.no_long,
            no_short=chain.no_short,
            max_order_ccy=chain.max_order_ccy,
            margin_per_notional=chain.margin_per_notional,
        )

    def _edits(self, proposal: Proposal, decision: RiskDecision, env: int) -> list[RiskEdit]:
        changed = np.flatnonzero(decision.rule[env])
        if not len(changed):
            return []
        one = proposal.rows(np.array([env]))
        measured = {name: values[0] for name, values in self.measure(one).items()}
        size = pretrade.increase(one.proposed[0], one.current[0])
        margin = self._chain.margin_per_notional
        room = pretrade.margin_room(one.proposed, one.current, one.equity, margin)[0]
        edits = []
        for i in changed.tolist():
            rule_id = int(decision.rule[env, i])
            weight = abs(float(one.proposed[0, i]))
            measure, limit = math.nan, math.nan
            if rule_id >= RuleId.CUSTOM:
                custom = self.rules[rule_id - RuleId.CUSTOM]
                measure, limit = float(custom.measure(one.proposed, one)[0]), custom.limit
            elif rule_id == RuleId.ADV:
                measure, limit = float(size[i] * one.equity[0]), float(self._chain.max_order_ccy[i])
            elif rule_id == RuleId.CAPITAL:
                measure, limit = float(size[i] * margin[i]), float(room)
            elif rule_id == RuleId.CONCENTRATION:
                measure, limit = weight, self.limits["position"]
            elif rule_id == RuleId.SECTOR:
                measure, limit = (
                    float(measured["sector_gross"][self.universe.domain_of[i]]),
                    self.limits["sector_gross"],
                )
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
