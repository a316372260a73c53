"""The rollout buffers of a runner: preallocated columns, and decisions pending over the end of a fragment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ray.rllib.utils.metrics import NUM_MODULE_STEPS_SAMPLED, NUM_MODULE_STEPS_SAMPLED_LIFETIME

from mtquant_rllib.engine.fragments import LevelColumns
from mtquant_rllib.engine.sampling.exploration import log_probs
from mtquant_rllib.engine.sampling.policy_batch import PolicyBatch
from mtquant_rllib.env.levels import Level, agent_indices
from mtquant_rllib.env.trading import Trading


@dataclass
class PendingDecisions:
    """Decisions still in force at the end of the last fragment, by environment: their observation (private columns),
    action and rewards so far. `open`: bool (B,), the environments that have one."""

    open: np.ndarray
    module_index: np.ndarray
    private: np.ndarray
    actions: np.ndarray
    action_dist_inputs: np.ndarray
    rewards: np.ndarray
    bars: np.ndarray
    market_rows: np.ndarray
    active_instrument: np.ndarray


class RolloutBuffer:
    """Preallocated columns of one level that learns; row 0 is for decisions pending from the fragment before."""

    def __init__(self, level: Level, n_envs: int, n_bars: int) -> None:
        rows = n_bars + 1
        shape = (rows, n_envs, level.n_acting)
        self.n_bars = n_bars
        self.due = np.zeros((rows, n_envs), dtype=bool)
        self.module_index = np.zeros(shape, dtype=np.int8)
        self.private = np.zeros((*shape, len(level.state_columns)), dtype=np.float32)
        self.actions = np.zeros((*shape, level.n_actions), dtype=np.float32)
        self.action_dist_inputs = np.zeros((*shape, 2 * level.n_actions), dtype=np.float32)
        self.rewards = np.zeros(shape)
        self.final: list[np.ndarray] = []
        self.final_module_index: list[np.ndarray] = []

    def clear(self) -> None:
        self.due[:] = False
        self.rewards[:] = 0.0
        self.final, self.final_module_index = [], []


@dataclass
class GroupSampler:
    """One level of agents in this runner.

    modules, members
        Ids of its modules, and of each agent the index of its module.
    learning, exploring
        Of each module, bool.
    needs_regime_labels
        Whether a learning module has auxiliary losses.
    observations, outputs
        The last observations (B, n, F), and the policies' `[mean | log deviation]` for them, (B, n, 2A).
    """

    level: Level
    desk: Trading
    modules: tuple[str, ...]
    members: np.ndarray
    learning: np.ndarray
    exploring: np.ndarray
    needs_regime_labels: bool
    policies: PolicyBatch | None = None
    rollout: RolloutBuffer | None = None
    pending: PendingDecisions | None = None
    observations: np.ndarray | None = None
    outputs: np.ndarray | None = None

    @property
    def learns(self) -> bool:
        return bool(self.learning.any())

    @cached_property
    def _agent_indices(self) -> np.ndarray:
        return agent_indices(self.level.agents, self.desk.universe)

    @cached_property
    def _fixed_module_index(self) -> np.ndarray:
        return self.members[self.level.acting_agents(self.desk.n_envs)].astype(np.int8)

    def module_index(self) -> np.ndarray:
        """Index into `modules` of the module that decides for each acting agent, int8 (B, n)."""
        if self.level.acting is None:
            return self._fixed_module_index
        return self.members[self.level.acting()].astype(np.int8)

    @cached_property
    def _fixed_exploring(self) -> np.ndarray:
        return self.exploring[self._fixed_module_index]

    @cached_property
    def _fixed_agent_index(self) -> np.ndarray:
        return self._agent_indices[self.level.acting_agents(self.desk.n_envs)]

    def agent_index(self) -> np.ndarray:
        """Index of each acting agent among all of the universe, (B, n)."""
        return self._fixed_agent_index if self.level.acting is None else self._agent_indices[self.level.acting()]

    def explores(self) -> np.ndarray:
        """Whether each acting agent explores, bool (B, n)."""
        return self._fixed_exploring if self.level.acting is None else self.exploring[self.module_index()]

    def prepare(self, n_envs: int, n_bars: int) -> None:
        """Clear the columns and enter the pending decisions; allocates only where the number of bars has changed."""
        if not self.learns:
            return
        if self.rollout is None or self.rollout.n_bars != n_bars:
            self.rollout = RolloutBuffer(self.level, n_envs, n_bars)
        rollout, pending = self.rollout, self.pending
        rollout.clear()
        if pending is not None and pending.open.any():
            rollout.due[0] = pending.open
            for name in ("module_index", "private", "actions", "action_dist_inputs", "rewards"):
                getattr(rollout, name)[0] = getattr(pending, name)


class EpisodeFlags:
    """Bars played, ends of episodes, market rows and active instruments, (T + 1, B) each; row 0 is for the fragment
    before."""

    def __init__(self, n_envs: int, n_bars: int) -> None:
        shape = (n_bars + 1, n_envs)
        self.bars, self.terminated, self.truncated = np.zeros((3, *shape), dtype=bool)
        self.market_rows, self.active_instrument = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int8)


@dataclass
class BootstrapObservations:
    """Observations after a fragment's last bar (private columns), and where a decision is due then."""

    private: np.ndarray
    module_index: np.ndarray
    due: np.ndarray
    market_rows: np.ndarray
    active_instrument: np.ndarray


def level_columns(sampler: GroupSampler, flags: EpisodeFlags, bootstrap: BootstrapObservations) -> LevelColumns:
    """The columns of one level for a fragment. Decisions that still last stay with the sampler as pending."""
    rollout = sampler.rollout
    assert rollout is not None
    bars, market_rows, active_instrument = (
        flags.bars.astype(np.int64),
        flags.market_rows.copy(),
        flags.active_instrument.copy(),
    )
    if sampler.pending is not None:
        bars[0] = np.where(sampler.pending.open, sampler.pending.bars, 0)
        market_rows[0], active_instrument[0] = sampler.pending.market_rows, sampler.pending.active_instrument
    due = rollout.due
    rows = _rows(due)
    names = ("module_index", "private", "actions", "action_dist_inputs")
    columns = {name: rows(getattr(rollout, name)) for name in names}
    width, n_acting = len(sampler.level.state_columns), sampler.level.n_acting
    sampler.pending = _pending_decisions(rollout, bars, market_rows, active_instrument, flags, bootstrap)
    return LevelColumns(
        agents=sampler.level.agents,
        domain=sampler.desk.setup.domain,
        modules=sampler.modules,
        due=due,
        log_probs=log_probs(columns["actions"], columns["action_dist_inputs"]),
        rewards=rollout.rewards,
        bars=bars,
        terminated=flags.terminated,
        truncated=flags.truncated,
        market_rows=market_rows,
        active_instrument=active_instrument,
        final=np.concatenate([np.zeros((0, n_acting, width), np.float32), *rollout.final]),
        final_module_index=np.concatenate([np.zeros((0, n_acting), np.int8), *rollout.final_module_index]),
        bootstrap=bootstrap.private,
        bootstrap_module_index=bootstrap.module_index,
        bootstrap_due=bootstrap.due,
        bootstrap_rows=bootstrap.market_rows,
        bootstrap_active_instrument=bootstrap.active_instrument,
        regimes=sampler.desk.features.regime[market_rows] if sampler.needs_regime_labels else None,
        **columns,
    )


def _pending_decisions(
    rollout: RolloutBuffer,
    bars: np.ndarray,
    market_rows: np.ndarray,
    active_instrument: np.ndarray,
    flags: EpisodeFlags,
    bootstrap: BootstrapObservations,
) -> PendingDecisions | None:
    """Decisions that are followed by no other and by no end of an episode."""
    row = np.arange(len(bars))[:, None]
    decided = np.where(rollout.due, row, -1).max(axis=0)
    ended = np.where(flags.terminated | flags.truncated, row, -1).max(axis=0)
    pending = (decided >= 0) & (ended < decided) & ~bootstrap.due
    if not pending.any():
        return None
    envs = np.arange(len(pending))
    since = row >= decided
    at = (np.maximum(decided, 0), envs)
    return PendingDecisions(
        open=pending,
        module_index=rollout.module_index[at],
        private=rollout.private[at],
        actions=rollout.actions[at],
        action_dist_inputs=rollout.action_dist_inputs[at],
        rewards=np.where(since[:, :, None], rollout.rewards, 0.0).sum(axis=0),
        bars=np.where(since, bars, 0).sum(axis=0),
        market_rows=market_rows[at],
        active_instrument=active_instrument[at],
    )


def _rows(due: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that selects the rows that are due from columns (T + 1, B, ...); a view where all of 1 to T are."""
    if due[1:].all() and not due[0].any():
        n_rows = due[1:].size
        return lambda column: column[1:].reshape(n_rows, *column.shape[2:])
    return lambda column: column[due]


def log_module_steps(metrics: Any, samplers: Iterable[Sequence[GroupSampler]]) -> None:
    """Log RLlib's counts of decisions by module."""
    for sampler in (sampler for own in samplers for sampler in own if sampler.rollout is not None):
        assert sampler.rollout is not None
        module_index = sampler.rollout.module_index[1:][sampler.rollout.due[1:]]
        for number, module in enumerate(sampler.modules):
            steps = int((module_index == number).sum())
            metrics.log_value((NUM_MODULE_STEPS_SAMPLED, module), steps, reduce="sum")
            metrics.log_value((NUM_MODULE_STEPS_SAMPLED_LIFETIME, module), steps, reduce="lifetime_sum")
