"""Several learners, in processes of their own, against one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learners import TIMES, built, parameters
from ray.rllib.core import ALL_MODULES, COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner import POLICY_LOSS_KEY
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.metrics import NUM_ENV_STEPS_TRAINED

from mtquant_rllib.engine.fragments import Fragment
from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.sac.learner import REPLAY_STATE, SACLearner
from mtquant_rllib.engine.learning.sharding import ReplicatedBatch, ShardedBatch, shard_by_environment
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.universe import META

LESSONS = ("regime_classifier", "attention_diversity", "regime_consistency")


STEADY = ("meta_controller.dropout=0.0", "recipe.environments=5")
TAUGHT = (
    "networks.names={meta: attention}",
    "networks.attention={width: 16, heads: 2, dropout: 0.0, classifier: {hidden: [8], dropout: 0.0},"
    " policy_heads: {hidden: 8, dropout: 0.0}}",
)
"""Whose losses beside its own are shared among the learners too."""


@pytest.mark.slow
def test_environments_are_dealt_whole_and_once(make_config: Any) -> None:
    runner = BatchedEnvRunner(config=make_config(3, "desk", *STEADY), worker_index=0)
    (fragment,) = runner.sample(num_timesteps=1500)
    assert any(level.truncated.any() for level in fragment.levels)
    shards = shard_by_environment([fragment, fragment], 3)
    assert [[part.environments for part in shard] for shard in shards] == [[3], [2, 2], [3]]
    assert sum(part.bars for shard in shards for part in shard) == 2 * fragment.bars
    (first,), (_, second), _ = shards
    for whole, left, middle in zip(fragment.levels, first.levels, shard_by_environment([fragment], 5)[2][0].levels):
        np.testing.assert_array_equal(left.rewards, whole.rewards[:, :3])
        _, env = np.nonzero(whole.due)
        np.testing.assert_array_equal(left.private, whole.private[env < 3])
        np.testing.assert_array_equal(middle.actions, whole.actions[env == 2])
        _, ended = np.nonzero(whole.truncated)
        np.testing.assert_array_equal(left.final, whole.final[ended < 3])
        assert left.bootstrap.shape[0] == 3
    assert second.environments == 2


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("phase_and_name", "learners", "overrides"),
    [
        pytest.param((3, "desk"), 2, (), marks=pytest.mark.nightly),
        ((1, "forex"), 3, ()),
        ((3, "desk"), 2, TAUGHT),
    ],
)
def test_several_learners_learn_what_one_learns(
    ray_session: None, make_config: Any, phase_and_name: tuple[int, str], learners: int, overrides: tuple[str, ...]
) -> None:
    """Minibatches, clipping, rates and moments alike; the sums of gradients are rounded in another order."""
    config = make_config(*phase_and_name, *STEADY, *overrides)
    config.training(grad_clip=0.05)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    one = built(BatchedLearner, config, runner)
    fragments: list[Fragment] = [runner.sample(num_timesteps=300)[0]]
    many = config.copy(copy_frozen=False).learners(num_learners=learners, num_cpus_per_learner=0.1)
    group = LearnerGroup(config=many, module_spec=config.get_multi_rl_module_spec(env=None, spaces=runner.get_spaces()))
    try:
        part = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        group.set_state({COMPONENT_LEARNER: one.get_state(components=COMPONENT_RL_MODULE)})
        before = parameters(one)
        how: dict[str, Any] = {"timesteps": TIMES, "num_epochs": 2, "minibatch_size": 64}
        alone = one.update(episodes=fragments, **how)
        results = group.update(training_data=ShardedBatch(episodes=fragments), **how)
        states = group.foreach_learner(lambda learner: learner.get_state(components=COMPONENT_RL_MODULE))
        trained = [result["__all_modules__"][NUM_ENV_STEPS_TRAINED].peek() for result in results]
        assert sum(trained) == fragments[0].bars
        assert min(trained) > 0
        for module, shown in alone.items():
            for key in (POLICY_LOSS_KEY, *LESSONS) if module != ALL_MODULES else ():
                if key in shown:
                    assert results[0][module][key].peek() == pytest.approx(shown[key].peek(), rel=1e-3, abs=1e-6)
        assert bool(overrides) == (LESSONS[0] in alone.get(META, {}))
        after = parameters(one)
        assert group.get_state(components=part)[COMPONENT_LEARNER][COMPONENT_RL_MODULE].keys() == {
            name.split("/")[0] for name in after
        }
        for state in (result.get() for result in states):
            for module, theirs in state[COMPONENT_RL_MODULE].items():
                moved = [np.abs(after[f"{module}/{name}"] - before[f"{module}/{name}"]).max() for name in theirs]
                assert max(moved) > 1e-4
                for name, array in theirs.items():
                    mine = after[f"{module}/{name}"]
                    np.testing.assert_allclose(array, mine, atol=2e-6, rtol=0, err_msg=f"{module}/{name}")
    finally:
        group.shutdown()


OFF_POLICY = (
    "recipe.algorithms=[sac, sac, sac]",
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=33",
    "sac.replay_bars=400",
    "sac.grad_clip=0.05",
)
PRIORITISED = "sac.priorities={power: 0.6, weight_power_start: 0.4, weight_power_final: 1.0, epsilon: 0.001}"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("phase_and_name", "learners", "overrides"),
    [((3, "desk"), 2, (*TAUGHT, PRIORITISED)), ((1, "forex"), 3, ("sac.critic.slope_penalty=1.0",))],
)
def test_several_learners_off_policy_learn_what_one_learns(
    ray_session: None, make_config: Any, phase_and_name: tuple[int, str], learners: int, overrides: tuple[str, ...]
) -> None:
    """A round alone, whose state they all take over, and three more of four steps: all draw the same of the same
    replay, priorities included, and the parts of 33 rows are unequal."""
    config = make_config(*phase_and_name, *STEADY, *OFF_POLICY, *overrides)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    one = built(SACLearner, config, runner)
    many = config.copy(copy_frozen=False).learners(num_learners=learners, num_cpus_per_learner=0.1)
    group = LearnerGroup(config=many, module_spec=config.get_multi_rl_module_spec(env=None, spaces=runner.get_spaces()))
    try:
        one.update(episodes=runner.sample(num_timesteps=60), timesteps=TIMES, n_steps=4)
        group.set_state({COMPONENT_LEARNER: one.get_state()})
        before = parameters(one)
        for _ in range(3):
            fragments = runner.sample(num_timesteps=60)
            alone = one.update(episodes=fragments, timesteps=TIMES, n_steps=4)
            results = group.update(training_data=ReplicatedBatch(episodes=fragments), timesteps=TIMES, n_steps=4)
        trained = [result[ALL_MODULES][NUM_ENV_STEPS_TRAINED].peek() for result in results]
        assert trained == [60] + [0] * (learners - 1)
        shown = {key for key in alone[min(config.policies_to_train)] if key.endswith("loss") or "gradient" in key}
        assert {"critic_loss", "policy_loss", "alpha_loss", "critic_gradient_norm"} <= shown
        for module in config.policies_to_train:
            for key in (*shown, *LESSONS):
                if key in alone[module]:
                    for result in results:
                        assert result[module][key].peek() == pytest.approx(
                            alone[module][key].peek(), rel=1e-3, abs=1e-5
                        )
        assert (TAUGHT[0] in overrides) == (LESSONS[0] in alone.get(META, {}))
        states = [result.get() for result in group.foreach_learner(lambda learner: learner.get_state())]
        after, mine = parameters(one), one.get_state()[REPLAY_STATE]
        for state in states:
            theirs = state[REPLAY_STATE]
            np.testing.assert_equal(theirs["generator"], mine["generator"])
            assert theirs["gradient_steps"] == mine["gradient_steps"] == 16
            for module, priorities in mine["priorities"].items():
                assert (priorities > 0).sum() > 33
                np.testing.assert_allclose(theirs["priorities"][module], priorities, rtol=1e-3, atol=1e-6)
            for module, own in state[COMPONENT_RL_MODULE].items():
                moved = [np.abs(after[f"{module}/{name}"] - before[f"{module}/{name}"]).max() for name in own]
                assert max(moved) > 1e-4
                for name, array in own.items():
                    np.testing.assert_allclose(
                        array, after[f"{module}/{name}"], atol=5e-6, rtol=0, err_msg=f"{module}/{name}"
                    )
        first, *others = (state[COMPONENT_RL_MODULE] for state in states)
        for other in others:
            for module, own in first.items():
                for name, array in own.items():
                    np.testing.assert_array_equal(other[module][name], array)
    finally:
        group.shutdown()
