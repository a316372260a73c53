"""`TradingSystem`: from a close and an account to a decision with orders.

    system = TradingSystem.from_checkpoint("runs/real")
    market = BarHistory.from_files(system.settings, "bars.parquet", "macro.parquet")
    decision = system.step(market, Portfolio(100_000.0, "USD"), positions={})
    market.append("2023-01-02", {"EURUSD": (1.07, 1.08, 1.06, 1.075, 90_000), ...})
    decision = system.step(market, Portfolio(100_120.0, "USD"), {"EURUSD": 4_000})

It decides with the core that was trained: the same features, observations, action maps and risk layer, on the rows of
the last two closes. It fills nothing and knows no clock; the account is the caller's, and what the desk remembers is a
value (`state`). `mtquant_rllib.HierarchicalTradingSystem` is the other side of a run: it trains, and plays prepared
markets with fills of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.messages import MESSAGES, CommunicationHub, Message
from mtquant_rllib.env.prepared.rows import MarketRows
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.serving.account import Portfolio, Positions
from mtquant_rllib.serving.closes import Market, TwoCloses, two_rows
from mtquant_rllib.serving.decision import Decision
from mtquant_rllib.serving.history import closes_of
from mtquant_rllib.serving.policies import AttentionOfAgents, DecidingPolicies, member_disagreement
from mtquant_rllib.serving.reported_account import begin_positions, carry_positions, mark_breakers, write_results
from mtquant_rllib.serving.state import SystemState
from mtquant_rllib.serving.written_decision import utc, written_decision
from mtquant_rllib.universe import META

if TYPE_CHECKING:
    import pandas as pd

_ROW = 1
"""Row of the close just seen, of the two that the core has; the other is the close before."""
_LAST_DECISION = "decision"
"""Name of what the last decision left, beside the names of the core's own states."""
_ENV = np.zeros(1, dtype=np.int64)
"""The one environment of the core."""


class TradingSystem:
    """Policies that decide for one account, close by close. See the module's docstring.

    Parameters
    ----------
    policies
        What decides; `from_checkpoint` opens them.
    attention
        Whether attention networks are asked for their attention, which costs a second pass of each.

    Attributes
    ----------
    hub
        Messages of the levels: `hub.subscribe` calls whoever listens at every decision. An allocator sends none.
    closed_at
        The close last decided on, datetime64[s]; None before the first decision.
    """

    def __init__(self, policies: DecidingPolicies, *, attention: bool = True) -> None:
        self.policies = policies
        self.hub = CommunicationHub(tracing=False, journal_messages=1, envs=[0])
        self.closed_at: np.datetime64 | None = None
        self._data = two_rows(policies.settings, policies.calendar)
        self._rows = MarketRows(self._data.execution, self._data.features)
        self._core = core_for(policies.settings, self._data, 1, EpisodeSetup(ends_on_halt=False, custom_terms=False))
        self._messages: list[Message] = []
        if isinstance(self._core, Desk):
            self._core.hub = self.hub
            for kind in MESSAGES.values():
                self.hub.subscribe(kind, self._messages.append)
        self._attention = AttentionOfAgents(policies) if attention else None
        self._player = policies.player(None if self._attention is None else self._attention.observe)
        self.forget()

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, phase: int | None = None, attention: bool = True) -> TradingSystem:
        """Open what decides.

        Parameters
        ----------
        path
            A folder that `mtquant export` wrote, which needs neither Ray nor a pickle; a run or an ensemble, by its
            name or folder; or a checkpoint of a run, whose pickles RLlib opens, and which must therefore bear this
            user's signature.
        phase
            Of a run or an ensemble: the policies after this phase; by default after the newest that is done.

        Raises
        ------
        RunError
            When the path is none of these, or damaged; it names the file.
        """
        from mtquant_rllib.serving.opening import open_deciding

        return cls(open_deciding(path, phase=phase), attention=attention)

    @property
    def settings(self) -> Settings:
        """Those that the policies were trained with."""
        return self.policies.settings

    @property
    def symbols(self) -> tuple[str, ...]:
        """The instruments, in the order of the universe."""
        return self.settings.universe.symbols

    # -- what is remembered -------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Begin anew, as before the first decision."""
        self.closed_at = None
        self._core.reset(_ENV, [EpisodeDraw(start=_ROW, stop=_ROW + 1, allocation=0.0, active_instrument=0)])

    def state(self) -> SystemState:
        """A copy of what is remembered, to go on from in another process."""
        snapshot = self._core.snapshot() | {_LAST_DECISION: self._core.last_decision().arrays()}
        arrays = {f"{part}/{name}": array for part, own in snapshot.items() for name, array in own.items()}
        return SystemState(arrays, self.policies.fingerprint, None if self.closed_at is None else str(self.closed_at))

    def load(self, state: SystemState) -> None:
        """Go on from a state.

        Raises
        ------
        MtquantError
            When it is of other policies or of another version. Nothing has changed then.
        """
        if state.fingerprint != self.policies.fingerprint:
            raise MtquantError(
                f"the saved state is of the policies {state.fingerprint}, and these are {self.policies.fingerprint}; "
                "open the policies that it is of, or begin anew"
            )
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, array in state.arrays.items():
            part, _, own = name.partition("/")
            parts.setdefault(part, {})[own] = array
        with self._unchanged_on_error():
            decision = self._core.last_decision()
            decision.load(parts.pop(_LAST_DECISION, {}))
            self._core.restore(parts)
            self._core.take_over(decision)
            self.closed_at = None if state.closed_at is None else np.datetime64(state.closed_at, "s")

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        """Put everything back where the block fails, so that what was refused has no consequence."""
        before, decision, closed_at = self._core.snapshot(), self._core.last_decision(), self.closed_at
        try:
            yield
        except BaseException:
            self._core.restore(before)
            self._core.take_over(decision)
            self.closed_at = closed_at
            raise

    # -- decisions ----------------------------------------------------------------------------------------------------

    def step(
        self,
        market: Market | MarketData | Mapping[str, pd.DataFrame] | pd.DataFrame,
        portfolio: Portfolio,
        positions: Positions,
    ) -> Decision:
        """Decide at the close that the market has just shown.

        Parameters
        ----------
        market
            Bars up to and including this close: `BarHistory`, to which bars are appended; `PreparedBars` for a replay;
            or all bars as `MarketData` or frames, whose features are then computed anew at every close.
        portfolio, positions
            The account at this close, after the bar: what the orders of the last decision have come to.

        Returns
        -------
        What is to be traded at the next bar, and why.

        Raises
        ------
        MtquantError
            When the close is not the one that follows the last decision, the account does not fit, or a policy gives no
            finite weight. The system is then as it was before.
        """
        laps = _Laps()
        closes = closes_of(market, self.settings)
        laps.end("market")
        with self._unchanged_on_error():
            self._follows(closes)
            if portfolio.currency != self.settings.desk.account.currency:
                raise MtquantError(
                    f"portfolio.currency = {portfolio.currency}: expected {self.settings.desk.account.currency}, in "
                    "which these policies were trained"
                )
            closes.write_into(self._data)
            if self.closed_at is None:
                self._begin(portfolio, positions)
            else:
                self._count_the_bar(portfolio, positions)
            laps.end("account")
            decision = self._decide(closes, laps)
            self.closed_at = closes.closed_at
        return decision

    def _follows(self, closes: TwoCloses) -> None:
        """Refuse a close that is not the next one."""
        last = self.closed_at
        if last is None or closes.before == last:
            return
        if closes.closed_at <= last:
            raise MtquantError(f"the close of {utc(closes.closed_at)}: the close of {utc(last)} is decided already")
        raise MtquantError(
            f"the close of {utc(closes.closed_at)}: the bar before it is {utc(closes.before)}, and the last decision "
            f"was at {utc(last)}; every bar in between has to be decided too, or begin anew with forget()"
        )

    def _begin(self, portfolio: Portfolio, positions: Positions) -> None:
        """The first close: an account, and no past."""
        core = self._core
        core.book.start_equity_ccy = portfolio.equity_ccy
        self.forget()
        begin_positions(core.book, positions, self.symbols, self._rows.at(_ENV + _ROW), core.state.stop_atr)
        assert core.risk is not None
        core.risk.breakers.restart(np.ones(1, dtype=bool), core.book.equity)
        if portfolio.breakers is not None:
            core.risk.breakers.load(portfolio.breakers)

    def _count_the_bar(self, portfolio: Portfolio, positions: Positions) -> None:
        """Take in what has become of the last decision."""
        core, book = self._core, self._core.book
        assert core.risk is not None
        before, bar = self._rows.at(_ENV), self._rows.bar(_ENV + _ROW, _ENV)
        equity_before, units_before = book.equity + portfolio.transfers_ccy, book.units.copy()
        if isinstance(core, Desk):
            core.state.daily.base += portfolio.transfers_ccy
        carry_positions(book, positions, self.symbols, before, bar, core.state.stop_atr)
        write_results(book, portfolio, self.symbols, float(equity_before[0]), units_before, bar)
        if portfolio.breakers is None:
            mark_breakers(core.risk, book, bar, float(equity_before[0]), self._rows.unit_value(_ENV + _ROW))
        else:
            core.risk.breakers.load(portfolio.breakers)
        core.close_bar(before, equity_before, bar.new_day)

    def _decide(self, closes: TwoCloses, laps: _Laps) -> Decision:
        core = self._core
        self._messages.clear()
        decided = tuple(level.name for level in core.levels if level.due().all() and self._plays(level.name))
        proposed = self._player(core)
        laps.end("policies")
        units = core.order(proposed)
        laps.end("risk")
        attention, regimes = ({}, {}) if self._attention is None else self._attention.read()
        disagreement = member_disagreement(self._player.actor)
        laps.end("attention")
        decision = written_decision(
            core,
            closes,
            units[0],
            fingerprint=self.policies.fingerprint,
            decided=decided,
            messages=self._messages,
            attention=attention,
            regimes=regimes,
            disagreement={group: value for group, value in disagreement.items() if group in decided},
        )
        laps.end("orders")
        return replace(decision, timings_s=laps.seconds)

    def _plays(self, level: str) -> bool:
        """Whether a level's policies decide: before phase 2 there is no meta-controller."""
        return not (self.policies.equal_allocation and level == META)


class _Laps:
    """Seconds of consecutive parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    def end(self, part: str) -> None:
        """The part that is over now has this name."""
        now = time.perf_counter()
        self.seconds[part], self._begun = now - self._begun, now
