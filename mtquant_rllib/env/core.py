"""`Desk`: one step of the whole system for B environments as arrays. The one implementation of a bar.

A bar has three decisions and one advance. The desk is driven by whoever holds the policies:

    meta_obs = desk.observe_meta();           desk.decide_meta(raw)              where desk.meta_is_due
    obs_d    = desk.observe_specialist(d);    desk.decide_specialist(d, raw)     for each domain
    obs      = desk.observe_instruments();    desk.decide_instruments(raw)
    result   = desk.advance()

Each level observes what the level above has just decided. At row t agents see what was known at the close of t;
`advance` carries the desk to the close of t + 1: nights are paid, the open is marked, stops and orders fill, the
close is marked. Whoever limits the desk (`Overseer`) is asked twice: with what is proposed at the close, and with
what would fill at the open.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env import decisions
from mtquant_rllib.env.bar import Bar
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.messages import (
    Alert,
    AllocationMessage,
    CommunicationHub,
    CoordinationSignal,
    PerformanceReport,
    alerts_standing,
    allocation_messages,
    coordination_signals,
    performance_reports,
)
from mtquant_rllib.env.observations import Observer
from mtquant_rllib.env.scene import Oversight, Scene, StepResult
from mtquant_rllib.env.scoring import Scorer
from mtquant_rllib.env.track_record import DailyReturns, TrackRecord
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio import tape as channel
from mtquant_rllib.portfolio.book import Book, row_sums
from mtquant_rllib.portfolio.tape import Tape
from mtquant_rllib.risk.packed import PackedIndex


def _domain_pair_sums(packed: PackedIndex, domain_of: np.ndarray, n_domains: int) -> np.ndarray:
    """Matrix (D * D, n_pairs) that sums packed pairwise products, off-diagonal ones counted twice, into a symmetric
    matrix of domains."""
    sums = np.zeros((len(packed.first), n_domains, n_domains))
    pairs, one, other = np.arange(len(packed.first)), domain_of[packed.first], domain_of[packed.second]
    np.add.at(sums, (pairs, one, other), 0.5)
    np.add.at(sums, (pairs, other, one), 0.5)
    return np.ascontiguousarray(sums.reshape(len(packed.first), -1).T)


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
        hub: CommunicationHub | None = None,
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
        self.hub = hub
        self.n_envs = n_envs
        self.config = settings.desk
        n, n_domains = universe.n_instruments, universe.n_domains
        self.domain_of = np.array(universe.domain_of)
        self._per_domain = np.array([len(domain.symbols) for domain in universe.domains], dtype=np.float64)[
            self.domain_of
        ]
        self.adv_ccy = np.array([row.adv_usd for row in settings.instruments])
        lot_units = np.array([row.contract * row.lot_step for row in settings.instruments])
        self.book = Book(n_envs, lot_units, self.config.account.start_equity_ccy)
        self.scorer = Scorer(settings, tape, n_envs, scene)
        self.sharpe, self.drawdown = self.scorer.sharpe, self.scorer.drawdown

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
        decided = (self.allocation, self.appetite, self.intent, self.confidence, self.signal, self.urgency)
        booked = (self.proposed, self.ordered, self.weight, self.portfolio_return, self.instrument_return)
        for array in (*decided, *booked):
            array[envs] = 0.0
        self.stop_atr[envs] = self.config.decision.stop_atr_min
        self.stopped[envs] = False
        if self.scene.domain is not None:
            first = self.universe.domain_slices[self.scene.domain].start
            self.active[envs] = False
            self.active[envs, [first + draw.turn for draw in draws]] = True
            self.allocation[envs, self.scene.domain] = [draw.allocation for draw in draws]
            self.appetite[envs] = 1.0
        self.scorer.reset(envs)
        self.daily.reset(envs, self.book.equity)
        self.record.reset(envs)
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
        return self.book.weights(self._mark_value)

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
        if self.hub is not None:
            self._report(self.hub)

    def _report(self, hub: CommunicationHub) -> None:
        """Send what stands at this close: the specialists' reports, the hedges between their books, the alerts."""
        u, bar = self.universe, self.bars_done
        hub.publish(
            PerformanceReport,
            lambda envs: performance_reports(u, bar, self.track_sharpe(), self.win_rate(), self.utilisation(), envs),
        )
        hub.publish(
            CoordinationSignal,
            lambda envs: coordination_signals(u, bar, self.hedge(), self.domain_covariance(), envs),
        )
        hub.publish(Alert, lambda envs: alerts_standing(u, bar, self.alert(), envs))

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
        """Risk used over risk allocated, (B, D): daily volatility of the domain's book over its allocation's share of
        the target. 0 where nothing is allocated."""

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
        if self.hub is not None:
            self.hub.publish(
                AllocationMessage,
                partial(allocation_messages, self.universe, self.bars_done, self.allocation, self.appetite),
            )

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
                f"the proposed weight of {self.universe.symbols[i]} in environment {env} is {proposed[env, i]}; "
                "expected a finite number: has a policy diverged?"
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
        domain_return = self.scorer.by_domain(self.instrument_return)
        self.portfolio_return = row_sums(domain_return)
        streams = np.concatenate((self.portfolio_return[:, None], domain_return, self.instrument_return), axis=1)
        self.daily.step(equity_before, book.equity, new_day)
        self.record.step(domain_return)
        edited = np.abs(self.proposed - self.ordered)
        if oversight is None:
            forecast = np.full(self.n_envs, np.inf)
        else:
            # Rounding to whole lots is nobody's edit.
            edited *= oversight.rule != 0
            forecast = oversight.var_forecast()
        reward = self.scorer.score(streams, self.allocation, self.appetite, edited, forecast)
        terminated = (book.equity <= 0) & ~self.parked
        if oversight is not None and self.scene.ends_on_halt:
            terminated |= oversight.episode_is_over() & ~self.parked
        truncated = (self.row >= self.stop_row) & ~terminated & ~self.parked
        return StepResult(reward, terminated, truncated, self.portfolio_return)
