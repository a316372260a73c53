"""The coefficients of PPO's loss go on from a learner's state: the next update is the one that would have been made."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from learners import built, parameters
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.sharding import ShardedBatch
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner


def one_update(learner: Any, fragments: list[Any], bars: int) -> None:
    learner.update(
        training_data=ShardedBatch(episodes=fragments),
        timesteps={"bars": bars, NUM_ENV_STEPS_SAMPLED_LIFETIME: bars + 200},
        num_epochs=2,
        minibatch_size=32,
    )


def config_with(make_config: Any, **training: Any) -> Any:
    coefficients = {"use_kl_loss": True, "kl_coeff": 0.5, "kl_target": 1e-6, "entropy_coeff": [[0, 0.1], [400, 0.0]]}
    return make_config(1, "forex").training(lr=1e-2, **{**coefficients, **training})


@pytest.fixture(scope="module")
def saved(make_config: Any) -> tuple[Any, Any, Any, list[Any]]:
    """A runner, a learner after its first update, its state then, and the sample for the second."""
    config = config_with(make_config)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    first, second = runner.sample(num_timesteps=200), runner.sample(num_timesteps=200)
    learner = built(BatchedLearner, config, runner)
    one_update(learner, first, 0)
    # A state is a view of the learner until it is written.
    return runner, learner, copy.deepcopy(learner.get_state()), second


@pytest.mark.slow
def test_the_second_update_after_a_restore_is_the_one_that_would_have_been(make_config: Any, saved: Any) -> None:
    runner, learner, state, second = saved
    restored = built(BatchedLearner, config_with(make_config), runner)
    restored.set_state(state)
    now = {name: float(kl) for name, kl in restored.curr_kl_coeffs_per_module.items()}
    assert now == {name: float(kl) for name, kl in learner.curr_kl_coeffs_per_module.items()}
    assert set(now.values()) != {0.5}, "they moved, or the test says nothing"
    for each in (learner, restored):
        one_update(each, second, 200)
    went_on, came_back = parameters(learner), parameters(restored)
    assert all(np.array_equal(went_on[key], came_back[key]) for key in went_on)


@pytest.mark.slow
def test_a_changed_coefficient_overrules_the_state(make_config: Any, saved: Any) -> None:
    runner, _, state, _ = saved
    changed = built(BatchedLearner, config_with(make_config, kl_coeff=0.7), runner)
    changed.set_state(state)
    names = list(changed.module.keys())
    assert {float(changed.curr_kl_coeffs_per_module[name]) for name in names} == {np.float32(0.7).item()}
