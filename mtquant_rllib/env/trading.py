"""`Trading`: B accounts on one tape, from proposed weights to the next close. Whoever proposes is a subclass.

`Desk` proposes through three levels of agents, `Allocator` through one; fills, costs, risk, stops, marks and endings
are the same lines for both. At row t everything known is what was known at the close of t; `advance` carries the
accounts to the close of t + 1: nights are paid, the open is marked, stops and orders fill, the close is marked.
Whoever limits them (`Overseer`) is asked twice: with what is proposed at the close, and with what would fill at the
open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.bar import Bar
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared_files import place_named
from mtquant_rllib.env.scene import Oversight, Scene, StepResult
from mtquant_rllib.errors import DivergedPolicyError, MtquantError
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio import tape as channel
from mtquant_rllib.portfolio.book import Book
from mtquant_rllib.portfolio.tape import Tape

NO_STOP_ATR = 1e9
"""A stop so far away that no price reaches it."""


class Trading:
    """See the module's docstring. Subclasses implement `propose` and `_reward`."""

    def __init__(
        self,
        settings: Settings,
        tape: Tape,
        features: FeatureTable,
        n_envs: int,
        scene: Scene,
        oversight: Oversight | None = None,
    ) -> None:
        self.settings = settings
        self.universe = universe = settings.universe
        self.tape = tape
        self.features = features
        # Plain views: a memory map's own indexing costs as much again as the gather.
        self._block, self._context, self._sizing, self._money, self._flags, self._day = (
            np.asarray(array).view(np.ndarray)
            for array in (features.block, features.context, features.sizing, tape.money, tape.flags, tape.day)
        )
        self._columns = features.columns
        self.scene = scene
        self.oversight = oversight
        self.n_envs = n_envs
        self.config = settings.desk
        n = universe.n_instruments
        self.adv_ccy = np.array([row.adv_usd for row in settings.instruments])
        lot_units = np.array([row.contract * row.lot_step for row in settings.instruments])
        self.book = Book(n_envs, lot_units, self.config.account.start_equity_ccy)

        self.row = np.zeros(n_envs, dtype=np.int64)
        self.stop_row = np.ones(n_envs, dtype=np.int64)
        self.bars_done = np.zeros(n_envs, dtype=np.int64)
        self.parked = np.zeros(n_envs, dtype=bool)
        self.stop_atr = np.full((n_envs, n), self.config.decision.stop_atr_min)
        self.active = np.ones((n_envs, n), dtype=bool)
        self.proposed = np.zeros((n_envs, n))
        self.ordered = np.zeros((n_envs, n))
        self.weight = np.zeros((n_envs, n))
        self.portfolio_return = np.zeros(n_envs)
        self.instrument_return = np.zeros((n_envs, n))
        self.stopped = np.zeros((n_envs, n), dtype=bool)
        self.terms: dict[str, np.ndarray] = {}
        self._known: dict[str, np.ndarray] = {}
        self._fetched = False

    # -- what a subclass says -----------------------------------------------------------------------------------------

    def propose(self) -> np.ndarray:
        """Proposed weights (B, n) of the decisions taken, before risk."""
        raise NotImplementedError

    def _reward(self, equity_before: np.ndarray, new_day: np.ndarray) -> np.ndarray:
        """Rewards (B, n_agents) of the bar just closed, from `instrument_return`; sets `portfolio_return`.

        equity_before: at the close before, 1 where it was not positive, (B,); new_day: the bar begins a day, bool (B,).
        """
        raise NotImplementedError

    # -- episodes -----------------------------------------------------------------------------------------------------

    def reset(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        """Begin an episode in each environment of `envs` (indices), with the draw beside it."""
        self.row[envs] = [draw.start for draw in draws]
        self.stop_row[envs] = [draw.stop for draw in draws]
        self.bars_done[envs] = 0
        self.parked[envs] = False
        self.book.reset(envs)
        for array in (self.proposed, self.ordered, self.weight, self.portfolio_return, self.instrument_return):
            array[envs] = 0.0
        self.stop_atr[envs] = self.config.decision.stop_atr_min
        self.stopped[envs] = False
        if self.oversight is not None:
            self.oversight.reset(envs)
        self._fetched = False

    def park(self, envs: np.ndarray) -> None:
        """Take environments out of play until their next reset: they hold nothing and time stands still for them.
        Their equity, a debt included, stays on record."""
        self.parked[envs] = True
        everything = np.zeros_like(self.active)
        everything[envs] = True
        self.book.flatten(everything)
        self._fetched = False

    def observe_row(self) -> None:
        """Make `weight`, `close` and the row's market arrays current, for players that need no observation."""
        self._fetch()

    def weights_now(self) -> np.ndarray:
        """Signed weights at the last mark, (B, n)."""
        return self.book.weights(self._mark_value)

    # -- what is known at the close of the row ------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Gather the row's known quantities once per bar."""
        if self._fetched:
            return
        rows, parts, sizing = self.row, self._columns, self._sizing[self.row]
        self.context = self._context[rows]
        self.correlation = self.context[:, parts.correlation]
        self.covariance = sizing[:, parts.covariance]
        self.vol_ann = sizing[:, parts.vol_ann]
        self.sigma_day = sizing[:, parts.sigma_day]
        self.atr = sizing[:, parts.atr]
        self.close = self._money[rows, channel.LAST]
        self.unit_value = self.close * self._money[rows, channel.FX_LAST]
        self.weight = self.weight_of(self.book.units)
        self._known = {}
        self._fetched = True

    def _once(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """A quantity of the row that several levels ask for, computed once a bar."""
        self._fetch()
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def alert(self) -> np.ndarray:
        """Alert level of each instrument in [0, 1], (B, n): its own alerts and the whole book's."""
        oversight = self.oversight
        if oversight is None:
            return np.zeros_like(self.weight)
        return self._once("alert", lambda: oversight.alert_level(self))

    # -- the bar ------------------------------------------------------------------------------------------------------

    def advance(self) -> StepResult:
        """Carry the decisions to the close of the next row."""
        return self.advance_with_weights(self.propose())

    def advance_with_weights(self, proposed: np.ndarray) -> StepResult:
        """Carry proposed weights (B, n) to the close of the next row, through risk, fills, stops, costs and marks.

        Raises
        ------
        DivergedPolicyError
            When a proposed weight is not finite, and nothing that it was decided on is to blame: money must not follow.
        MtquantError
            The same where a row of the market or the account's own state is not finite.
        """
        self._fetch()
        if not np.isfinite(proposed).all():
            self._refuse(proposed)
        book, oversight = self.book, self.oversight
        equity_before = book.equity.copy()
        playing = ~self.parked
        if not playing.all():
            proposed = np.where(playing[:, None], proposed, 0.0)
        self.proposed = proposed
        self.ordered = oversight.limit_at_close(self, proposed, self.weight) if oversight is not None else proposed
        wanted = self.units_of(self.ordered)

        next_row = self.row + playing
        new_day = self._day[next_row] != self._day[self.row]
        bar = Bar(self, self._money[next_row], self._flags[next_row])
        bar.begin()
        if oversight is not None:
            oversight.begin_day(new_day, book.equity, book.is_flat)
        wanted = bar.open(wanted)
        bar.fill(wanted)
        bar.trade_to_the_close()
        if oversight is not None:
            oversight.after_fills(bar.tradable, playing, book.is_flat)
            oversight.mark(book.equity, book.weights(bar.last_value), playing)
        self.stopped = bar.stopped
        self._mark_value = bar.last_value
        self.row = next_row
        self.bars_done += playing
        self._fetched = False
        return self._account(np.where(equity_before > 0, equity_before, 1.0), new_day)

    def _refuse(self, proposed: np.ndarray) -> NoReturn:
        """Say which proposed weight is not finite, and whose fault it is: the market's row, the account's or the
        policy's."""
        env, i = (int(place) for place in np.argwhere(~np.isfinite(proposed))[0])
        row, symbols = int(self.row[env]), self.universe.symbols
        said = (
            f"the proposed weight of {symbols[i]} in environment {env} is {proposed[env, i]}; expected a finite number"
        )
        seen = {"block": self._block, "context": self._context, "sizing": self._sizing, "money": self._money}
        for name, array in seen.items():
            bad = np.argwhere(~np.isfinite(array[row]))
            if len(bad):
                where = place_named(name, bad[0].tolist(), symbols)
                raise MtquantError(
                    f"{said}: array {name} of the prepared market, row {row} ({self.tape.stamps[row]}), {where} is "
                    f"{array[(row, *bad[0])]}; prepare the market again from its bars"
                )
        for name, state in {"equity": self.book.equity, "units held": self.book.units}.items():
            if not np.isfinite(state[env]).all():
                raise MtquantError(f"{said}: the account's {name} there are {state[env]} at row {row}")
        raise DivergedPolicyError(f"{said}: has a policy diverged?")

    def units_of(self, weight: np.ndarray, envs: np.ndarray | None = None) -> np.ndarray:
        """Whole lots of target weights at the last close, for all environments or the rows `envs`.

        Where a price or the equity is not positive there are no weights to aim at: such a target is read as the share
        of the position that stays.
        """
        rows = slice(None) if envs is None else envs
        unit_value, equity = self.unit_value[rows], self.book.equity[rows]
        priced = (unit_value > 0) & (equity > 0)[:, None]
        units = weight * equity[:, None] / np.where(priced, unit_value, 1.0)
        if not priced.all():
            held = self.weight[rows]
            share = np.where(held != 0, weight / np.where(held != 0, held, 1.0), 0.0)
            units = np.where(priced, units, self.book.units[rows] * np.clip(share, 0.0, 1.0))
        return self.book.whole_lots(units)

    def weight_of(self, units: np.ndarray, envs: np.ndarray | None = None) -> np.ndarray:
        """Signed weights of units at the last close."""
        rows = slice(None) if envs is None else envs
        solvent = np.where(self.book.equity[rows] > 0, self.book.equity[rows], 1.0)
        return units * self.unit_value[rows] / solvent[:, None]

    def _account(self, equity_before: np.ndarray, new_day: np.ndarray) -> StepResult:
        """Returns, rewards and endings of the bar just closed."""
        book, oversight = self.book, self.oversight
        net_ccy = book.pnl_ccy - book.cost_ccy - book.financing_ccy
        self.instrument_return = net_ccy / equity_before[:, None]
        reward = self._reward(equity_before, new_day)
        terminated = (book.equity <= 0) & ~self.parked
        if oversight is not None and self.scene.ends_on_halt:
            terminated |= oversight.episode_is_over() & ~self.parked
        truncated = (self.row >= self.stop_row) & ~terminated & ~self.parked
        return StepResult(reward, terminated, truncated, self.portfolio_return, self.terms)
