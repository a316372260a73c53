"""`Trading`: B accounts on one market, from proposed weights to the next close. Subclasses make the proposals.

`Desk` proposes through three levels of agents, `Allocator` through one; limits, fills, costs, stops, marks and endings
are the same lines for both. At row t everything known is what was known at the close of t; `advance` carries the
accounts to the close of t + 1 (`TradingDay`). The risk layer limits twice: the proposal at the close, and the fills at
the open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.levels import Level
from mtquant_rllib.env.observations.close import Close
from mtquant_rllib.env.prepared.files import position_name
from mtquant_rllib.env.prepared.rows import MarketRow, MarketRows
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.state.last_decision import LastDecision
from mtquant_rllib.env.state.trading import TradingState
from mtquant_rllib.env.trading_day import TradeCosts, TradingDay
from mtquant_rllib.errors import DivergedPolicyError, MtquantError
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.book import Book
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.vector_state import VectorState

NO_STOP_ATR = 1e9
"""A stop so far away that no price reaches it."""


@dataclass
class StepResult:
    """One bar. Arrays are views of the environments' own: copy what must outlive the next step.

    rewards (B, n_agents), terminated and truncated (B,), net return of the bar (B,), and where the reward has named
    terms, each of them (B,).
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    portfolio_return: np.ndarray
    terms: Mapping[str, np.ndarray] = field(default_factory=dict)


class Trading:
    """See the module's docstring. Subclasses implement `propose` and `_reward`.

    Attributes
    ----------
    state
        The state of the environments.
    levels
        The levels of agents, in the order of decision.
    proposed, ordered
        Weights of the last bar before and after risk, (B, n).
    instrument_return, portfolio_return
        Net returns of the last bar, fractions of equity, (B, n) and (B,).
    stopped
        bool (B, n): positions that a stop closed in the last bar.
    terms
        Named reward terms of the last bar, (B,) each.
    """

    state: TradingState
    levels: tuple[Level, ...]

    def __init__(
        self,
        settings: Settings,
        execution: ExecutionData,
        features: FeatureTable,
        n_envs: int,
        setup: EpisodeSetup,
        risk: RiskLayer | None = None,
    ) -> None:
        self.settings = settings
        self.universe = universe = settings.universe
        self.execution = execution
        self.features = features
        self.setup = setup
        self.risk = risk
        self.n_envs = n_envs
        self.config = settings.desk
        self.state = self._new_state()
        self.levels = self._new_levels()
        self._rows = MarketRows(execution, features)
        self._costs = TradeCosts.of(settings)
        shape = (n_envs, universe.n_instruments)
        self.proposed = np.zeros(shape)
        self.ordered = np.zeros(shape)
        # Weights of the last decision before the risk scale, where there is one.
        self._unscaled = np.zeros(shape)
        self.instrument_return = np.zeros(shape)
        self.portfolio_return = np.zeros(n_envs)
        self.stopped = np.zeros(shape, dtype=bool)
        self.terms: dict[str, np.ndarray] = {}
        self._close: Close | None = None

    @property
    def book(self) -> Book:
        return self.state.book

    # -- implemented by subclasses ------------------------------------------------------------------------------------

    def _new_state(self) -> TradingState:
        raise NotImplementedError

    def _new_levels(self) -> tuple[Level, ...]:
        raise NotImplementedError

    def active_instrument(self) -> np.ndarray:
        """Which of the domain's instruments is active in a single-domain episode, int (B,); 0 elsewhere."""
        raise NotImplementedError

    def propose(self) -> np.ndarray:
        """Proposed weights (B, n) of the decisions taken, before risk."""
        raise NotImplementedError

    def _reward(self, before: MarketRow, equity_before: np.ndarray, new_day: np.ndarray) -> np.ndarray:
        """Rewards (B, n_agents) of the bar just closed, from `instrument_return`; sets `portfolio_return`.

        before: the market at the close before; equity_before: equity there, 1 where it was not positive, (B,); new_day:
        whether the bar begins a day, bool (B,).
        """
        raise NotImplementedError

    # -- episodes -----------------------------------------------------------------------------------------------------

    def reset(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        """Begin an episode in each environment of `envs` (indices), each with its draw."""
        self.state.begin(envs, draws)
        for array in (self.proposed, self.ordered, self.portfolio_return, self.instrument_return):
            array[envs] = 0.0
        self.stopped[envs] = False
        if self.risk is not None:
            self.risk.reset(envs)
        self.invalidate_close()

    def finish(self, envs: np.ndarray) -> None:
        """Take environments out of play until their next reset: positions are closed and time does not move. Their
        equity, negative or not, stays in the book."""
        self.state.done[envs] = True
        everything = np.zeros_like(self.state.active)
        everything[envs] = True
        self.book.flatten(everything)
        self.invalidate_close()

    # -- the state as a value -----------------------------------------------------------------------------------------

    def _states(self) -> dict[str, VectorState]:
        """The states of the environments, by name."""
        states: dict[str, VectorState] = {"state": self.state}
        if self.risk is not None:
            states["breakers"] = self.risk.breakers
            if self.risk.calibration is not None:
                states["calibration"] = self.risk.calibration
        return states

    def snapshot(self) -> dict[str, dict[str, np.ndarray]]:
        """Copies of the arrays of every state, by name: environments in the middle of their episodes."""
        return {name: state.arrays() for name, state in self._states().items()}

    def restore(self, snapshot: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Load a snapshot of environments of the same settings.

        Raises
        ------
        MtquantError
            When it is of other settings, or of another version.
        """
        states = self._states()
        if states.keys() != snapshot.keys():
            raise MtquantError(f"the saved environments have {', '.join(snapshot)}; expected {', '.join(states)}")
        for name, state in states.items():
            state.load(snapshot[name])
        self.invalidate_close()

    @contextmanager
    def rolled_back(self, envs: np.ndarray) -> Iterator[None]:
        """Restore the state of the environments `envs` (indices) at the end of this block.

        All environments are stepped together. Where a number of bars does not divide evenly among them, some are
        stepped with the others and restored: a copy of their rows on one bar of a call, instead of a mask in every
        line.
        """
        before = {name: state.select(envs) for name, state in self._states().items()}
        yield
        for name, state in self._states().items():
            state.put(envs, before[name])
        self.invalidate_close()

    # -- what is known at the close of the row ------------------------------------------------------------------------

    @property
    def close(self) -> Close:
        """What is known at this close. Computed once a bar."""
        if self._close is None:
            self._close = self._known_close()
        return self._close

    def _known_close(self) -> Close:
        return Close(self.book, self._rows.at(self.state.row), self.risk)

    @property
    def market(self) -> MarketRow:
        """What is known of the market at this close."""
        return self.close.market

    @property
    def weight(self) -> np.ndarray:
        """Signed weights held at this close, (B, n)."""
        return self.close.weight

    def weights_now(self) -> np.ndarray:
        """Signed weights at this close, (B, n), without computing the rest of it."""
        return self.book.weights(self._rows.unit_value(self.state.row))

    def invalidate_close(self) -> None:
        """Compute the close again when it is next needed, because the state has changed."""
        self._close = None

    # -- the bar ------------------------------------------------------------------------------------------------------

    def advance(self) -> StepResult:
        """Carry the decisions to the close of the next row."""
        return self.advance_with_weights(self.propose())

    def advance_with_weights(self, proposed: np.ndarray) -> StepResult:
        """Carry proposed weights (B, n) to the close of the next row, through risk, fills, stops, costs and marks.

        Raises
        ------
        DivergedPolicyError
            When a proposed weight is not finite although market and account are.
        MtquantError
            When a proposed weight is not finite because the market's row or the account's state is not.
        """
        state, book, market = self.state, self.book, self.market
        equity_before, playing = book.equity.copy(), ~state.done
        units = self.order(proposed)
        next_row = state.row + playing
        bar = self._rows.bar(next_row, state.row)
        day = TradingDay(book, market, bar, state.stop_atr, self._costs, self.risk, playing)
        day.trade(units)
        self.stopped = day.stopped
        state.row = next_row
        return self.close_bar(market, equity_before, bar.new_day)

    def order(self, proposed: np.ndarray) -> np.ndarray:
        """Limit proposed weights (B, n) at this close; returns the units to be held, (B, n), in whole lots.

        Sets `proposed` and `ordered`, and moves nothing. Errors are those of `advance_with_weights`.
        """
        book, risk, close = self.book, self.risk, self.close
        market = close.market
        if not np.isfinite(proposed).all():
            self._raise_nonfinite(proposed)
        playing = ~self.state.done
        if not playing.all():
            proposed = np.where(playing[:, None], proposed, 0.0)
        self.proposed = proposed
        self.ordered = proposed if risk is None else risk.limit_at_close(book, market, proposed, close.weight)
        return book.units_for(self.ordered, market.unit_value)

    def close_bar(self, before: MarketRow, equity_before: np.ndarray, new_day: np.ndarray) -> StepResult:
        """Count the bar whose results the book holds: returns, rewards, endings, and all that is remembered of them.

        Parameters
        ----------
        before
            The market at the close before.
        equity_before
            Equity there, (B,).
        new_day
            Whether the bar begins a day, bool (B,).
        """
        book, state, risk = self.book, self.state, self.risk
        equity_before = np.where(equity_before > 0, equity_before, 1.0)
        state.bars_done += ~state.done
        self.invalidate_close()
        net_ccy = book.pnl_ccy - book.cost_ccy - book.financing_ccy
        self.instrument_return = net_ccy / equity_before[:, None]
        reward = self._reward(before, equity_before, new_day)
        terminated = (book.equity <= 0) & ~state.done
        if risk is not None:
            terminated |= risk.episode_is_over(book) & ~state.done
        truncated = (state.row >= state.stop_row) & ~terminated & ~state.done
        return StepResult(reward, terminated, truncated, self.portfolio_return, self.terms)

    def last_decision(self) -> LastDecision:
        """Copies of what the last decision leaves for the bar after it, beside the state."""
        rule, var = (None, None) if self.risk is None else (self.risk.rule, self.risk.var)
        return LastDecision.of(self.proposed, self.ordered, self._unscaled, rule, var)

    def take_over(self, decision: LastDecision) -> None:
        """Go on from a decision of environments of the same settings, as `last_decision` returned it."""
        self.proposed, self.ordered = decision.proposed.copy(), decision.ordered.copy()
        self._unscaled = decision.unscaled.copy()
        if self.risk is not None:
            self.risk.rule[:], self.risk.var[:] = decision.rule, decision.var

    def _raise_nonfinite(self, proposed: np.ndarray) -> NoReturn:
        """Raise an error that names the first proposed weight that is not finite and its cause: the market's row, the
        account or the policy."""
        env, i = (int(place) for place in np.argwhere(~np.isfinite(proposed))[0])
        row, symbols = int(self.state.row[env]), self.universe.symbols
        message = (
            f"the proposed weight of {symbols[i]} in environment {env} is {proposed[env, i]}; expected a finite number"
        )
        for name, array in self._rows.arrays().items():
            bad = np.argwhere(~np.isfinite(array[row]))
            if len(bad):
                where = position_name(name, bad[0].tolist(), symbols)
                raise MtquantError(
                    f"{message}: array {name} of the prepared market, row {row} ({self.execution.timestamps[row]}), "
                    f"{where} is {array[(row, *bad[0])]}; prepare the market again from its bars"
                )
        for name, held in {"equity": self.book.equity, "units held": self.book.units}.items():
            if not np.isfinite(held[env]).all():
                raise MtquantError(f"{message}: the account's {name} there are {held[env]} at row {row}")
        raise DivergedPolicyError(f"{message}: has a policy diverged?")
