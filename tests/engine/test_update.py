"""The stacked update against RLlib's own loss and optimiser; state per module; what is frozen stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learners import TIMES, built, parameters
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.rllib_reference import RLlibLearner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.universe import META

STEADY = ("meta_controller.dropout=0.0",)
ATTENTION = (
    "networks.names={meta: attention, specialist: attention, instrument: attention}",
    "networks.attention={width: 16, heads: 2, dropout: 0.0, policy_heads: {hidden: 8, dropout: 0.0}}",
    # RLlib's loss has no others in it.
    "networks.attention.losses={classifier: 0, diversity: 0, consistency: 0}",
)

DROPPING = (*ATTENTION[:1], "networks.attention={width: 16, heads: 2, policy_heads: {hidden: 8}}")


def as_rllibs_batch(learner: BatchedLearner, fragment: Any) -> MultiAgentBatch:
    """The learner's own rows as RLlib would have them: no padding, no mask."""
    names = (Columns.OBS, Columns.ACTIONS, Columns.ACTION_DIST_INPUTS, Columns.ACTION_LOGP)
    names += (Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS)
    batches = {}
    for module, arrays in learner._gather([fragment]).module_columns.items():
        columns = dict(zip(names, map(torch.from_numpy, arrays)))
        batches[module] = SampleBatch(
            {name: column[:, 0] if column.shape[1] == 1 else column for name, column in columns.items()}
        )
    return MultiAgentBatch(batches, fragment.bars)


def copy_weights(source: Any, target: Any) -> None:
    target.set_state({COMPONENT_RL_MODULE: source.get_state(components=COMPONENT_RL_MODULE)[COMPONENT_RL_MODULE]})


@pytest.mark.slow
@pytest.mark.parametrize("phase_and_name", [(3, "desk"), (1, "forex")])
@pytest.mark.parametrize("clip", [None, 0.02])
@pytest.mark.parametrize(
    "overrides",
    [(), ("recipe.learning_rates.specialists=0.001", "recipe.learning_rates.meta_controller=0.0003"), ATTENTION],
)
def test_one_update_of_the_whole_batch_is_rllibs(
    make_config: Any, phase_and_name: tuple[int, str], clip: float | None, overrides: tuple[str, ...]
) -> None:
    config = make_config(*phase_and_name, *STEADY, *overrides)
    config.training(grad_clip=clip, entropy_coeff=0.01, vf_clip_param=0.5)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    batched, stock = built(BatchedLearner, config, runner), built(RLlibLearner, config, runner)
    copy_weights(batched, stock)
    (fragment,) = runner.sample(num_timesteps=200)
    batch = as_rllibs_batch(batched, fragment)
    before, learned = parameters(batched), batched._gather([fragment])
    batched._gather = lambda fragments: learned
    # Once to the letter; and twice more, so that the moments of the optimiser count, with rounding carried along.
    for tolerance in (1e-6, 1e-5, 1e-5):
        stock.update(batch=batch, timesteps=TIMES, num_epochs=1)
        batched.update(episodes=[fragment], timesteps=TIMES, num_epochs=1)
        mine, theirs = parameters(batched), parameters(stock)
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], atol=tolerance, rtol=0, err_msg=name)
    moved = {name.split("/")[0] for name in mine if np.abs(mine[name] - before[name]).max() > 1e-5}
    assert moved == set(batch.policy_batches)


@pytest.mark.slow
def test_optimiser_state_is_kept_per_module_and_goes_on_exactly(make_config: Any) -> None:
    config = make_config(3, "desk")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    first, second = built(BatchedLearner, config, runner), built(BatchedLearner, config, runner)
    (fragment,) = runner.sample(num_timesteps=200)
    update = {"timesteps": TIMES, "num_epochs": 2, "minibatch_size": 16}
    first.update(episodes=[fragment], **update)
    state = first.get_state()
    assert {entry["module_id"] for entry in state[COMPONENT_OPTIMIZER].values()} == set(first.module.keys())
    second.set_state(state)
    for learner in (first, second):
        learner.update(episodes=[fragment], **update)
    mine, theirs = parameters(first), parameters(second)
    assert all((mine[name] == theirs[name]).all() for name in mine)


@pytest.mark.slow
def test_frozen_modules_are_neither_stored_nor_stepped_and_act_without_noise(make_config: Any) -> None:
    config = make_config(2, "desk")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(BatchedLearner, config, runner)
    (fragment,) = runner.sample(num_timesteps=200)
    assert [level.modules for level in fragment.levels] == [(META,)]
    first = runner._samplers[0][-1]
    assert first.rollout is None
    assert not first.exploring.any()
    before = parameters(learner)
    learner.update(episodes=[fragment], timesteps=TIMES, num_epochs=2, minibatch_size=16)
    after = parameters(learner)
    changed = {name.split("/")[0] for name in after if (after[name] != before[name]).any()}
    assert changed == {META}


@pytest.mark.slow
def test_a_fragment_without_a_closed_decision_changes_nothing(make_config: Any) -> None:
    """The last batch of a budget can be shorter than what the controller holds a decision for."""
    config = make_config(2, "desk")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(BatchedLearner, config, runner)
    runner.sample(num_timesteps=8)
    (fragment,) = runner.sample(num_timesteps=4)
    before = parameters(learner)
    learner.update(episodes=[fragment], timesteps=TIMES, num_epochs=2, minibatch_size=16)
    after = parameters(learner)
    assert all((after[name] == before[name]).all() for name in after)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_skips_its_module_and_no_other(make_config: Any, caplog: Any) -> None:
    config = make_config(3, "desk")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(BatchedLearner, config, runner)
    (fragment,) = runner.sample(num_timesteps=200)
    level = next(level for level in fragment.levels if "EURUSD" in level.modules)
    level.log_probs[:, level.modules.index("EURUSD")] = np.nan
    before = parameters(learner)
    learner.update(episodes=[fragment], timesteps=TIMES, num_epochs=1)
    after = parameters(learner)
    changed = {name.split("/")[0] for name in after if (after[name] != before[name]).any()}
    assert set(learner.module.keys()) - changed == {"EURUSD"}
    assert "EURUSD: gradient is not finite" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), DROPPING, (*DROPPING, "learner.precision=bfloat16")])
def test_the_first_ratios_are_one(make_config: Any, overrides: tuple[str, ...]) -> None:
    """Runner and learner give the same probabilities, whatever acts in the value's pass."""
    config = make_config(3, "desk", *overrides)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(BatchedLearner, config, runner)
    runner.set_state({COMPONENT_RL_MODULE: learner.module.get_state()})
    (fragment,) = runner.sample(num_timesteps=200)
    module_columns = learner._gather([fragment]).module_columns
    for part in learner._learners:
        part.load()
        rows, widths = part.padded_batch([module_columns.get(name) for name in part.stack.names])
        obs, action, _, old, *_ = rows.split(widths, dim=-1)
        mean, log_std, _ = part.backprop.forward(obs)
        each = torch.distributions.Normal(mean, log_std.exp()).log_prob(action) * part.stack.action_mask_S1A
        for member, name in enumerate(part.stack.names):
            assert (each.sum(-1) - old[..., 0])[member, : len(module_columns[name][0])].exp().sub(1).abs().max() < 1e-5
