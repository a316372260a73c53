"""`Overseer`: the risk manager's place in the desk. It owns breakers and the record of edits; the rules own the
arithmetic.

Asked at the close of a bar, it limits what is proposed; at the next open, where not everything can fill as ordered,
it limits what would fill. Positions come in whole lots, so what it lets through is checked as whole lots: a hedge
that loses its fraction of a lot can take a book over its limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.risk.alerts import alerts
from mtquant_rllib.risk.breakers import Breakers
from mtquant_rllib.risk.engine import PortfolioRiskManager, RiskDecision
from mtquant_rllib.risk.limits import forced_close, margin_rates
from mtquant_rllib.risk.rules import Proposal, RiskEdit, Rule, RuleId

if TYPE_CHECKING:
    from mtquant_rllib.env.scene import Scene
    from mtquant_rllib.env.trading import Trading

__all__ = ["Overseer", "RiskEdit"]

_FINE_LOT = 0.05
"""Lots under this share of equity are fine: rounding moves a measure by a few per cent only."""
_LOT_MARGIN = 0.85
"""Share of a limit from which a book of fine lots is measured again after rounding."""
_LOT_EASING = 0.01
"""Share by which a book is made smaller than its limit asks for, where rounding has broken the limit."""


def _eased(executed: np.ndarray, proposal: Proposal, attempt: int) -> np.ndarray:
    """Repaired books (R, n) a little smaller, twice as much with each attempt: a repair aims at the limit itself, and
    whole lots would take the next hedge over it. In the end nothing is left. Books that pass stay, and so do untradable
    positions."""
    repaired = (executed != proposal.proposed).any(axis=1)
    left = max(1.0 - _LOT_EASING * 2**attempt, 0.0)
    return np.where(repaired[:, None] & proposal.tradable, executed * left, executed)


class Overseer:
    """Risk for B environments. See `mtquant_rllib.env.core.Oversight` for when it is asked what.

    Attributes
    ----------
    decision
        Of the close: executed weights, factors, binding rules and measures of all environments.
    rule
        int8 (B, n): binding rule of the bar, the open's where the open changed something again.
    """

    def __init__(self, settings: Settings, n_envs: int, scene: Scene, rules: Sequence[Rule] = ()) -> None:
        self.manager = PortfolioRiskManager.from_settings(settings, rules)
        self._config = settings.risk
        self._resets_next_day = not scene.ends_on_halt and settings.desk.episode.breaker_reset == "next_day"
        self._margin_rates = margin_rates(settings.instruments)
        n = settings.universe.n_instruments
        self._start_equity = np.full(n_envs, settings.desk.account.start_equity_ccy)
        self.breakers = Breakers(settings.risk.breakers, self._start_equity, n)
        self.decision: RiskDecision | None = None
        self.rule = np.zeros((n_envs, n), dtype=np.int8)
        self.unrepairable = np.zeros(n_envs, dtype=bool)
        self._everything = np.ones((n_envs, n), dtype=bool)
        self._flat = np.ones(n_envs, dtype=bool)
        self._at_open: list[tuple[np.ndarray, RiskDecision]] = []

    def reset(self, envs: np.ndarray) -> None:
        mask = np.zeros(len(self.rule), dtype=bool)
        mask[envs] = True
        self.breakers.restart(mask, self._start_equity)
        self.rule[envs] = 0
        self._flat[envs] = True

    # -- the two limits -----------------------------------------------------------------------------------------------

    def limit_at_close(self, desk: Trading, proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Weights (B, n) of whole lots that may be ordered."""
        limits = self.breakers.limits()
        equity = desk.book.equity
        proposed = self._close_for_margin(desk, proposed, current)
        proposal = Proposal(
            proposed=proposed,
            current=current,
            tradable=self._everything,
            covariance=desk.covariance,
            correlation=desk.correlation,
            equity=equity,
            opening_allowed=None if (desk.close > 0).all() else desk.close > 0,
            cap_abs=limits.cap_abs,
            no_increase=limits.no_increase,
            flatten=limits.flatten,
            var_limit_scale=limits.var_limit_scale,
        )
        self.decision = decision = self.manager.repair(proposal)
        self._at_open = []
        np.copyto(self.rule, decision.rule)
        np.copyto(self.unrepairable, decision.unrepairable)
        return self._in_whole_lots(desk, proposal, decision)

    def limit_at_open(
        self,
        desk: Trading,
        envs: np.ndarray,
        wanted: np.ndarray,
        held: np.ndarray,
        fillable: np.ndarray,
        openable: np.ndarray,
        attempt: int,
    ) -> np.ndarray:
        """Weights of `envs` (R, n) that may fill; the open leg is refused where not `openable`, everything where not
        `fillable`."""
        limits = self.breakers.limits()

        def at(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[envs]

        proposal = Proposal(
            proposed=np.where(fillable, wanted, held),
            current=held,
            tradable=fillable,
            covariance=desk.covariance[envs],
            correlation=desk.correlation[envs],
            equity=desk.book.equity[envs],
            price_band_ok=openable | ~fillable,
            cap_abs=at(limits.cap_abs),
            no_increase=at(limits.no_increase),
            flatten=at(limits.flatten),
            var_limit_scale=at(limits.var_limit_scale),
        )
        decision = self.manager.repair(proposal)
        self._at_open.append((envs, decision))
        refused = ~fillable & (wanted != held)
        rule = np.where(refused, RuleId.UNTRADABLE, decision.rule)
        self.rule[envs] = np.where(rule != 0, rule, self.rule[envs])
        self.unrepairable[envs] |= decision.unrepairable
        return decision.executed if attempt == 0 else _eased(decision.executed, proposal, attempt - 1)

    def _in_whole_lots(self, desk: Trading, proposal: Proposal, decision: RiskDecision) -> np.ndarray:
        """The executed book cut to whole lots, and shrunk further where that took a hedge below what it hedged."""
        weights = desk.weight_of(desk.units_of(decision.executed))
        limits = self.manager.limits
        var_limit = limits["var"] if proposal.var_limit_scale is None else limits["var"] * proposal.var_limit_scale
        near = (decision.measures["var"] > _LOT_MARGIN * var_limit) | (
            decision.measures["correlation"] > _LOT_MARGIN * limits["correlation"]
        )
        coarse = (np.abs(desk.weight_of(desk.book.lot_units)) > _FINE_LOT).any(axis=1)
        rows = np.flatnonzero(near | coarse)
        for attempt in count():
            if not len(rows):
                break
            some = proposal.rows(rows)
            some.proposed = weights[rows]
            again = self.manager.repair(some)
            moved = (again.executed != some.proposed).any(axis=1)
            rows = rows[moved]
            eased = _eased(again.executed, some, attempt)[moved]
            weights[rows] = desk.weight_of(desk.units_of(eased, rows), rows)
            self.rule[rows] = np.where(self.rule[rows] == 0, again.rule[moved], self.rule[rows])
        return weights

    def _close_for_margin(self, desk: Trading, proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Force the largest margin user out where equity has fallen under its share of the used margin."""
        equity = desk.book.equity
        used = np.abs(current) @ self._margin_rates
        called = (self._config.margin_stop_out_frac * used > 1.0) & (equity > 0)
        if not called.any():
            return proposed
        proposed = proposed.copy()
        rows = np.flatnonzero(called)
        user = forced_close(
            current[rows] * equity[rows, None],
            equity[rows],
            self._margin_rates,
            self._config.margin_stop_out_frac,
            self._everything[rows],
        )
        proposed[rows, user] = 0.0
        return proposed

    # -- marks --------------------------------------------------------------------------------------------------------

    def begin_day(self, new_day: np.ndarray, equity: np.ndarray, flat: np.ndarray) -> None:
        """Start the day's loss from the equity after financing; lift a latch over a flat book where settings say so."""
        self.breakers.start_day(equity, new_day, flat if self._resets_next_day else None)

    def mark(self, equity: np.ndarray, weights: np.ndarray, playing: np.ndarray) -> np.ndarray:
        """Show a mark; bool (B,): a breaker fired."""
        return self.breakers.mark(equity, weights, playing) > 0

    def after_fills(self, tradable: np.ndarray, playing: np.ndarray, flat: np.ndarray) -> None:
        self.breakers.after_fills(tradable, playing)
        self._flat = flat

    # -- what it knows ------------------------------------------------------------------------------------------------

    def episode_is_over(self) -> np.ndarray:
        """Trading is halted and the book is flat, bool (B,)."""
        return (self.breakers.latched > 0) & self._flat

    def alert_level(self, desk: Trading) -> np.ndarray:
        """(B, n) in [0, 1]: an instrument's own alert, the desk's, or the breaker level."""
        book = desk.book
        entry = np.abs(book.entry)
        gain = np.sign(book.units) * (desk.close - book.entry) / np.where(entry > 0, entry, 1.0)
        day_return = -self.breakers.day_loss(book.equity)
        shift = desk.features.correlation_shift[desk.row]
        standing = alerts(gain, day_return, shift, self._config.alerts)
        return standing.level(self.breakers.level)

    def var_forecast(self) -> np.ndarray:
        """One-day VaR of the book ordered at the last close, (B,), fraction of equity."""
        assert self.decision is not None
        return self.decision.measures["var"]

    def edits(self, env: int) -> list[RiskEdit]:
        """What was changed in the last bar in one environment, the open's changes after the close's."""
        found = self.decision.edits(env) if self.decision is not None else []
        for envs, decision in self._at_open:
            at = np.flatnonzero(envs == env)
            if len(at):
                found = found + decision.edits(int(at[0]))
        return found
