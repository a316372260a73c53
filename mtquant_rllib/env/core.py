"""`Desk`: the decisions of twelve agents for B environments as arrays.

A bar has three decisions and one advance. The desk is driven by whoever holds the policies:

    meta_obs = desk.observe_meta();           desk.decide_meta(raw)              where desk.meta_is_due
    obs_d    = desk.observe_specialist(d);    desk.decide_specialist(d, raw)     for each domain
    obs      = desk.observe_instruments();    desk.decide_instruments(raw)
    result   = desk.advance()

Each level observes what the level above has just decided. What carries the proposed weights to the next close is
`trading.Trading`.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env import decisions
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
from mtquant_rllib.env.scene import Oversight, Scene
from mtquant_rllib.env.scoring import Scorer
from mtquant_rllib.env.track_record import DailyReturns, TrackRecord
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.centres import Centres
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.book import row_sums
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


class Desk(Trading):
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
        if settings.universe.allocates:
            raise ConfigError("these settings have an allocator in place of the desk; play it with env.cores.core_for")
        super().__init__(settings, tape, features, n_envs, scene, oversight)
        universe = self.universe
        self.hub = hub
        n, n_domains = universe.n_instruments, universe.n_domains
        self.domain_of = np.array(universe.domain_of)
        self._per_domain = np.array([len(domain.symbols) for domain in universe.domains], dtype=np.float64)[
            self.domain_of
        ]
        self.scorer = Scorer(settings, tape, n_envs, scene)
        self.sharpe, self.drawdown = self.scorer.sharpe, self.scorer.drawdown

        self.allocation = np.zeros((n_envs, n_domains))
        self.appetite = np.zeros(n_envs)
        self.intent = np.zeros((n_envs, n))
        self.confidence = np.zeros((n_envs, n_domains))
        self.signal = np.zeros((n_envs, n))
        self.urgency = np.zeros((n_envs, n))
        self.daily = DailyReturns(n_envs, self.config.observation.returns_days)
        self.record = TrackRecord(n_envs, n_domains, self.config.observation.track_record_bars)
        self._packed = PackedIndex(n)
        self._pair_sums = _domain_pair_sums(self._packed, self.domain_of, n_domains)
        self._centres = Centres.of(settings)
        self._observer = Observer(settings, features.columns)

    # -- episodes -----------------------------------------------------------------------------------------------------

    def reset(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        """Begin an episode in each environment of `envs` (indices), with the draw beside it."""
        envs = np.asarray(envs, dtype=np.int64)
        super().reset(envs, draws)
        for array in (self.allocation, self.appetite, self.intent, self.confidence, self.signal, self.urgency):
            array[envs] = 0.0
        if self.scene.domain is not None:
            first = self.universe.domain_slices[self.scene.domain].start
            self.active[envs] = False
            self.active[envs, [first + draw.turn for draw in draws]] = True
            self.allocation[envs, self.scene.domain] = [draw.allocation for draw in draws]
            self.appetite[envs] = 1.0
        self.scorer.reset(envs)
        self.daily.reset(envs, self.book.equity)
        self.record.reset(envs)

    @property
    def meta_is_due(self) -> np.ndarray:
        """Environments whose meta-controller decides at this bar, bool (B,)."""
        if self.scene.domain is not None:
            return np.zeros(self.n_envs, dtype=bool)
        return self.bars_done % self.config.decision.meta_every_bars == 0

    @property
    def specialists_are_due(self) -> np.ndarray:
        return self.bars_done % self.config.decision.specialists_every_bars == 0

    # -- what is known at the close of the row ------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Gather the row's known quantities once per bar."""
        if self._fetched:
            return
        super()._fetch()
        self.block = self._block[self.row]
        self._centres.take_off(self.block, self.context)
        if self.scene.domain is not None:
            self.block[~self.active] = 0.0
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

    def _reward(self, equity_before: np.ndarray, new_day: np.ndarray) -> np.ndarray:
        """Of all agents, (B, 1 + D + n)."""
        book, oversight = self.book, self.oversight
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
        return self.scorer.score(streams, self.allocation, self.appetite, edited, forecast)
