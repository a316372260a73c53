"""`Allocator`: one agent that spreads the whole of each of B accounts over a few assets, long only.

    obs = allocator.observe();    allocator.decide(raw);    result = allocator.advance()

It trades as the desk does: fills at the next open, the same costs, financing, lots and risk rules, which have the last
word. Weights are a softmax of its raw actions, so they are positive and sum to one before lots and risk; it
sets no stops. What it sees is a function of the row alone, group by group (`layout.allocator_layout`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env import decisions
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.levels import Level
from mtquant_rllib.env.prepared.rows import MarketRow
from mtquant_rllib.env.rewards.regime_aware import BarView, RegimeAwareReward
from mtquant_rllib.env.rewards.terms import DifferentialSharpe
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.state.trading import TradingState
from mtquant_rllib.env.trading import NO_STOP_ATR, Trading
from mtquant_rllib.features.feature_means import FeatureMeans
from mtquant_rllib.features.layout import BLOCK, allocator_columns
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.short_rows import row_sums

_MOVE = "ret20"
"""Column of the block with the recent move that the reward reads."""


@dataclass(init=False, eq=False)
class AllocatorState(TradingState):
    """The state of B allocators.

    target
        Weights decided last, (B, n); equal weights before any decision.
    sharpe
        Moments of the portfolio's returns for the differential Sharpe ratio.
    """

    target: np.ndarray
    sharpe: DifferentialSharpe

    def __init__(self, settings: Settings, n_envs: int) -> None:
        super().__init__(settings, n_envs)
        n = settings.universe.n_instruments
        self.target = np.full((n_envs, n), 1.0 / n)
        self.sharpe = DifferentialSharpe(n_envs, 1, settings.rewards.differential_sharpe)

    def begin(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        super().begin(envs, draws)
        self.target[envs] = 1.0 / self.target.shape[1]
        self.sharpe.reset(np.asarray(envs, dtype=np.int64))


class Allocator(Trading):
    """See the module's docstring.

    Attributes
    ----------
    terms
        Reward terms of the last bar by name, (B,) each: fractions of equity, or for `differential_sharpe` its own unit.
    """

    state: AllocatorState

    def __init__(
        self,
        settings: Settings,
        execution: ExecutionData,
        features: FeatureTable,
        n_envs: int,
        setup: EpisodeSetup,
        risk: RiskLayer | None = None,
    ) -> None:
        super().__init__(settings, execution, features, n_envs, setup, risk)
        assert settings.allocator is not None
        self._allocator = own = settings.allocator
        n = self.universe.n_instruments
        self._seen = np.array(allocator_columns(self.universe.symbols))
        self._blocks = self._rows.block.reshape(len(self._rows.block), -1)
        self._feature_means = FeatureMeans.of(settings)
        self._move_columns = np.arange(n) * BLOCK.width + BLOCK.column(_MOVE)
        self._index = self.universe.symbols.index(settings.features.roles.index)
        self._packed = PackedIndex(n)
        self._sigma = own.reference_vol_ann / np.sqrt(execution.bars_per_year)
        self._regime_aware = RegimeAwareReward(own.regime_aware)
        self._last_bar: tuple[MarketRow, np.ndarray, np.ndarray] | None = None

    def _new_state(self) -> AllocatorState:
        return AllocatorState(self.settings, self.n_envs)

    def _new_levels(self) -> tuple[Level, ...]:
        (group,) = agent_groups(self.settings)
        all_envs = np.ones(self.n_envs, dtype=bool)
        return (
            Level(
                group,
                group.agents,
                1,
                observe=lambda: self.observe()[:, None],
                decide=lambda raw, due=None: self.decide(raw[:, 0]),
                due=lambda: all_envs,
            ),
        )

    def active_instrument(self) -> np.ndarray:
        """In an allocator all play: 0, int (B,)."""
        return np.zeros(self.n_envs, dtype=np.int64)

    def observe(self) -> np.ndarray:
        """float32 (B, 10 n): the columns of `layout.allocator_layout`."""
        return self._feature_means.centred_columns(self._blocks[self.state.row[:, None], self._seen], self._seen)

    def decide(self, raw: np.ndarray) -> None:
        """Take raw actions (B, n) in [-1, 1]."""
        self.state.target[:] = decisions.allocator_weights(raw, self._allocator.logit_scale)

    def propose(self) -> np.ndarray:
        """Weights (B, n) as decided."""
        self.state.stop_atr[:] = NO_STOP_ATR
        return self.state.target

    def _reward(self, before: MarketRow, equity_before: np.ndarray, new_day: np.ndarray) -> np.ndarray:
        """(B, 1), in bars of the reference volatility."""
        self.portfolio_return = row_sums(self.instrument_return)
        # The reward depends on the regime at the time of the decision.
        self._last_bar = before, self.state.row - ~self.state.done, equity_before
        clip = self._allocator.reward_clip
        if self._allocator.reward == "differential_sharpe":
            z = np.clip(self.portfolio_return / self._sigma, -clip, clip)
            reward = self.state.sharpe.step(z[:, None])
            self.terms = {"differential_sharpe": reward[:, 0]}
            return reward
        self.terms = self.regime_aware_terms()
        return np.clip(sum(self.terms.values()) / self._sigma, -clip, clip)[:, None]

    def regime_aware_terms(self) -> dict[str, np.ndarray]:
        """The regime-aware terms of the bar just closed, whatever `allocator.reward` is: fractions of equity, (B,)
        each."""
        return self._regime_aware(self.bar_view())

    def bar_view(self) -> BarView:
        """The bar just closed, as the reward terms read it."""
        assert self._last_bar is not None, "no bar has been played"
        book, (before, rows, equity_before) = self.book, self._last_bar
        held = book.units * before.unit_value / equity_before[:, None]
        matrix = self._packed.matrices(before.covariance)
        with_assets = np.matvec(matrix, held)
        variance = np.einsum("bi,bi->b", with_assets, held)
        index_variance = matrix[:, self._index, self._index]
        return BarView(
            net_return=self.portfolio_return,
            cost=row_sums(book.cost_ccy) / equity_before,
            traded=row_sums(book.traded_ccy) / equity_before,
            weights=held,
            moves=self._blocks[rows[:, None], self._move_columns],
            volatility_ann=np.sqrt(np.maximum(variance, 0.0) * self.execution.days_per_year),
            index_beta=with_assets[:, self._index] / np.where(index_variance > 0, index_variance, 1.0),
            regime=self.features.regime[rows].astype(np.int64),
        )
