"""`Desk`: the decisions of twelve agents for B environments as arrays.

A bar has three decisions and one advance. The desk is driven from outside:

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

from mtquant_rllib.agents.groups import AgentGroup, agent_groups
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env import decisions
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.levels import Level
from mtquant_rllib.env.messages import (
    Alert,
    AllocationMessage,
    CommunicationHub,
    CoordinationSignal,
    PerformanceReport,
    active_alerts,
    allocation_messages,
    coordination_signals,
    performance_reports,
)
from mtquant_rllib.env.observations.desk_close import DeskClose, DomainRisk
from mtquant_rllib.env.observations.levels import ObservationWriter
from mtquant_rllib.env.prepared.rows import MarketRow
from mtquant_rllib.env.rewards.custom_terms import RewardBar, by_domain
from mtquant_rllib.env.rewards.desk import DeskReward
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.state.desk import DeskState
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.feature_means import FeatureMeans
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.short_rows import row_sums


class Desk(Trading):
    """B environments on one market. See the module's docstring for the order of calls."""

    state: DeskState

    def __init__(
        self,
        settings: Settings,
        execution: ExecutionData,
        features: FeatureTable,
        n_envs: int,
        setup: EpisodeSetup,
        risk: RiskLayer | None = None,
        hub: CommunicationHub | None = None,
    ) -> None:
        if settings.universe.allocates:
            raise ConfigError(
                "these settings have an allocator in place of the desk; play it with env.core_factory.core_for"
            )
        super().__init__(settings, execution, features, n_envs, setup, risk)
        universe = self.universe
        self.hub = hub
        self.domain_of = np.array(universe.domain_of)
        self._per_domain = np.array([len(domain.symbols) for domain in universe.domains], dtype=np.float64)[
            self.domain_of
        ]
        self.reward = DeskReward(settings, execution, setup)
        self._domains = DomainRisk(settings, execution)
        self._feature_means = FeatureMeans.of(settings)
        self._observer = ObservationWriter(settings, features.columns, setup)
        self._packed = PackedIndex(universe.n_instruments)
        # A specialist's training is of directions; the desk as a whole has a volatility to run at.
        self._scales = settings.desk.decision.risk_scale.exists and setup.domain is None

    def _new_state(self) -> DeskState:
        execution = self.execution
        return DeskState(self.settings, self.n_envs, execution.bars_per_year / execution.days_per_year)

    def _new_levels(self) -> tuple[Level, ...]:
        """All groups; in a single-domain episode the domain's specialist, and of its instruments the active one."""
        settings, domain = self.settings, self.setup.domain
        meta, *specialists, instruments = agent_groups(settings)
        all_envs = np.ones(self.n_envs, dtype=bool)

        def meta_level() -> Level:
            return Level(
                meta,
                meta.agents,
                1,
                observe=lambda: self.observe_meta()[:, None],
                decide=lambda raw, due=None: self.decide_meta(raw[:, 0], due),
                due=lambda: self.is_due(meta),
            )

        def specialist_level(group: AgentGroup) -> Level:
            assert group.domain is not None
            number = group.domain
            return Level(
                group,
                group.agents,
                1,
                observe=lambda: self.observe_specialist(number)[:, None],
                decide=lambda raw, due=None: self.decide_specialist(number, raw[:, 0], due),
                due=lambda: self.is_due(group),
            )

        if domain is None:
            instrument_level = Level(
                instruments,
                instruments.agents,
                len(instruments.agents),
                observe=self.observe_instruments,
                decide=lambda raw, due=None: self.decide_instruments(raw),
                due=lambda: all_envs,
            )
            return (meta_level(), *(specialist_level(group) for group in specialists), instrument_level)

        part, envs = self.universe.domain_slices[domain], np.arange(self.n_envs)

        def decide_active(raw: np.ndarray, due: np.ndarray | None = None) -> None:
            everywhere = np.zeros((self.n_envs, self.universe.n_instruments, raw.shape[2]))
            everywhere[envs, part.start + self.active_instrument()] = raw[:, 0]
            self.decide_instruments(everywhere)

        single = Level(
            instruments,
            instruments.agents[part],
            1,
            observe=lambda: self.observe_instruments()[envs, part.start + self.active_instrument()][:, None],
            decide=decide_active,
            due=lambda: all_envs,
            acting=lambda: self.active_instrument()[:, None],
        )
        return (specialist_level(specialists[domain]), single)

    def is_due(self, group: AgentGroup) -> np.ndarray:
        """Environments in which a group decides at this bar, bool (B,)."""
        return self.state.bars_done % group.every_bars == 0

    def active_instrument(self) -> np.ndarray:
        """Which of the domain's instruments is active in a single-domain episode, int (B,); 0 where all play."""
        if self.setup.domain is None:
            return np.zeros(self.n_envs, dtype=np.int64)
        return self.state.active[:, self.universe.domain_slices[self.setup.domain]].argmax(axis=1)

    # -- episodes -----------------------------------------------------------------------------------------------------

    def reset(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        """Begin an episode in each environment of `envs` (indices), each with its draw."""
        envs = np.asarray(envs, dtype=np.int64)
        super().reset(envs, draws)
        state = self.state
        if self.setup.domain is not None:
            first = self.universe.domain_slices[self.setup.domain].start
            state.active[envs] = False
            state.active[envs, [first + draw.active_instrument for draw in draws]] = True
            state.allocation[envs, self.setup.domain] = [draw.allocation for draw in draws]
            state.appetite[envs] = 1.0

    @property
    def meta_is_due(self) -> np.ndarray:
        """Environments whose meta-controller decides at this bar, bool (B,)."""
        if self.setup.domain is not None:
            return np.zeros(self.n_envs, dtype=bool)
        return self.state.bars_done % self.config.decision.meta_every_bars == 0

    @property
    def specialists_are_due(self) -> np.ndarray:
        return self.state.bars_done % self.config.decision.specialists_every_bars == 0

    # -- what is known at the close of the row ------------------------------------------------------------------------

    @property
    def close(self) -> DeskClose:
        """What is known at this close, market features less their means. Computed once a bar."""
        close = super().close
        assert isinstance(close, DeskClose)
        return close

    def _known_close(self) -> DeskClose:
        state, market = self.state, self._rows.at(self.state.row)
        block = self._rows.block.take(state.row, axis=0)
        self._feature_means.subtract_in_place(block, market.context)
        if self.setup.domain is not None:
            block[~state.active] = 0.0
        close = DeskClose(state, market, block, self.risk, self._domains)
        if self.hub is not None:
            self._report(self.hub, close)
        return close

    def _report(self, hub: CommunicationHub, close: DeskClose) -> None:
        """Publish the messages of this close: performance reports, coordination signals, alerts."""
        u, bar = self.universe, self.state.bars_done
        hub.publish(
            PerformanceReport,
            lambda envs: performance_reports(u, bar, close.track_sharpe, close.win_rate, close.utilisation, envs),
        )
        hub.publish(
            CoordinationSignal,
            lambda envs: coordination_signals(u, bar, close.hedge, close.domain_covariance, envs),
        )
        hub.publish(Alert, lambda envs: active_alerts(u, bar, close.alert, envs))

    # -- observations -------------------------------------------------------------------------------------------------

    def observe_meta(self) -> np.ndarray:
        """float32 (B, w): portfolio | correlation | specialists | macro; w = 74 for the eight instruments."""
        return self._observer.meta(self.close)

    def observe_specialist(self, domain: int) -> np.ndarray:
        """float32 (B, w): domain features | block of each instrument | own state."""
        return self._observer.specialist(self.close, domain)

    def observe_instruments(self) -> np.ndarray:
        """float32 (B, n, w): block | private state; w = 61 without columns of one's own. In a single-instrument episode
        the other instruments see zeros."""
        return self._observer.instruments(self.close)

    # -- decisions ----------------------------------------------------------------------------------------------------

    def decide_meta(self, raw: np.ndarray, due: np.ndarray | None = None) -> None:
        """Take the meta-controller's raw actions (B, D + 1) in the environments where it is due."""
        config = self.config.decision
        allocation, appetite = decisions.meta_decision(raw, config)
        if not config.hierarchy:
            allocation = np.full_like(allocation, min(1.0 / self.universe.n_domains, config.allocation_cap))
            appetite = np.ones_like(appetite)
        due = self.meta_is_due if due is None else due
        state = self.state
        np.copyto(state.allocation, allocation, where=due[:, None])
        np.copyto(state.appetite, appetite, where=due)
        self.close.invalidate_allocation()
        if self.hub is not None:
            self.hub.publish(
                AllocationMessage,
                partial(allocation_messages, self.universe, state.bars_done, state.allocation, state.appetite),
            )

    def decide_specialist(self, domain: int, raw: np.ndarray, due: np.ndarray | None = None) -> None:
        """Take a specialist's raw actions (B, 3 n_d + 1) in the environments where it is due."""
        intent, confidence = decisions.specialist_decision(raw, self.config.decision)
        if not self.config.decision.hierarchy:
            confidence = np.zeros_like(confidence)
        due = self.specialists_are_due if due is None else due
        part = self.universe.domain_slices[domain]
        np.copyto(self.state.intent[:, part], intent, where=due[:, None])
        np.copyto(self.state.confidence[:, domain], confidence, where=due)

    def decide_instruments(self, raw: np.ndarray) -> None:
        """Take the instruments' raw actions (B, n, 3)."""
        state = self.state
        signal, urgency, stop_atr = decisions.instrument_decision(raw, self.config.decision)
        state.signal[:], state.urgency[:], state.stop_atr[:] = signal, urgency, stop_atr

    def propose(self) -> np.ndarray:
        """Proposed weights (B, n) of the decisions taken, before risk."""
        state, weight = self.state, self.weight
        blend = decisions.conviction(state.intent, state.confidence[:, self.domain_of], state.signal)
        share = state.allocation[:, self.domain_of] / self._per_domain
        size, vol_ann, config = state.appetite, self.market.vol_ann, self.config.decision
        if self._scales:
            self._unscaled = decisions.target_weight(blend, share, np.ones(self.n_envs), vol_ann, config)
            size = size * state.risk_scale.current()
        target = decisions.target_weight(blend, share, size, vol_ann, config)
        return np.where(state.active, weight + state.urgency * (target - weight), 0.0)

    # -- the bar ------------------------------------------------------------------------------------------------------

    def _paid_streams(self, streams: np.ndarray, equity_before: np.ndarray) -> np.ndarray:
        """The streams of returns that rewards see, (B, K): less the share of costs that `rewards.cost_factor` says."""
        forgiven = 1.0 - self.settings.rewards.cost_factor
        if forgiven == 0.0:
            return streams
        cost = forgiven * self.book.cost_ccy / equity_before[:, None]
        by_part = by_domain(cost, self.universe.domain_slices)
        return streams + np.concatenate((row_sums(by_part)[:, None], by_part, cost), axis=1)

    def _reward(self, before: MarketRow, equity_before: np.ndarray, new_day: np.ndarray) -> np.ndarray:
        """Rewards of all agents, (B, 1 + D + n)."""
        state, risk = self.state, self.risk
        slices = self.universe.domain_slices
        domain_return = by_domain(self.instrument_return, slices)
        self.portfolio_return = row_sums(domain_return)
        streams = np.concatenate((self.portfolio_return[:, None], domain_return, self.instrument_return), axis=1)
        opens_day = state.daily.opens_day(new_day)
        state.daily.step(equity_before, state.book.equity, new_day)
        state.record.step(domain_return)
        edited = np.abs(self.proposed - self.ordered)
        if risk is None:
            forecast = np.full(self.n_envs, np.inf)
        else:
            # Rounding to whole lots is not an edit.
            edited *= risk.rule != 0
            forecast = risk.var_forecast()
        paid = self._paid_streams(streams, equity_before)
        if self._scales:
            variance = np.vecdot(self._packed.products(self._unscaled), before.covariance)
            state.risk_scale.step(variance * self.execution.days_per_year)
        bar = RewardBar(
            streams=paid,
            allocation=state.allocation,
            appetite=state.appetite,
            edited=edited,
            var_forecast=forecast,
            opens_day=opens_day,
            traded_ccy=state.book.traded_ccy,
            cost_ccy=state.book.cost_ccy,
            financing_ccy=state.book.financing_ccy,
            equity_before=equity_before,
            domain_slices=slices,
        )
        reward = self.reward.score(state.sharpe, state.drawdown, state.day_excess, bar)
        self.terms = self.reward.terms
        return reward
