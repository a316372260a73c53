"""Columns to advantages: GAE by hand, discounting by time, epochs over each module's own rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from mtquant_rllib.training.fragments import Fragment, Trajectory, advantages, by_module, standardised
from mtquant_rllib.training.learner import ModuleEpochs


def trajectory(
    rewards: list[float], bars: list[int] | None = None, terminated: bool = False, module: str = "m"
) -> Trajectory:
    n = len(rewards)
    return Trajectory(
        module=module,
        observations=np.zeros((n + 1, 2), np.float32),
        actions=np.zeros((n, 1), np.float32),
        logits=np.zeros((n, 2), np.float32),
        log_probs=np.zeros(n, np.float32),
        rewards=np.array(rewards, float),
        bars=np.array(bars or [1] * n),
        terminated=terminated,
    )


def by_hand(one: Trajectory, values: np.ndarray, gamma: float, lambda_: float) -> np.ndarray:
    """The recursion, written out for one trajectory."""
    values = values.copy()
    if one.terminated:
        values[-1] = 0.0
    out, tail = np.zeros(len(one)), 0.0
    for t in reversed(range(len(one))):
        held = one.bars[t]
        delta = one.rewards[t] + gamma**held * values[t + 1] - values[t]
        tail = delta + (gamma * lambda_) ** held * tail
        out[t] = tail
    return out


def test_one_step_advantage_is_the_temporal_difference() -> None:
    advantage, target = advantages([trajectory([1.0])], np.array([2.0, 4.0]), gamma=0.5, lambda_=0.9)
    assert advantage == pytest.approx([1.0 + 0.5 * 4.0 - 2.0])
    assert target == pytest.approx([3.0])


def test_nothing_is_valued_after_a_termination_but_after_a_truncation() -> None:
    values = np.array([0.0, 10.0])
    assert advantages([trajectory([1.0], terminated=True)], values, 0.9, 1.0)[0] == pytest.approx([1.0])
    assert advantages([trajectory([1.0])], values, 0.9, 1.0)[0] == pytest.approx([10.0])


def test_a_decision_that_held_five_bars_discounts_the_future_by_five() -> None:
    advantage, _ = advantages([trajectory([0.0], bars=[5])], np.array([0.0, 1.0]), 0.9, 0.3)
    assert advantage == pytest.approx([0.9**5])


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_ragged_trajectories_are_each_what_they_are_alone(seed: int, gamma: float, lambda_: float) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        trajectory(list(rng.normal(size=n)), list(rng.integers(1, 6, n)), bool(rng.integers(2)))
        for n in rng.integers(1, 7, size=rng.integers(1, 5))
    ]
    values = [rng.normal(size=len(part) + 1) for part in parts]
    together, target = advantages(parts, np.concatenate(values), gamma, lambda_)
    alone = np.concatenate([by_hand(part, value, gamma, lambda_) for part, value in zip(parts, values)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(target - together, np.concatenate([value[:-1] for value in values]), atol=1e-5)


def test_a_constant_column_becomes_zeros_and_not_nan() -> None:
    assert not standardised(np.full(3, 7.0)).any()
    assert standardised(np.array([1.0, 3.0])) == pytest.approx([-1.0, 1.0])


def test_steps_of_a_fragment_are_bars_and_rows_of_its_agents() -> None:
    fragment = Fragment(3, [trajectory([1, 1, 1], module="a"), trajectory([1], module="b")])
    assert (fragment.env_steps(), fragment.agent_steps()) == (3, 4)
    assert {name: len(parts) for name, parts in by_module([fragment, fragment]).items()} == {"a": 2, "b": 2}


def test_every_module_sees_each_of_its_own_rows_once_an_epoch() -> None:
    """A controller with a fifth of the rows is not trained five times as often (RLlib's iterator would)."""
    rows = {"fast": 100, "slow": 20}
    batch = MultiAgentBatch({m: SampleBatch({"obs": torch.arange(n)}) for m, n in rows.items()}, 100)
    seen: dict[str, list[int]] = {module: [] for module in rows}
    for minibatch in ModuleEpochs(batch, n_epochs=3, size=16, rng=np.random.default_rng(0)):
        for module, part in minibatch.policy_batches.items():
            assert len(part["obs"]) <= 20
            seen[module] += part["obs"].tolist()
    for module, n in rows.items():
        assert np.bincount(seen[module], minlength=n).tolist() == [3] * n
