"""`RiskLayer`: the risk manager between proposed and executed positions of B environments.

It owns the breakers and the record of edits; the rules own the arithmetic. At the close of a bar it limits the
proposal; at the next open, where not everything can fill as ordered, it limits the fills. Its results are whole lots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.prepared.rows import MarketRow
from mtquant_rllib.portfolio.book import Book, closing_leg
from mtquant_rllib.risk.alerts import alerts
from mtquant_rllib.risk.breakers import Breakers
from mtquant_rllib.risk.calibration import VarCalibration
from mtquant_rllib.risk.engine import PortfolioRiskManager, RiskDecision
from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.repair.limits import forced_close, margin_rates
from mtquant_rllib.risk.rules import Proposal, RiskEdit, Rule, RuleId
from mtquant_rllib.risk.whole_lots import ATTEMPTS, eased, in_whole_lots
from mtquant_rllib.short_rows import row_any


class RiskLayer:
    """The risk manager of B environments.

    Attributes
    ----------
    breakers
        Circuit breakers; they and `calibration` are the layer's state.
    calibration
        Of the VaR forecast, where `risk.var_calibration` is enabled; else None.
    decision
        Of the last close: executed weights, factors, binding rules and measures of all environments.
    var
        VaR of the book ordered at the last close at the limit's horizon, (B,), fraction of equity; infinite before the
        first.
    rule
        int8 (B, n): binding rule of the bar, that of the open where it changed something; 0 where none was binding.
    unrepairable
        bool (B,): a breach remains that no reduction of tradable positions removes.
    """

    def __init__(self, settings: Settings, n_envs: int, setup: EpisodeSetup, rules: Sequence[Rule] = ()) -> None:
        self.manager = PortfolioRiskManager.from_settings(settings, rules)
        self._config = settings.risk
        self._horizon = np.sqrt(settings.risk.var_horizon_days)
        self.ends_episodes = setup.ends_on_halt
        self._resets_next_day = not setup.ends_on_halt and settings.desk.episode.breaker_reset == "next_day"
        self._margin_rates = margin_rates(settings.instruments)
        n = settings.universe.n_instruments
        self._start_equity = np.full(n_envs, settings.desk.account.start_equity_ccy)
        self.breakers = Breakers(settings.risk.breakers, self._start_equity, n)
        calibration = settings.risk.var_calibration
        confidence = settings.portfolio_risk.var_confidence
        self.calibration = VarCalibration(calibration, confidence, n_envs) if calibration.enabled else None
        self.decision: RiskDecision | None = None
        self.var = np.full(n_envs, np.inf)
        self.rule = np.zeros((n_envs, n), dtype=np.int8)
        self.unrepairable = np.zeros(n_envs, dtype=bool)
        self._everything = np.ones((n_envs, n), dtype=bool)
        self._at_open: list[tuple[np.ndarray, RiskDecision]] = []

    def reset(self, envs: np.ndarray) -> None:
        """Begin episodes in `envs` (indices): breakers are reset."""
        mask = np.zeros(len(self.rule), dtype=bool)
        mask[envs] = True
        self.breakers.restart(mask, self._start_equity)
        self.rule[envs] = 0
        if self.calibration is not None:
            self.calibration.restart(envs)

    # -- the two limits -----------------------------------------------------------------------------------------------

    def limit_at_close(self, book: Book, market: MarketRow, proposed: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Weights of whole lots that may be ordered. Takes proposed and held weights, all (B, n)."""
        limits = self.breakers.limits()
        covariance, past = self._calibrated(market)
        proposal = Proposal(
            proposed=self._close_for_margin(book.equity, proposed, held),
            current=held,
            tradable=self._everything,
            covariance=covariance,
            correlation=market.correlation,
            equity=book.equity,
            opening_allowed=None if (market.close > 0).all() else market.close > 0,
            cap_abs=limits.cap_abs,
            no_increase=limits.no_increase,
            flatten=limits.flatten,
            var_limit_scale=limits.var_limit_scale,
            past=past,
        )
        self.decision = decision = self.manager.repair(proposal)
        self._at_open = []
        np.copyto(self.unrepairable, decision.unrepairable)
        np.copyto(self.var, decision.measures["var"])
        if self.calibration is not None:
            self.calibration.at_close(book.equity, self.var_forecast())

        def to_lots(weights: np.ndarray, envs: np.ndarray | None) -> np.ndarray:
            return book.weights_of(book.units_for(weights, market.unit_value, envs), market.unit_value, envs)

        lot = book.weights_of(book.lot_units, market.unit_value)
        ordered, rule = in_whole_lots(self.manager, proposal, decision, to_lots, lot)
        np.copyto(self.rule, rule)
        return ordered

    def limit_at_open(
        self,
        book: Book,
        market: MarketRow,
        wanted: np.ndarray,
        unit_value: np.ndarray,
        fillable: np.ndarray,
        openable: np.ndarray,
        envs: np.ndarray,
    ) -> np.ndarray:
        """Units (B, n) that may fill, limited in the environments `envs` (R indices), in whole lots.

        The rules limit the fills, which can only reduce them, and then what rounding to whole lots makes of those.

        Parameters
        ----------
        market
            At the close before.
        wanted, unit_value
            Ordered units, and account currency per unit at the open, (B, n).
        fillable, openable
            bool (B, n): the instrument has this bar; a position in it may be opened or enlarged.
        """
        wanted = wanted.copy()
        for attempt in range(ATTEMPTS + 1):
            if not len(envs):
                break
            before = wanted[envs]
            allowed = self._limited(book, market, before, unit_value, fillable, openable, envs, attempt)
            moved = row_any(allowed != before)
            wanted[envs] = allowed
            envs = envs[moved]
        return wanted

    def _limited(
        self,
        book: Book,
        market: MarketRow,
        wanted: np.ndarray,
        unit_value: np.ndarray,
        fillable: np.ndarray,
        openable: np.ndarray,
        envs: np.ndarray,
        attempt: int,
    ) -> np.ndarray:
        """Units (R, n) of one attempt: `wanted` (R, n) are those of `envs`."""
        held, has_bar, equity = book.units[envs], fillable[envs], book.equity[envs]
        # In debt the breakers flatten whatever the scale.
        to_weight = unit_value[envs] / np.where(equity > 0, equity, 1.0)[:, None]
        base, current = wanted * to_weight, held * to_weight
        limits = self.breakers.limits()

        def at(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[envs]

        covariance, past = self._calibrated(market)
        proposal = Proposal(
            proposed=np.where(has_bar, base, current),
            current=current,
            tradable=has_bar,
            covariance=covariance[envs],
            correlation=market.correlation[envs],
            equity=equity,
            price_band_ok=openable[envs] | ~has_bar,
            cap_abs=at(limits.cap_abs),
            no_increase=at(limits.no_increase),
            flatten=at(limits.flatten),
            var_limit_scale=at(limits.var_limit_scale),
            past=None if past is None else past[envs],
        )
        decision = self.manager.repair(proposal)
        self._at_open.append((envs, decision))
        refused = ~has_bar & (base != current)
        rule = np.where(refused, RuleId.UNTRADABLE, decision.rule)
        self.rule[envs] = np.where(rule != 0, rule, self.rule[envs])
        self.unrepairable[envs] |= decision.unrepairable
        executed = decision.executed if attempt == 0 else eased(decision.executed, proposal, attempt - 1)

        share = np.clip(np.where(base != 0, executed / np.where(base != 0, base, 1.0), 1.0), 0.0, 1.0)
        # A price of zero gives no weight to limit: nothing may be opened there.
        allowed = np.where(base != 0, wanted * share, closing_leg(wanted, held))
        return np.where(has_bar, book.whole_lots(allowed), held)

    def _calibrated(self, market: MarketRow) -> tuple[np.ndarray, PastReturns | None]:
        """Covariances, and past returns if any, that VaR is measured with: where it is calibrated, those that raise it
        by the factor."""
        if self.calibration is None:
            return market.covariance, market.past
        factor = self.calibration.factor
        return market.covariance * factor[:, None] ** 2, None if market.past is None else market.past.times(factor)

    def _close_for_margin(self, equity: np.ndarray, proposed: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Close the position with the largest margin where equity is below its required fraction of the used margin."""
        used = np.abs(held) @ self._margin_rates
        called = (self._config.margin_stop_out_frac * used > 1.0) & (equity > 0)
        if not called.any():
            return proposed
        proposed = proposed.copy()
        rows = np.flatnonzero(called)
        user = forced_close(
            held[rows] * equity[rows, None],
            equity[rows],
            self._margin_rates,
            self._config.margin_stop_out_frac,
            self._everything[rows],
        )
        proposed[rows, user] = 0.0
        return proposed

    # -- marks --------------------------------------------------------------------------------------------------------

    def begin_day(self, new_day: np.ndarray, book: Book) -> None:
        """Measure the day's loss from the equity after financing; reset latched breakers of flat books where
        configured; record the day before for the calibration of VaR."""
        if self.calibration is not None:
            self.calibration.begin_day(new_day)
        self.breakers.start_day(book.equity, new_day, book.is_flat if self._resets_next_day else None)

    def mark(self, book: Book, unit_value: np.ndarray, playing: np.ndarray) -> np.ndarray:
        """Pass a mark to the breakers. Returns bool (B,): a breaker fired, and orders must be limited again."""
        return self.breakers.mark(book.equity, book.weights(unit_value), playing) > 0

    def after_fills(self, tradable: np.ndarray, playing: np.ndarray) -> None:
        """End a bar's fills: cooldowns are reduced by a bar."""
        self.breakers.after_fills(tradable, playing)

    # -- queries ------------------------------------------------------------------------------------------------------

    def episode_is_over(self, book: Book) -> np.ndarray:
        """bool (B,): trading is halted, the book is flat, and halts end episodes."""
        if not self.ends_episodes:
            return np.zeros(len(self.rule), dtype=bool)
        return (self.breakers.latched > 0) & book.is_flat

    def alert_level(self, book: Book, market: MarketRow) -> np.ndarray:
        """(B, n) in [0, 1]: an instrument's own alert, the desk's, or the breaker level."""
        entry = np.abs(book.entry)
        gain = np.sign(book.units) * (market.close - book.entry) / np.where(entry > 0, entry, 1.0)
        day_return = -self.breakers.day_loss(book.equity)
        current = alerts(gain, day_return, market.correlation_shift, self._config.alerts)
        return current.level(self.breakers.level)

    def var_forecast(self) -> np.ndarray:
        """One-day VaR of the book ordered at the last close, (B,), fraction of equity, whatever the limit's horizon."""
        return self.var / self._horizon

    def edits(self, env: int) -> list[RiskEdit]:
        """The edits of the last bar in one environment, those of the close before those of the open."""
        found = self.decision.edits(env) if self.decision is not None else []
        for envs, decision in self._at_open:
            at = np.flatnonzero(envs == env)
            if len(at):
                found = found + decision.edits(int(at[0]))
        return found
