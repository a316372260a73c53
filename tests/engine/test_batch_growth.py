"""Minibatches that grow over the budget."""

from __future__ import annotations

from typing import Any

import pytest
from learners import built
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from mtquant_rllib.engine.learning.ppo import learner as ppo
from mtquant_rllib.engine.learning.sac.learner import SACLearner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.errors import ConfigError

GROWING = "recipe.batch_size_final_factor=3"
BUDGET = 1000
"""Bars, as of the trials of `make_config`."""
SIZES = [(0, 32), (BUDGET // 2, 64), (BUDGET, 96), (2 * BUDGET, 96)]


def times(bars: int) -> dict[str, int]:
    return {"bars": bars, NUM_ENV_STEPS_SAMPLED_LIFETIME: bars}


@pytest.mark.slow
@pytest.mark.parametrize(("bars", "size"), SIZES)
def test_ppo_cuts_larger_minibatches_as_the_budget_is_used_up(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, bars: int, size: int
) -> None:
    config = make_config(3, "desk", GROWING)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(ppo.BatchedLearner, config, runner)
    asked, cut = [], ppo.minibatch_indices
    monkeypatch.setattr(
        ppo, "minibatch_indices", lambda n, epochs, rows, rng: asked.append(rows) or cut(n, epochs, rows, rng)
    )
    fragments = runner.sample(num_timesteps=200)
    learner.update(episodes=fragments, timesteps=times(bars), num_epochs=1, minibatch_size=32)
    assert set(asked) == {size}


@pytest.mark.slow
@pytest.mark.parametrize(("bars", "size"), SIZES)
def test_sac_draws_larger_batches_as_the_budget_is_used_up(make_config: Any, bars: int, size: int) -> None:
    overrides = ("recipe.algorithms=[sac, sac, sac]", "sac.batch_size=32", "sac.critic.hidden=[8, 8]")
    config = make_config(3, "desk", GROWING, *overrides)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(SACLearner, config, runner)
    drawn, sample = [], learner.replay.sample
    learner.replay.sample = lambda names, rows, *rest: drawn.append(rows) or sample(names, rows, *rest)
    learner.update(episodes=runner.sample(num_timesteps=100), timesteps=times(bars), n_steps=1)
    assert set(drawn) == {size}


def test_rllibs_own_learner_is_refused_to_grow(make_config: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size_final_factor"):
        make_config(3, "desk", GROWING, "resources.engine=rllib")
