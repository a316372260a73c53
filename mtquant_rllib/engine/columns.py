"""What a runner hands to the learner: columns over (bar, environment), not objects per agent and step.

RLlib's episode objects cost more than environment and networks together once twelve agents take turns. A fragment is
the same content as a few arrays per level of the desk, with masks that say where somebody decided and where episodes
ended. Of what was seen only the private columns travel: the rest is a function of the row of the feature table, which
the learner has too (`observed`). A bar of twelve agents is 1.4 kB so, and would be 4.7.

Discounts follow time, not turns: a decision that held for five bars discounts what comes after by gamma^5, so an agent
that decides every five bars and one that decides every bar value the same future alike. A decision that is still being
held when the fragment ends is left to the next one, whose row 0 carries what it has earned so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mtquant_rllib.env.observation_reconstruction import ObservationReconstruction


@dataclass
class LevelColumns:
    """The decisions of one level: n seats beside each other in each of B environments, over T bars.

    Rows 1 to T are bars; row 0 stands for what is held from the fragment before. R counts the decisions, in the order
    of `np.nonzero(due)`; E the truncated episodes, in that of `np.nonzero(truncated)`.

    agents
        Ids of the level's agents. Seat i is agent i, or where one seat serves several, the one on turn.
    domain
        Of a single-domain desk; None where all domains play.
    modules
        Module ids that `seats` counts.
    seats
        int8 (R, n): which of `modules` decided. A seat of an environment keeps its module within an episode.
    due
        bool (T + 1, B): a decision was taken.
    private, actions, inputs, log_probs
        float32 (R, n, p) of what was seen, (R, n, A) raw, (R, n, 2A) of the distribution, (R, n).
    rewards
        float64 (T + 1, B, n): of the bar; row 0 what a held decision earned before.
    bars
        int64 (T + 1, B): bars that the row stands for; 0 where an environment did not play.
    terminated, truncated
        bool (T + 1, B): the episode ended with this bar.
    market_rows, turns
        int64 and int8 (T + 1, B): the row of the feature table that was seen, and which of the domain's instruments is
        on turn in a single-domain episode (0 elsewhere); row 0 of a held decision.
    final, final_seats
        float32 (E, n, p), int8 (E, n): what was seen where an episode was cut off, and by whom.
    bootstrap, bootstrap_seats, bootstrap_due, bootstrap_rows, bootstrap_turns
        float32 (B, n, p), int8 (B, n), bool (B,), int64 (B,), int8 (B,): what is seen after the last bar, where a
        decision is due then.
    regimes
        int8 (T + 1, B): the detector's label on `market_rows`, where a module that learns is taught it; None elsewhere.
    """

    agents: tuple[str, ...]
    domain: int | None
    modules: tuple[str, ...]
    seats: np.ndarray
    due: np.ndarray
    private: np.ndarray
    actions: np.ndarray
    inputs: np.ndarray
    log_probs: np.ndarray
    rewards: np.ndarray
    bars: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    market_rows: np.ndarray
    turns: np.ndarray
    final: np.ndarray
    final_seats: np.ndarray
    bootstrap: np.ndarray
    bootstrap_seats: np.ndarray
    bootstrap_due: np.ndarray
    bootstrap_rows: np.ndarray
    bootstrap_turns: np.ndarray
    regimes: np.ndarray | None = None

    def agents_at(self, turns: np.ndarray) -> np.ndarray:
        """Who sits where when `turns` (k,) was the domain's instrument on turn: indices into `agents`, (k, n)."""
        n_seats = self.rewards.shape[2]
        if n_seats < len(self.agents):
            return turns[:, None].astype(np.int64)
        return np.broadcast_to(np.arange(n_seats), (len(turns), n_seats))

    def of_environments(self, chosen: slice) -> LevelColumns:
        """The decisions of a range of environments."""
        start, stop, _ = chosen.indices(self.due.shape[1])

        def theirs(mask: np.ndarray) -> np.ndarray:
            env = np.nonzero(mask)[1]
            return (start <= env) & (env < stop)

        decided, ended = theirs(self.due), theirs(self.truncated)
        over_bars = ("due", "rewards", "bars", "terminated", "truncated", "market_rows", "turns")
        over_decisions = ("seats", "private", "actions", "inputs", "log_probs")
        bootstraps = ("bootstrap", "bootstrap_seats", "bootstrap_due", "bootstrap_rows", "bootstrap_turns")
        parts = {name: getattr(self, name)[:, chosen] for name in over_bars}
        if self.regimes is not None:
            parts["regimes"] = self.regimes[:, chosen]
        parts |= {name: getattr(self, name)[decided] for name in over_decisions}
        parts |= {name: getattr(self, name)[ended] for name in ("final", "final_seats")}
        parts |= {name: getattr(self, name)[chosen] for name in bootstraps}
        return replace(self, **parts)


@dataclass
class Fragment:
    """What runner `runner` sampled in one call: `bars` environment-bars, and the columns of every level that learns.

    The arrays are the runner's own buffers: in the runner's process they hold until it samples again.
    """

    bars: int
    levels: list[LevelColumns] = field(default_factory=list)
    runner: int = 0

    def env_steps(self) -> int:
        return self.bars

    def agent_steps(self) -> int:
        return sum(level.seats.size for level in self.levels)

    def __len__(self) -> int:
        return self.bars

    @property
    def environments(self) -> int:
        return self.levels[0].due.shape[1]

    def of_environments(self, chosen: slice) -> Fragment:
        """What a range of environments did."""
        levels = [level.of_environments(chosen) for level in self.levels]
        desks = {level.domain: level.bars[1:].sum() for level in levels}
        return Fragment(int(sum(desks.values())), levels, self.runner)


@dataclass
class Closed:
    """How each decision of a level came out, R of them in the order of `np.nonzero(due)`.

    t, env
        Where it was taken.
    until
        Row of the next decision, or the one after the last bar of its episode; T + 1 where the fragment ends before.
    ends
        Whether the episode ended with it.
    known
        Whether its successor is: not where it is still being held when the fragment ends.
    rewards, bars
        (R, n) earned until then, undiscounted, and how many bars it was held, (R,).
    """

    t: np.ndarray
    env: np.ndarray
    until: np.ndarray
    ends: np.ndarray
    known: np.ndarray
    rewards: np.ndarray
    bars: np.ndarray


def closed_decisions(level: LevelColumns) -> Closed:
    """Follow every decision to the next one, to the end of its episode or to the end of the fragment."""
    n_rows, n_envs = level.due.shape
    n_seats = level.rewards.shape[2]
    nowhere = n_rows
    row = np.arange(n_rows)[:, None]
    next_due = np.full((n_rows, n_envs), nowhere)
    next_due[:-1] = _first_from(np.where(level.due, row, nowhere))[1:]
    next_end = _first_from(np.where(level.terminated | level.truncated, row, nowhere))
    # An ending bar belongs to the decision before it: the next decision comes a row later at the earliest.
    ends = next_end < next_due
    stop = np.where(ends, next_end + 1, next_due)

    t, env = np.nonzero(level.due)
    until, ends = stop[t, env], ends[t, env]
    earned = np.concatenate((np.zeros((1, n_envs, n_seats)), np.cumsum(level.rewards, axis=0)))
    passed = np.concatenate((np.zeros((1, n_envs), np.int64), np.cumsum(level.bars, axis=0)))
    return Closed(
        t=t,
        env=env,
        until=until,
        ends=ends,
        known=ends | (until < nowhere) | level.bootstrap_due[env],
        rewards=earned[until, env] - earned[t, env],
        bars=passed[until, env] - passed[t, env],
    )


def observed(level: LevelColumns, recall: ObservationReconstruction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 (R, n, F), (E, n, F), (B, n, F): what was seen at each decision, where episodes were cut off, and after
    the last bar."""

    def whole(private: np.ndarray, rows: np.ndarray, turns: np.ndarray) -> np.ndarray:
        n_looks, n_seats, width = private.shape
        agents = level.agents_at(turns).ravel()
        seen = recall(agents, rows.repeat(n_seats), turns.repeat(n_seats), private.reshape(n_looks * n_seats, width))
        return seen.reshape(n_looks, n_seats, recall.width)

    cut = level.truncated
    return (
        whole(level.private, level.market_rows[level.due], level.turns[level.due]),
        # An episode is cut off on the row after its last bar's.
        whole(level.final, level.market_rows[cut] + 1, level.turns[cut]),
        whole(level.bootstrap, level.bootstrap_rows, level.bootstrap_turns),
    )


def advantages(
    level: LevelColumns,
    values: np.ndarray,
    final_values: np.ndarray,
    tail_values: np.ndarray,
    gamma: float,
    lambda_: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generalised advantage estimates (Schulman et al. 2016), value targets, and which decisions they exist for.

    values (R, n), final_values (E, n) and tail_values (B, n) are those of what was `observed`. Returns
    float32 (R, n) twice and bool (R,): False for a decision that is still held when the fragment ends. With d_t bars
    between decision t and the next,

        delta_t = r_t + gamma^d_t V_t+1 - V_t,      A_t = delta_t + (gamma lambda)^d_t A_t+1,

    where the last V is 0 after a termination, and A is 0 after either ending. Rewards inside a decision's bars are not
    discounted.
    """
    n_rows, n_envs = level.due.shape
    n_seats = level.rewards.shape[2]
    nowhere = n_rows
    closed = closed_decisions(level)
    t, env, until, ends, known = closed.t, closed.env, closed.until, closed.ends, closed.known
    reward, held = closed.rewards, closed.bars[:, None]

    after = np.zeros((n_rows + 1, n_envs, n_seats))
    after[t, env] = values
    after[nowhere] = np.where(level.bootstrap_due[:, None], tail_values, 0.0)
    at_end = np.zeros((n_rows, n_envs, n_seats))
    at_end[np.nonzero(level.truncated)] = final_values
    following = np.where(ends[:, None], at_end[until - 1, env], after[until, env])

    delta = np.zeros((n_rows, n_envs, n_seats))
    decay = np.ones((n_rows, n_envs, 1))
    delta[t, env] = np.where(known[:, None], reward + gamma**held * following - values, 0.0)
    decay[t, env] = np.where((known & ~ends)[:, None], (gamma * lambda_) ** held, 0.0)
    running = np.zeros((n_envs, n_seats))
    for now in range(n_rows - 1, -1, -1):
        running = delta[now] + decay[now] * running
        delta[now] = running
    advantage = delta[t, env]
    return advantage.astype(np.float32), (advantage + values).astype(np.float32), known


def _first_from(rows: np.ndarray) -> np.ndarray:
    """The smallest entry at or after each row."""
    return np.minimum.accumulate(rows[::-1], axis=0)[::-1]
