"""Fragments: what runners hand to learners, as arrays over (bar, environment) and not as objects per agent and step.

RLlib's episode objects cost more than environment and networks together once twelve agents alternate. A fragment has
the same content as a few arrays per level of agents, with masks for decisions and for ends of episodes. Of observations
only the private columns travel: the rest is a function of the row of the feature table, which the learner has too
(`reconstruct_observations`). A bar of twelve agents is 1.4 kB instead of 4.7.

Discounts follow time, not decisions: a decision that lasts five bars discounts the next by gamma^5, so that an agent
that decides every five bars and one that decides every bar value the same future alike. A decision that still lasts
when the fragment ends is part of the next fragment, whose row 0 carries its rewards so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mtquant_rllib.env.observations.reconstruction import ObservationReconstruction


@dataclass
class LevelColumns:
    """The decisions of one level, n agents acting in each of B environments, over T bars.

    Rows 1 to T are bars; row 0 is for decisions pending from the fragment before. R counts the decisions, in the order
    of `np.nonzero(due)`; E the truncated episodes, in that of `np.nonzero(truncated)`.

    agents
        Ids of the level's agents: the n that act, or in a single-domain episode all those that may (n = 1).
    domain
        Index of the domain of single-domain episodes; None where all domains play.
    modules
        Ids of the modules that decide for them.
    module_index
        int8 (R, n): which of `modules` decided; the same throughout an episode.
    due
        bool (T + 1, B): a decision was taken.
    private, actions, action_dist_inputs, log_probs
        float32: private columns of the observation (R, n, p), raw actions (R, n, A), `[mean | log deviation]`
        (R, n, 2A), log-probabilities of the actions (R, n).
    rewards
        float64 (T + 1, B, n): of the bar; in row 0 those of a pending decision so far.
    bars
        int64 (T + 1, B): 1, or 0 where the environment did not play; in row 0 the bars of a pending decision so far.
    terminated, truncated
        bool (T + 1, B): the episode ended with this bar.
    market_rows, active_instrument
        int64 and int8 (T + 1, B): the row of the feature table that was observed, and which of the domain's instruments
        is active in a single-domain episode (0 elsewhere); in row 0 those of a pending decision.
    final, final_module_index
        float32 (E, n, p), int8 (E, n): private columns of the observation after a truncated episode's last bar, and the
        modules that would have decided.
    bootstrap, bootstrap_module_index, bootstrap_due, bootstrap_rows, bootstrap_active_instrument
        float32 (B, n, p), int8 (B, n), bool (B,), int64 (B,), int8 (B,): the same after the fragment's last bar, where
        a decision is due then, and the market row and the active instrument there.
    regimes
        int8 (T + 1, B): the detector's label on `market_rows` where a learning module has auxiliary losses; else None.
    """

    agents: tuple[str, ...]
    domain: int | None
    modules: tuple[str, ...]
    module_index: np.ndarray
    due: np.ndarray
    private: np.ndarray
    actions: np.ndarray
    action_dist_inputs: np.ndarray
    log_probs: np.ndarray
    rewards: np.ndarray
    bars: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    market_rows: np.ndarray
    active_instrument: np.ndarray
    final: np.ndarray
    final_module_index: np.ndarray
    bootstrap: np.ndarray
    bootstrap_module_index: np.ndarray
    bootstrap_due: np.ndarray
    bootstrap_rows: np.ndarray
    bootstrap_active_instrument: np.ndarray
    regimes: np.ndarray | None = None

    def agents_at(self, active_instrument: np.ndarray) -> np.ndarray:
        """Indices into `agents` of those that act, (k, n), when `active_instrument` (k,) is the domain's active
        instrument."""
        n_acting = self.rewards.shape[2]
        if n_acting < len(self.agents):
            return active_instrument[:, None].astype(np.int64)
        return np.broadcast_to(np.arange(n_acting), (len(active_instrument), n_acting))

    def of_environments(self, chosen: slice) -> LevelColumns:
        """The decisions of a range of environments."""
        start, stop, _ = chosen.indices(self.due.shape[1])

        def chosen_entries(mask: np.ndarray) -> np.ndarray:
            env = np.nonzero(mask)[1]
            return (start <= env) & (env < stop)

        decided, ended = chosen_entries(self.due), chosen_entries(self.truncated)
        over_bars = ("due", "rewards", "bars", "terminated", "truncated", "market_rows", "active_instrument")
        over_decisions = ("module_index", "private", "actions", "action_dist_inputs", "log_probs")
        bootstraps = (
            "bootstrap",
            "bootstrap_module_index",
            "bootstrap_due",
            "bootstrap_rows",
            "bootstrap_active_instrument",
        )
        parts = {name: getattr(self, name)[:, chosen] for name in over_bars}
        if self.regimes is not None:
            parts["regimes"] = self.regimes[:, chosen]
        parts |= {name: getattr(self, name)[decided] for name in over_decisions}
        parts |= {name: getattr(self, name)[ended] for name in ("final", "final_module_index")}
        parts |= {name: getattr(self, name)[chosen] for name in bootstraps}
        return replace(self, **parts)


@dataclass
class Fragment:
    """What runner `runner` sampled in one call: `bars` environment-bars, and the columns of every level that learns.

    The arrays are the runner's own buffers: in the runner's process they are overwritten when it samples again.
    """

    bars: int
    levels: list[LevelColumns] = field(default_factory=list)
    runner: int = 0

    def env_steps(self) -> int:
        return self.bars

    def agent_steps(self) -> int:
        return sum(level.module_index.size for level in self.levels)

    def __len__(self) -> int:
        return self.bars

    @property
    def environments(self) -> int:
        return self.levels[0].due.shape[1]

    def of_environments(self, chosen: slice) -> Fragment:
        """The part of a range of environments."""
        levels = [level.of_environments(chosen) for level in self.levels]
        bars_by_domain = {level.domain: level.bars[1:].sum() for level in levels}
        return Fragment(int(sum(bars_by_domain.values())), levels, self.runner)


@dataclass
class DecisionOutcomes:
    """What followed each decision of a level, R of them in the order of `np.nonzero(due)`.

    t, env
        Row and environment in which it was taken.
    until
        Row of the next decision, or the one after the last bar of its episode; T + 1 where the fragment ends before.
    ends
        Whether the episode ended with it.
    complete
        Whether it was over within the fragment; False while it is pending.
    rewards, bars
        Undiscounted rewards (R, n) until then, and the bars it lasted, (R,).
    """

    t: np.ndarray
    env: np.ndarray
    until: np.ndarray
    ends: np.ndarray
    complete: np.ndarray
    rewards: np.ndarray
    bars: np.ndarray


def decision_outcomes(level: LevelColumns) -> DecisionOutcomes:
    """Follow every decision to the next one, to the end of its episode or to the end of the fragment."""
    n_rows, n_envs = level.due.shape
    n_acting = level.rewards.shape[2]
    no_row = n_rows
    row = np.arange(n_rows)[:, None]
    next_due = np.full((n_rows, n_envs), no_row)
    next_due[:-1] = _first_from(np.where(level.due, row, no_row))[1:]
    next_end = _first_from(np.where(level.terminated | level.truncated, row, no_row))
    # An ending bar belongs to the decision before it: the next decision comes a row later at the earliest.
    ends = next_end < next_due
    stop = np.where(ends, next_end + 1, next_due)

    t, env = np.nonzero(level.due)
    until, ends = stop[t, env], ends[t, env]
    earned = np.concatenate((np.zeros((1, n_envs, n_acting)), np.cumsum(level.rewards, axis=0)))
    passed = np.concatenate((np.zeros((1, n_envs), np.int64), np.cumsum(level.bars, axis=0)))
    return DecisionOutcomes(
        t=t,
        env=env,
        until=until,
        ends=ends,
        complete=ends | (until < no_row) | level.bootstrap_due[env],
        rewards=earned[until, env] - earned[t, env],
        bars=passed[until, env] - passed[t, env],
    )


def reconstruct_observations(
    level: LevelColumns, reconstruct: ObservationReconstruction
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, float32 (R, n, F) at each decision, (E, n, F) after truncated episodes, (B, n, F) after the
    fragment's last bar."""

    def observations_of(private: np.ndarray, rows: np.ndarray, active_instrument: np.ndarray) -> np.ndarray:
        n_times, n_acting, width = private.shape
        agents, flat = level.agents_at(active_instrument).ravel(), private.reshape(n_times * n_acting, width)
        observations = reconstruct(agents, rows.repeat(n_acting), active_instrument.repeat(n_acting), flat)
        return observations.reshape(n_times, n_acting, reconstruct.width)

    truncated = level.truncated
    return (
        observations_of(level.private, level.market_rows[level.due], level.active_instrument[level.due]),
        # The row after the last bar's.
        observations_of(level.final, level.market_rows[truncated] + 1, level.active_instrument[truncated]),
        observations_of(level.bootstrap, level.bootstrap_rows, level.bootstrap_active_instrument),
    )


def advantages(
    level: LevelColumns,
    values: np.ndarray,
    final_values: np.ndarray,
    bootstrap_values: np.ndarray,
    gamma: float,
    lambda_: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generalised advantage estimates (Schulman et al. 2016), value targets, and which decisions are complete.

    values (R, n), final_values (E, n) and bootstrap_values (B, n) are those of what `reconstruct_observations` returns.
    Returns float32 (R, n) twice and bool (R,), False for a pending decision. With d_t bars between decision t and the
    next,

        delta_t = r_t + gamma^d_t V_t+1 - V_t,      A_t = delta_t + (gamma lambda)^d_t A_t+1,

    where the last V is 0 after a termination, and A is 0 after either ending. Rewards inside a decision's bars are not
    discounted.
    """
    n_rows, n_envs = level.due.shape
    n_acting = level.rewards.shape[2]
    no_row = n_rows
    outcomes = decision_outcomes(level)
    t, env, until, ends, complete = outcomes.t, outcomes.env, outcomes.until, outcomes.ends, outcomes.complete
    reward, bars = outcomes.rewards, outcomes.bars[:, None]

    after = np.zeros((n_rows + 1, n_envs, n_acting))
    after[t, env] = values
    after[no_row] = np.where(level.bootstrap_due[:, None], bootstrap_values, 0.0)
    at_end = np.zeros((n_rows, n_envs, n_acting))
    at_end[np.nonzero(level.truncated)] = final_values
    following = np.where(ends[:, None], at_end[until - 1, env], after[until, env])

    delta = np.zeros((n_rows, n_envs, n_acting))
    decay = np.ones((n_rows, n_envs, 1))
    delta[t, env] = np.where(complete[:, None], reward + gamma**bars * following - values, 0.0)
    decay[t, env] = np.where((complete & ~ends)[:, None], (gamma * lambda_) ** bars, 0.0)
    running = np.zeros((n_envs, n_acting))
    for now in range(n_rows - 1, -1, -1):
        running = delta[now] + decay[now] * running
        delta[now] = running
    advantage = delta[t, env]
    return advantage.astype(np.float32), (advantage + values).astype(np.float32), complete


def _first_from(rows: np.ndarray) -> np.ndarray:
    """The smallest entry at or after each row."""
    return np.minimum.accumulate(rows[::-1], axis=0)[::-1]
