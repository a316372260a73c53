"""Columns to advantages: GAE by hand and by RLlib, discounting by time, endings, what is held over a cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from mtquant_rllib.engine.fragments import Fragment, LevelColumns, advantages
from mtquant_rllib.engine.learning.ppo.update import minibatch_indices


def level(
    rewards: np.ndarray,
    due: np.ndarray | None = None,
    terminated: np.ndarray | None = None,
    truncated: np.ndarray | None = None,
    bootstrap_due: bool = True,
) -> LevelColumns:
    """One slot in B environments; rewards (T, B). Nothing is held from before."""

    def rows(array: np.ndarray | None, fill: bool) -> np.ndarray:
        array = np.full(rewards.shape, fill) if array is None else array
        return np.concatenate((np.zeros((1, n_envs), array.dtype), array))

    n_envs = rewards.shape[1]
    due, terminated, truncated = rows(due, True), rows(terminated, False), rows(truncated, False)
    n_rows, n_ends = int(due.sum()), int(truncated.sum())
    return LevelColumns(
        agents=("a",),
        domain=None,
        modules=("m",),
        module_index=np.zeros((n_rows, 1), np.int8),
        due=due,
        private=np.zeros((n_rows, 1, 2), np.float32),
        actions=np.zeros((n_rows, 1, 1), np.float32),
        action_dist_inputs=np.zeros((n_rows, 1, 2), np.float32),
        log_probs=np.zeros((n_rows, 1), np.float32),
        rewards=rows(rewards, False)[:, :, None],
        bars=rows(np.ones(rewards.shape, np.int64), True),
        terminated=terminated,
        truncated=truncated,
        market_rows=np.zeros(due.shape, np.int64),
        active_instrument=np.zeros(due.shape, np.int8),
        final=np.zeros((n_ends, 1, 2), np.float32),
        final_module_index=np.zeros((n_ends, 1), np.int8),
        bootstrap=np.zeros((n_envs, 1, 2), np.float32),
        bootstrap_module_index=np.zeros((n_envs, 1), np.int8),
        bootstrap_due=np.full(n_envs, bootstrap_due),
        bootstrap_rows=np.zeros(n_envs, np.int64),
        bootstrap_active_instrument=np.zeros(n_envs, np.int8),
    )


def estimate(
    columns: LevelColumns,
    values: list[float],
    bootstrap: float,
    gamma: float,
    lambda_: float,
    final: tuple[float, ...] = (),
) -> np.ndarray:
    """Advantages of one environment."""
    given = (np.array(values)[:, None], np.array(final).reshape(-1, 1), np.array([[bootstrap]]))
    advantage, target, known = advantages(columns, *given, gamma, lambda_)
    np.testing.assert_allclose(target - advantage, given[0], atol=1e-6)
    return advantage[known, 0]


def test_one_step_advantage_is_the_temporal_difference() -> None:
    assert estimate(level(np.array([[1.0]])), [2.0], 4.0, 0.5, 0.9) == pytest.approx([1.0 + 0.5 * 4.0 - 2.0])


def test_nothing_is_valued_after_a_termination_but_after_a_truncation() -> None:
    yes = np.array([[True]])
    ended = level(np.array([[1.0]]), terminated=yes)
    assert estimate(ended, [0.0], 10.0, 0.9, 1.0) == pytest.approx([1.0])
    cut = level(np.array([[1.0]]), truncated=yes)
    assert estimate(cut, [0.0], 77.0, 0.9, 1.0, final=(10.0,)) == pytest.approx([10.0])


def test_a_decision_that_held_five_bars_discounts_the_future_by_five_and_earns_all_of_their_rewards() -> None:
    due = np.array([[True], [False], [False], [False], [False]])
    held = level(np.ones((5, 1)), due=due)
    assert estimate(held, [0.0], 1.0, 0.9, 0.3) == pytest.approx([5.0 + 0.9**5])


def test_a_decision_still_held_at_the_cut_is_left_to_the_next_fragment_with_what_it_earned() -> None:
    due = np.array([[True], [False], [True], [False]])
    now = level(np.array([[1.0], [2.0], [3.0], [4.0]]), due=due, bootstrap_due=False)
    assert estimate(now, [0.5, 5.0], 0.0, 0.9, 1.0) == pytest.approx([1.0 + 2.0 + 0.9**2 * 5.0 - 0.5])
    later = level(np.array([[5.0], [6.0]]), due=np.array([[False], [True]]))
    later.due[0], later.rewards[0], later.bars[0] = True, 3.0 + 4.0, 2
    assert estimate(later, [5.0, 1.0], 2.0, 0.9, 0.0) == pytest.approx(
        [12.0 + 0.9**3 * 1.0 - 5.0, 6.0 + 0.9 * 2.0 - 1.0]
    )


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_gae_equals_rllibs_where_everybody_decides_every_bar(seed: int, gamma: float, lambda_: float) -> None:
    rng = np.random.default_rng(seed)
    n_bars, n_envs = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    rewards, values = rng.normal(size=(2, n_bars, n_envs))
    ending = rng.choice(3, size=(n_bars, n_envs), p=[0.7, 0.15, 0.15])
    terminated, truncated = ending == 1, ending == 2
    final, bootstrap = rng.normal(size=(int(truncated.sum()), 1)), rng.normal(size=(n_envs, 1))
    columns = level(rewards, terminated=terminated, truncated=truncated)
    mine, _, known = advantages(columns, values.reshape(-1, 1), final, bootstrap, gamma, lambda_)
    assert known.all()
    for env in range(n_envs):
        at_end = np.zeros((n_bars, n_envs))
        at_end[truncated] = final[:, 0]
        stops = [t + 1 for t in range(n_bars) if ending[t, env]]
        for start, stop in zip([0, *stops], [*stops, n_bars]):
            if start == stop:
                continue
            last = at_end[stop - 1, env] if ending[stop - 1, env] else bootstrap[env, 0]
            # RLlib values one row more, the last one seen, and masks it out later.
            ended = np.zeros((2, stop - start + 1))
            ended[0, -2], ended[1, -2] = terminated[stop - 1, env], not terminated[stop - 1, env]
            targets = compute_value_targets(
                values=np.append(values[start:stop, env], last),
                rewards=np.append(rewards[start:stop, env], 0.0),
                terminateds=ended[0],
                truncateds=ended[1],
                gamma=gamma,
                lambda_=lambda_,
            )
            own = mine.reshape(n_bars, n_envs)[start:stop, env]
            np.testing.assert_allclose(own, targets[:-1] - values[start:stop, env], atol=1e-5)


def test_steps_of_a_fragment_are_bars_and_rows_of_its_agents() -> None:
    fragment = Fragment(3, [level(np.zeros((3, 1))), level(np.zeros((3, 1)), due=np.array([[True], [False], [False]]))])
    assert (fragment.env_steps(), fragment.agent_steps()) == (3, 4)


@pytest.mark.parametrize(("count", "parts"), [(100, 6), (20, 1), (7, 1), (0, 0)])
def test_a_module_sees_each_of_its_own_rows_once_an_epoch(count: int, parts: int) -> None:
    """A controller with a fifth of the rows is not trained five times as often (RLlib's iterator would)."""
    seen = minibatch_indices(count, 3, 16, np.random.default_rng(0))
    assert len(seen) == 3 * parts
    if count:
        assert np.bincount(np.concatenate(seen), minlength=count).tolist() == [3] * count
        assert parts == 1 or seen[0].tolist() != seen[parts].tolist()
