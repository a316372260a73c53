"""`Desk`: one step of the whole system for B environments as arrays. The one implementation of a bar.

A bar has three decisions and one advance. The desk is driven by whoever holds the policies:

    meta_obs = desk.observe_meta();           desk.decide_meta(raw)              where desk.meta_is_due
    obs_d    = desk.observe_specialist(d);    desk.decide_specialist(d, raw)     for each domain
    obs      = desk.observe_instruments();    desk.decide_instruments(raw)
    result   = desk.advance()

Each level observes what the level above has just decided. At row t agents see what was known at the close of t; `advance`
carries the desk to the close of t + 1: nights are paid, the open is marked, stops and orders fill, the close is marked.
Whoever limits the desk (`Overseer`) is asked twice: with what is proposed at the close, and with what would fill at the open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env import decisions, rewards
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.observations import Observer
from mtquant_rllib.env.track_record import DailyReturns, TrackRecord
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio import tape as channel
from mtquant_rllib.portfolio.book import Book, row_sums
from mtquant_rllib.portfolio.costs import night_cost, trade_cost
from mtquant_rllib.portfolio.tape import Tape
from mtquant_rllib.risk import stops
from mtquant_rllib.risk.packed import PackedIndex

_LEAST_SHARE = 1e-6
"""Share of capital or appetite under which a book's scale does not fall, where nothing snaps to zero before."""


def _domain_pair_sums(packed: PackedIndex, domain_of: np.ndarray, n_domains: int) -> np.ndarray:
    """Matrix (D * D, n_pairs) that sums packed pairwise products, off-diagonal ones counted twice, into a symmetric
    matrix of domains."""
    sums = np.zeros((len(packed.first), n_domains, n_domains))
    pairs, one, other = np.arange(len(packed.first)), domain_of[packed.first], domain_of[packed.second]
    np.add.at(sums, (pairs, one, other), 0.5)
    np.add.at(sums, (pairs, other, one), 0.5)
    return np.ascontiguousarray(sums.reshape(len(packed.first), -1).T)


@dataclass(frozen=True)
class Scene:
    """Which part of the desk plays.

    phase
        1: one specialist and, per episode, one of its instruments, at a drawn allocation and full appetite. 2, 3: all.
    domain
        Index of the domain in phase 1, else None.
    ends_on_halt
        A full trading halt ends the episode after its flattening fill (training) or is lifted the next day (evaluation).
    """

    phase: int
    domain: int | None = None
    ends_on_halt: bool = True


class Oversight(Protocol):
    """Whoever has the last word. `None` in its place lets every proposal through."""

    def reset(self, envs: np.ndarray) -> None: ...

    def limit_at_close(self, desk: Desk, proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Weights (B, n) that may be ordered, each a share in [0, 1] of what is proposed."""

    def limit_at_open(
        self,
        desk: Desk,
        envs: np.ndarray,
        wanted: np.ndarray,
        held: np.ndarray,
        fillable: np.ndarray,
        openable: np.ndarray,
        attempt: int,
    ) -> np.ndarray:
        """The same at the fill, for the environments `envs` in which not all can fill as ordered. `attempt` counts
        how often whole lots have been made of what it let through; answers must settle, at nothing at the latest."""

    def begin_day(self, new_day: np.ndarray, equity: np.ndarray, flat: np.ndarray) -> None: ...

    def mark(self, equity: np.ndarray, weights: np.ndarray, playing: np.ndarray) -> np.ndarray:
        """Show a mark; returns the environments (bool (B,)) whose orders must be limited again at this open."""

    def after_fills(self, tradable: np.ndarray, playing: np.ndarray, flat: np.ndarray) -> None: ...

    def episode_is_over(self) -> np.ndarray:
        """Environments (B,) whose trading is halted for good and whose book is flat."""

    def alert_level(self, desk: Desk) -> np.ndarray:
        """(B, n) in [0, 1]."""

    def var_forecast(self) -> np.ndarray:
        """VaR of the executed book that the rule used, (B,), fraction of equity."""


@dataclass
class StepResult:
    """One bar. Arrays are views of the desk's own state: copy what must outlive the next step.

    rewards (B, n_agents), terminated and truncated (B,), net return of the bar (B,).
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    portfolio_return: np.ndarray


class Desk:
    """B environments over one tape. See the module's docstring for the order of calls."""

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
        self._block, self._covariance, self._correlation, self._vol_ann, self._sigma_day, self._atr = (
            np.asarray(getattr(features, name)).view(np.ndarray)
            for name in ("block", "covariance", "correlation", "vol_ann", "sigma_day", "atr")
        )
        self._money, self._flags, self._day = (
            np.asarray(getattr(tape, name)).view(np.ndarray) for name in ("money", "flags", "day")
        )
        self.scene = scene
        self.oversight = oversight
        self.n_envs = n_envs
        self.config = settings.desk
        n, n_domains = universe.n_instruments, universe.n_domains
        self.domain_of = np.array(universe.domain_of)
        self._per_domain = np.array([len(domain.symbols) for domain in universe.domains], dtype=np.float64)[
            self.domain_of
        ]
        self._adv_ccy = np.array([row.adv_usd for row in settings.instruments])
        lot_units = np.array([row.contract * row.lot_step for row in settings.instruments])
        self.book = Book(n_envs, lot_units, self.config.account.start_equity_ccy)
        self.sigma_target = self.config.decision.vol_target_ann / np.sqrt(tape.bars_per_year)
        self._sigma_target_of = self.config.decision.vol_target_ann / np.sqrt(tape.bars_per_year_of)

        self.row = np.zeros(n_envs, dtype=np.int64)
        self.stop_row = np.ones(n_envs, dtype=np.int64)
        self.bars_done = np.zeros(n_envs, dtype=np.int64)
        self.parked = np.zeros(n_envs, dtype=bool)
        self.allocation = np.zeros((n_envs, n_domains))
        self.appetite = np.zeros(n_envs)
        self.intent = np.zeros((n_envs, n))
        self.confidence = np.zeros((n_envs, n_domains))
        self.signal = np.zeros((n_envs, n))
        self.urgency = np.zeros((n_envs, n))
        self.stop_atr = np.full((n_envs, n), self.config.decision.stop_atr_min)
        self.active = np.ones((n_envs, n), dtype=bool)
        self.proposed = np.zeros((n_envs, n))
        self.ordered = np.zeros((n_envs, n))
        self.weight = np.zeros((n_envs, n))
        self.portfolio_return = np.zeros(n_envs)
        self.instrument_return = np.zeros((n_envs, n))
        self.stopped = np.zeros((n_envs, n), dtype=bool)
        self.drawdown = rewards.MaximumDrawdown(n_envs, 1 + n_domains + n)
        self.sharpe = rewards.DifferentialSharpe(n_envs, 1 + n_domains + n, settings.rewards.differential_sharpe)
        self.daily = DailyReturns(n_envs, self.config.observation.returns_days)
        self.record = TrackRecord(n_envs, n_domains, self.config.observation.track_record_bars)
        self._packed = PackedIndex(n)
        self._pair_sums = _domain_pair_sums(self._packed, self.domain_of, n_domains)
        self._observer = Observer(settings)
        self._known: dict[str, np.ndarray] = {}
        self._fetched = False

    # -- episodes -----------------------------------------------------------------------------------------------------

    def reset(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        """Begin an episode in each environment of `envs` (indices), with the draw beside it."""
        envs = np.asarray(envs, dtype=np.int64)
        self.row[envs] = [draw.start for draw in draws]
        self.stop_row[envs] = [draw.stop for draw in draws]
        self.bars_done[envs] = 0
        self.parked[envs] = False
        self.book.reset(envs)
        for array in (self.allocation, self.appetite, self.intent, self.confidence, self.signal, self.urgency,
                      self.proposed, self.ordered, self.weight, self.portfolio_return, self.instrument_return):  # fmt: skip
            array[envs] = 0.0
        self.stop_atr[envs] = self.config.decision.stop_atr_min
        self.stopped[envs] = False
        if self.scene.domain is not None:
            first = self.universe.domain_slices[self.scene.domain].start
            self.active[envs] = False
            self.active[envs, [first + draw.turn for draw in draws]] = True
            self.allocation[envs, self.scene.domain] = [draw.allocation for draw in draws]
            self.appetite[envs] = 1.0
        self.drawdown.reset(envs)
        self.sharpe.reset(envs)
        self.daily.reset(envs, self.book.equity)
        self.record.reset(envs)
        if self.oversight is not None:
            self.oversight.reset(envs)
        self._fetched = False

    def park(self, envs: np.ndarray) -> None:
        """Take environments out of play until their next reset: they hold nothing and time stands still for them. Their equity,
        a debt included, stays on record."""
        self.parked[envs] = True
        everything = np.zeros_like(self.active)
        everything[envs] = True
        self.book.flatten(everything)
        self._fetched = False

    @property
    def meta_is_due(self) -> np.ndarray:
        """Environments whose meta-controller decides at this bar, bool (B,)."""
        if self.scene.domain is not None:
            return np.zeros(self.n_envs, dtype=bool)
        return self.bars_done % self.config.decision.meta_every_bars == 0

    @property
    def specialists_are_due(self) -> np.ndarray:
        return self.bars_done % self.config.decision.specialists_every_bars == 0

    def observe_row(self) -> None:
        """Make `weight`, `close` and the row's market arrays current, for players that need no observation."""
        self._fetch()

    def weights_now(self) -> np.ndarray:
        """Signed weights at the last mark, (B, n)."""
        return self._weights_at(self._mark_value)

    # -- what is known at the close of the row ------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Gather the row's known quantities once per bar."""
        if self._fetched:
            return
        rows = self.row
        self.block = self._block[rows]
        if self.scene.domain is not None:
            self.block *= self.active[:, :, None]
        self.covariance = self._covariance[rows]
        self.correlation = self._correlation[rows]
        self.vol_ann = self._vol_ann[rows]
        self.sigma_day = self._sigma_day[rows]
        self.atr = self._atr[rows]
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

    def domain_covariance(self) -> np.ndarray:
        """Daily covariance of the domains' current books, (B, D, D), fractions of equity squared."""

        def compute() -> np.ndarray:
            d = self.universe.n_domains
            products = self._packed.products(self.weight) * self.covariance
            return np.matvec(self._pair_sums, products).reshape(-1, d, d)

        return self._once("domain_covariance", compute)

    def utilisation(self) -> np.ndarray:
        """Risk used over risk allocated, (B, D): daily volatility of the domain's book over its allocation's share of the
        target. 0 where nothing is allocated."""

        def compute() -> np.ndarray:
            used = np.sqrt(np.maximum(np.einsum("bdd->bd", self.domain_covariance()), 0.0))
            allocated = self.allocation * (self.config.decision.vol_target_ann / np.sqrt(self.tape.days_per_year))
            return np.where(allocated > 0, used / np.where(allocated > 0, allocated, 1.0), 0.0)

        return self._once("utilisation", compute)

    def hedge(self) -> np.ndarray:
        """Minus the correlation of each domain's book with the rest of the desk's, (B, D): 1 is a perfect hedge."""

        def compute() -> np.ndarray:
            covariance = self.domain_covariance()
            own = np.einsum("bdd->bd", covariance)
            with_all = np.einsum("bde->bd", covariance)
            rest = np.einsum("bd->b", with_all)[:, None] - 2.0 * with_all + own
            scale = np.sqrt(np.maximum(own * rest, 0.0))
            # A book, or a rest, without risk has no correlation.
            return np.where(scale > 1e-12, (own - with_all) / np.where(scale > 1e-12, scale, 1.0), 0.0)

        return self._once("hedge", compute)

    def track_sharpe(self) -> np.ndarray:
        """Annualised Sharpe ratio of each domain's last bars, (B, D)."""
        return self._once("sharpe", lambda: self.record.sharpe_ann(self.tape.bars_per_year))

    def win_rate(self) -> np.ndarray:
        """Share of gaining bars among each domain's last bars, (B, D)."""
        return self._once("win_rate", self.record.win_rate)

    def alert(self) -> np.ndarray:
        """Alert level of each instrument in [0, 1], (B, n): its own alerts and the whole desk's."""
        oversight = self.oversight
        if oversight is None:
            return np.zeros_like(self.weight)
        return self._once("alert", lambda: oversight.alert_level(self))

    # -- observations -------------------------------------------------------------------------------------------------

    def observe_meta(self) -> np.ndarray:
        """float32 (B, 74): portfolio | correlation | specialists | macro."""
        self._fetch()
        return self._observer.meta(self)

    def observe_specialist(self, domain: int) -> np.ndarray:
        """float32 (B, w): domain features | block of each instrument | own state."""
        self._fetch()
        return self._observer.specialist(self, domain)

    def observe_instruments(self) -> np.ndarray:
        """float32 (B, n, 61): block | private state. Off-turn instruments of a single-instrument episode see zeros."""
        self._fetch()
        return self._observer.instruments(self)

    # -- decisions ----------------------------------------------------------------------------------------------------

    def decide_meta(self, raw: np.ndarray, due: np.ndarray | None = None) -> None:
        """Take the meta-controller's raw actions (B, D + 1) in the environments where it is due."""
        allocation, appetite = decisions.meta_decision(raw, self.config.decision)
        due = self.meta_is_due if due is None else due
        np.copyto(self.allocation, allocation, where=due[:, None])
        np.copyto(self.appetite, appetite, where=due)
        self._known.pop("utilisation", None)

    def decide_specialist(self, domain: int, raw: np.ndarray, due: np.ndarray | None = None) -> None:
        """Take a specialist's raw actions (B, 3 n_d + 1) in the environments where it is due."""
        intent, confidence = decisions.specialist_decision(raw, self.config.decision)
        due = self.specialists_are_due if due is None else due
        part = self.universe.domain_slices[domain]
        np.copyto(self.intent[:, part], intent, where=due[:, None])
        np.copyto(self.confidence[:, domain], confidence, where=due)

    def decide_instruments(self, raw: np.ndarray) -> None:
        """Take the instruments' raw actions (B, n, 3)."""
        self.signal, self.urgency, self.stop_atr = decisions.instrument_decision(raw, self.config.decision)

    def propose(self) -> np.ndarray:
        """Proposed weights (B, n) of the decisions taken, before risk."""
        self._fetch()
        blend = decisions.conviction(self.intent, self.confidence[:, self.domain_of], self.signal)
        share = self.allocation[:, self.domain_of] / self._per_domain
        target = decisions.target_weight(blend, share, self.appetite, self.vol_ann, self.config.decision)
        return np.where(self.active, self.weight + self.urgency * (target - self.weight), 0.0)

    # -- the bar ------------------------------------------------------------------------------------------------------

    def advance(self) -> StepResult:
        """Carry the decisions to the close of the next row."""
        return self.advance_with_weights(self.propose())

    def advance_with_weights(self, proposed: np.ndarray) -> StepResult:
        """Carry proposed weights (B, n) to the close of the next row, through risk, fills, stops, costs and marks.

        Raises
        ------
        MtquantError
            When a proposed weight is not finite: a policy has diverged, and money must not follow it.
        """
        self._fetch()
        if not np.isfinite(proposed).all():
            env, i = np.argwhere(~np.isfinite(proposed))[0]
            raise MtquantError(
                f"the proposed weight of {self.universe.symbols[i]} in environment {env} is {proposed[env, i]}; expected "
                "a finite number: has a policy diverged?"
            )
        book, oversight = self.book, self.oversight
        equity_before = book.equity.copy()
        playing = ~self.parked
        if not playing.all():
            proposed = np.where(playing[:, None], proposed, 0.0)
        self.proposed = proposed
        self.ordered = oversight.limit_at_close(self, proposed, self.weight) if oversight is not None else proposed
        wanted = self.units_of(self.ordered)

        next_row = self.row + playing
        bar = self._money[next_row]
        flags = self._flags[next_row]
        new_day = self._day[next_row] != self._day[self.row]
        book.begin_bar()
        book.stop = stops.trail(book.stop, np.sign(book.units), self.close, self.atr, self.stop_atr)
        self._pay_the_night(bar)
        if oversight is not None:
            oversight.begin_day(new_day, book.equity, np.logical_not(book.units.any(axis=1)))
        at_close = flags[:, channel.FILLS_AT_CLOSE]
        wanted, stopped = self._open(bar, flags, at_close, wanted)
        stopped |= self._fill(bar, flags, at_close, wanted)
        stopped |= self._trade_day(bar, at_close)
        self.stopped = stopped
        if oversight is not None:
            oversight.after_fills(flags[:, channel.TRADABLE], playing, np.logical_not(book.units.any(axis=1)))
            oversight.mark(book.equity, self._weights_at(bar[:, channel.LAST] * bar[:, channel.FX_LAST]), playing)
        book.bars_held += book.units != 0
        self._mark_value = bar[:, channel.LAST] * bar[:, channel.FX_LAST]
        self.row = next_row
        self.bars_done += playing
        self._fetched = False
        return self._account(np.where(equity_before > 0, equity_before, 1.0), new_day)

    def units_of(self, weight: np.ndarray, envs: np.ndarray | None = None) -> np.ndarray:
        """Whole lots of target weights at the last close, for all environments or the rows `envs`.

        Where a price or the equity is not positive there are no weights to aim at: such a target is read as the share of
        the position that stays.
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

    def _weights_at(self, unit_value: np.ndarray) -> np.ndarray:
        equity = self.book.equity
        return self.book.units * unit_value / np.where(equity > 0, equity, 1.0)[:, None]

    def _pay_the_night(self, bar: np.ndarray) -> None:
        self.book.finance(
            night_cost(
                self.book.units,
                self.unit_value,
                bar[:, channel.LONG_FINANCING],
                bar[:, channel.SHORT_FINANCING],
            )
        )

    def _open(
        self, bar: np.ndarray, flags: np.ndarray, at_close: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mark the open, take out positions that opened beyond their stop, and limit what would fill.

        Returns the units that fill and the mask of stopped positions, both (B, n).
        """
        book = self.book
        units = book.units
        fill = bar[:, channel.FILL]
        gap = np.where(at_close, 0.0, fill - bar[:, channel.PREVIOUS])
        book.settle(units * gap * bar[:, channel.FX_FILL])
        has_bar = flags[:, channel.TRADABLE]
        side = np.sign(units)
        hit = stops.open_stop_hit(book.stop, side, fill) & ~at_close & has_bar
        if hit.any():
            wanted = stops.without_reentry(wanted, side * hit)
            self._exit(hit, fill * bar[:, channel.FX_FILL], bar)
        rerun = hit.any(axis=1)
        if self.oversight is not None:
            at_open = np.where(at_close, self.unit_value, fill * bar[:, channel.FX_FILL])
            rerun |= self.oversight.mark(book.equity, self._weights_at(at_open), ~self.parked)
        openable = flags[:, channel.OPENING_ALLOWED] | at_close
        held = book.units
        enlarges = np.abs(wanted) > np.where(wanted * held > 0, np.abs(held), 0.0)
        refused = ((wanted != held) & ~has_bar) | (enlarges & ~openable)
        rerun |= refused.any(axis=1)
        if rerun.any():
            wanted = self._limit_fills(bar, at_close, wanted, has_bar, openable, np.flatnonzero(rerun))
        return wanted, hit

    def _limit_fills(
        self,
        bar: np.ndarray,
        at_close: np.ndarray,
        wanted: np.ndarray,
        has_bar: np.ndarray,
        openable: np.ndarray,
        envs: np.ndarray,
    ) -> np.ndarray:
        """Where not everything can fill as ordered, the rules run again over what would, which can only shrink it; and
        once more over what whole lots make of that."""
        wanted = wanted.copy()
        for attempt in count():
            before = wanted[envs]
            allowed = self._limited_once(bar, at_close[envs], before, has_bar[envs], openable[envs], envs, attempt)
            moved = (allowed != before).any(axis=1)
            wanted[envs] = allowed
            envs = envs[moved]
            if not len(envs):
                break
        return wanted

    def _limited_once(
        self,
        bar: np.ndarray,
        at_close: np.ndarray,
        wanted: np.ndarray,
        has_bar: np.ndarray,
        openable: np.ndarray,
        envs: np.ndarray,
        attempt: int,
    ) -> np.ndarray:
        """Units of `envs` (R, n) that may fill, in whole lots; all arguments but `bar` are theirs."""
        book = self.book
        held = book.units[envs]
        closing = np.where(wanted * held > 0, np.sign(held) * np.minimum(np.abs(wanted), np.abs(held)), 0.0)
        if self.oversight is None:
            allowed = np.where(openable, wanted, closing)
        else:
            # Where the open is not tradable, the last close is all that is known: the fill is at the close to come.
            at_open = bar[envs, channel.FILL] * bar[envs, channel.FX_FILL]
            # In debt the breakers flatten whatever the scale.
            equity = np.where(book.equity[envs] > 0, book.equity[envs], 1.0)[:, None]
            to_weight = np.where(at_close, self.unit_value[envs], at_open) / equity
            base = wanted * to_weight
            limited = self.oversight.limit_at_open(self, envs, base, held * to_weight, has_bar, openable, attempt)
            share = np.clip(np.where(base != 0, limited / np.where(base != 0, base, 1.0), 1.0), 0.0, 1.0)
            # A price of zero gives no weight to limit: nothing may be opened there.
            allowed = np.where(base != 0, wanted * share, closing)
        return np.where(has_bar, self.book.whole_lots(allowed), held)

    def _fill(self, bar: np.ndarray, flags: np.ndarray, at_close: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Fill the orders: at the open, or at the close where the open is not tradable. Returns the mask of positions
        (B, n) stopped on the way to such a close."""
        book = self.book
        hit = np.zeros_like(at_close)
        if at_close.any():
            wanted, hit = self._wait_for_the_close(bar, flags, at_close, wanted)
        price, fx = bar[:, channel.FILL], bar[:, channel.FX_FILL]
        traded = np.abs(wanted - book.units) * np.abs(price) * fx
        self._charge(traded, bar)
        book.stop = stops.after_fill(book.stop, book.units, wanted, price, self.atr, self.stop_atr)
        book.fill(wanted, price)
        return hit

    def _wait_for_the_close(
        self, bar: np.ndarray, flags: np.ndarray, at_close: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Carry positions whose orders fill at the close through the bar, with the stop they already had.

        Returns the units that fill and the mask of stopped positions, both (B, n).
        """
        book = self.book
        side = np.sign(book.units)
        low, high = bar[:, channel.BOTTOM], bar[:, channel.TOP]
        hit = stops.intrabar_stop_hit(book.stop, side, high, low) & at_close
        # A bar wholly beyond the stop opened there, at a price nobody knows: the exit is where any order of this bar
        # fills. The bar's own extreme would be a gift.
        jumped = side * (np.where(side > 0, high, low) - book.stop) < 0
        out = np.where(jumped, bar[:, channel.FILL], book.stop)
        last = np.where(hit, out, bar[:, channel.LAST])
        book.settle(np.where(at_close, book.units * (last - bar[:, channel.PREVIOUS]) * bar[:, channel.FX_LAST], 0.0))
        if hit.any():
            wanted = stops.without_reentry(wanted, side * hit)
            self._exit(hit, np.where(hit, out, 0.0) * bar[:, channel.FX_LAST], bar)
        held = book.units
        closing = np.where(wanted * held > 0, np.sign(held) * np.minimum(np.abs(wanted), np.abs(held)), 0.0)
        return np.where(at_close & ~flags[:, channel.OPENING_ALLOWED], closing, wanted), hit

    def _trade_day(self, bar: np.ndarray, at_close: np.ndarray) -> np.ndarray:
        """From the fill to the close, with stops inside the bar. Returns the mask of stopped positions (B, n)."""
        book = self.book
        side = np.sign(book.units)
        hit = stops.intrabar_stop_hit(book.stop, side, bar[:, channel.TOP], bar[:, channel.BOTTOM]) & ~at_close
        last = np.where(hit, book.stop, bar[:, channel.LAST])
        book.settle(np.where(at_close, 0.0, book.units * (last - bar[:, channel.FILL]) * bar[:, channel.FX_LAST]))
        if hit.any():
            self._exit(hit, np.where(hit, book.stop, 0.0) * bar[:, channel.FX_LAST], bar)
        return hit

    def _exit(self, hit: np.ndarray, unit_value: np.ndarray, bar: np.ndarray) -> None:
        """Charge and empty the positions that a stop took out, at a value per unit in account currency."""
        self._charge(np.where(hit, np.abs(self.book.units * unit_value), 0.0), bar)
        self.book.flatten(hit)

    def _charge(self, traded_ccy: np.ndarray, bar: np.ndarray) -> None:
        cost = self.config.cost
        self.book.traded_ccy += traded_ccy
        self.book.charge(
            trade_cost(
                traded_ccy,
                bar[:, channel.COST],
                self.sigma_day,
                self._adv_ccy,
                cost.impact_coefficient,
                cost.impact_free_adv_share,
            )
        )

    # -- results ------------------------------------------------------------------------------------------------------

    def _account(self, equity_before: np.ndarray, new_day: np.ndarray) -> StepResult:
        """Returns, rewards and endings of the bar just closed."""
        book = self.book
        net_ccy = book.pnl_ccy - book.cost_ccy - book.financing_ccy
        self.instrument_return = net_ccy / equity_before[:, None]
        domain_return = self._by_domain(self.instrument_return)
        self.portfolio_return = row_sums(domain_return)
        streams = np.concatenate((self.portfolio_return[:, None], domain_return, self.instrument_return), axis=1)
        self.daily.step(equity_before, book.equity, new_day)
        self.record.step(domain_return)
        drawdown_increment = self.drawdown.step(streams)
        differential_sharpe = self.sharpe.step(self._standardise(streams))
        if self.scene.phase == 3:
            reward = self._joint_reward(streams, drawdown_increment)
        else:
            reward = differential_sharpe
        bankrupt = (book.equity <= 0) & ~self.parked
        terminated = bankrupt
        if self.oversight is not None and self.scene.ends_on_halt:
            terminated = bankrupt | (self.oversight.episode_is_over() & ~self.parked)
        truncated = (self.row >= self.stop_row) & ~terminated & ~self.parked
        return StepResult(reward, terminated, truncated, self.portfolio_return)

    def _by_domain(self, of_instruments: np.ndarray) -> np.ndarray:
        """Sums over each domain's instruments, (B, n) -> (B, D)."""
        return np.stack([row_sums(of_instruments[:, part]) for part in self.universe.domain_slices], axis=1)

    def _standardise(self, streams: np.ndarray) -> np.ndarray:
        """Net returns in units of the volatility that each book was sized for, (B, 1 + D + n), clipped."""
        d = self.universe.n_domains
        snap = max(self.config.decision.snap_below, _LEAST_SHARE)
        # A book that has just been given nothing still winds down: its scale does not fall below the smallest share.
        share = np.maximum(self.allocation, snap) * np.maximum(self.appetite, snap)[:, None]
        scale = np.empty_like(streams)
        scale[:, 0] = self.sigma_target
        scale[:, 1 : 1 + d] = share * self.sigma_target
        scale[:, 1 + d :] = share[:, self.domain_of] / self._per_domain * self._sigma_target_of
        if self.scene.domain is not None:
            scale[:, 1 + self.scene.domain] /= len(self.universe.domains[self.scene.domain].symbols)
        clip = self.settings.rewards.differential_sharpe.clip
        return np.clip(streams / scale, -clip, clip)

    def _joint_reward(self, streams: np.ndarray, drawdown_increment: np.ndarray) -> np.ndarray:
        """Risk-adjusted performance, (B, 1 + D + n), in units of the target's bar volatility: own book and the team's."""
        weights = self.settings.rewards
        d = self.universe.n_domains
        edited = np.abs(self.proposed - self.ordered)
        edits = np.concatenate((row_sums(edited)[:, None], self._by_domain(edited), edited), axis=1)
        score = (streams - weights.drawdown * drawdown_increment) / self.sigma_target - weights.edits * edits
        var = self.oversight.var_forecast() if self.oversight is not None else np.full(self.n_envs, np.inf)
        score[:, 0] -= weights.var_excess * rewards.var_excess(self.portfolio_return, var) / self.sigma_target
        own = 1.0 - weights.team_share
        joint = own * score + weights.team_share * score[:, :1]
        assert joint.shape[1] == 1 + d + self.universe.n_instruments
        return joint
