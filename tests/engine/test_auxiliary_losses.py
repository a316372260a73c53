"""Auxiliary losses of the attention network under PPO: labels that travel with the rows, the gradient of all losses
together, metrics, and a classifier that has learned something."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from learners import AS_THEY_STAND, TIMES, built
from ray.rllib.core import ALL_MODULES

from mtquant_rllib.engine.fragments import Fragment
from mtquant_rllib.engine.learning.backprop import AutogradBackprop
from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.ppo.objective import PPOObjective
from mtquant_rllib.engine.rllib_reference import RLlibLearner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.attention.losses import NO_LABEL
from mtquant_rllib.universe import META

SMALL = "networks.attention={width: 16, heads: 2, policy_heads: {hidden: 8}, classifier: {hidden: [16]}}"
META_ALONE = ("networks.names={meta: attention}", SMALL)
EVERY_LEVEL = ("networks.names={meta: attention, specialist: attention, instrument: attention}", SMALL)
NAMES = {"regime_classifier", "attention_diversity", "regime_consistency"}


def sampled(config: Any, bars: int = 200) -> tuple[BatchedEnvRunner, Any, Fragment]:
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(BatchedLearner, config, runner)
    (fragment,) = runner.sample(num_timesteps=bars)
    return runner, learner, fragment


@pytest.mark.slow
def test_labels_travel_with_the_rows_of_modules_with_auxiliary_losses_alone(make_config: Any) -> None:
    """Those of the market row that a decision was taken on, one that is held on from the fragment before included."""
    runner, learner, first = sampled(make_config(3, "desk", *META_ALONE), bars=28)
    # Four environments of seven bars, a decision every five: the second is held on.
    (second,) = runner.sample(num_timesteps=200)
    regime = runner.env.domain_envs[0].desk.features.regime
    for fragment in (first, second):
        for level in fragment.levels:
            if level.modules != (META,):
                assert level.regimes is None
                continue
            assert level.regimes is not None
            assert np.array_equal(level.regimes, regime[level.market_rows])
    meta = next(level for level in second.levels if level.modules == (META,))
    assert meta.due[0].all()
    module_columns = learner._gather([second]).module_columns
    assert {name: len(columns) for name, columns in module_columns.items()} == {
        name: 7 if name == META else 6 for name in list(learner.module.keys())
    }
    labels = module_columns[META][6][:, 0]
    assert set(labels.tolist()) <= {float(regime) for regime in Regime}
    assert len(set(labels.tolist())) > 1
    unknown, *_ = [part for part in learner._learners if part.stack.names == (META,)]
    rows, widths = unknown.padded_batch([module_columns[META][:6]])
    assert (rows.split(widths, dim=-1)[6] == NO_LABEL).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [(), (*META_ALONE, "networks.attention.losses={classifier: 0, diversity: 0, consistency: 0}")]
)
def test_without_auxiliary_losses_no_label_is_kept(make_config: Any, overrides: tuple[str, ...]) -> None:
    _, _, fragment = sampled(make_config(3, "desk", *overrides), bars=20)
    assert all(level.regimes is None for level in fragment.levels)


@pytest.mark.slow
def test_a_frozen_attention_network_needs_no_labels(make_config: Any) -> None:
    config = make_config(2, "desk", *EVERY_LEVEL)
    _, learner, fragment = sampled(config, bars=20)
    assert [level.modules for level in fragment.levels] == [(META,)]
    assert [part.stack.names for part in learner._learners] == [(META,)]


@pytest.mark.slow
def test_the_gradient_is_autograds_of_all_losses_summed(make_config: Any) -> None:
    """With dropout in value and classifier: the reference is the module itself, in one expression."""
    _, learner, fragment = sampled(make_config(3, "desk", *EVERY_LEVEL))
    module_columns = learner._gather([fragment]).module_columns
    for part in learner._learners:
        (name,) = part.stack.names
        module = learner._module[name]
        part.load()
        rows, widths = part.padded_batch([module_columns[name]])
        obs, action, _, old, advantage, target, labels = rows.split(widths, dim=-1)
        n_rows = obs.shape[1]
        torch.manual_seed(7)
        mean, log_std = module.policy(obs[0]).chunk(2, dim=-1)
        value = module.value(obs[0], drop=True)
        auxiliary_losses = module.policy.auxiliary_losses(obs[0], labels[0, :, 0].long())
        ratio = (torch.distributions.Normal(mean, log_std.exp()).log_prob(action[0]).sum(-1) - old[0, :, 0]).exp()
        gain, clip = advantage[0, :, 0] * ratio, part.coefficients["clip_param"].item()
        surrogate = torch.min(gain, advantage[0, :, 0] * ratio.clamp(1 - clip, 1 + clip)).mean()
        error = (value - target[0, :, 0]).square().clamp(max=part.coefficients["vf_clip_param"].item()).mean()
        loss = part.coefficients["vf_loss_coeff"].item() * error - surrogate + sum(auxiliary_losses.values())
        expected = torch.autograd.grad(loss, list(module.parameters()))

        backprop = AutogradBackprop(part.stack, AS_THEY_STAND)
        backprop.seed(7)
        columns = [action, torch.cat((mean, log_std), -1)[None].detach(), old, advantage, target]
        weight = torch.full((1, n_rows), 1.0 / n_rows)
        coefficients = part.coefficients | learner._schedules(part)
        backprop.forward(obs, labels)
        backprop.backward(PPOObjective(columns, weight, coefficients, part.stack.action_mask_S1A))
        assert backprop.auxiliary_losses.keys() == NAMES
        for key, auxiliary_loss in backprop.auxiliary_losses.items():
            assert auxiliary_loss.item() == pytest.approx(auxiliary_losses[key].item(), rel=1e-6)
        found = [torch.empty_like(parameter) for parameter in part.stack.tensors[0]]
        part.stack.read_row(part.stack.grad_RP[0], 0, found)
        keys = [key for key, _ in module.named_parameters()]
        for key, mine, theirs in zip(keys, found, expected):
            assert (mine - theirs).abs().max() < 1e-6 + 1e-5 * theirs.abs().max(), (name, key)
        assert expected[keys.index("policy.network.classifier.last.weight")].abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("learner.precision=bfloat16", "learner.checkpoint_activations=true")])
def test_auxiliary_losses_are_metrics_of_their_module_and_part_of_its_loss(
    make_config: Any, options: tuple[str, ...]
) -> None:
    _, learner, fragment = sampled(make_config(3, "desk", *META_ALONE, *options))
    results = learner.update(episodes=[fragment], timesteps=TIMES, num_epochs=2, minibatch_size=16)
    shown = {
        name: {key: item.peek() for key, item in own.items() if hasattr(item, "peek")}
        for name, own in results.items()
        if name != ALL_MODULES
    }
    assert shown[META].keys() >= NAMES
    assert all(not NAMES & own.keys() for name, own in shown.items() if name != META)
    own = shown[META]
    # An untrained classifier: cross-entropy near ln 4 with a weight of .1.
    assert 0.08 < own["regime_classifier"] < 0.25
    assert 0 <= own["attention_diversity"] <= 0.01 * 0.25
    assert 0 <= own["regime_consistency"] <= 0.005 * 0.49
    parts = own["policy_loss"] + own["vf_loss"] + sum(own[name] for name in NAMES)
    assert own["total_loss"] == pytest.approx(parts, rel=1e-4)


@pytest.mark.slow
def test_the_classifier_comes_to_know_regimes_better_than_their_majority(make_config: Any) -> None:
    """On bars of other episodes than it has learned from, of the same market."""
    config = make_config(
        3, "desk", "networks.names={instrument: attention}", SMALL, "recipe.learning_rate=0.003",
        "networks.attention.losses.classifier=1.0",
    )  # fmt: skip
    runner, learner, fragment = sampled(config, bars=800)
    (unseen,) = runner.sample(num_timesteps=400)

    def accuracy() -> tuple[float, float]:
        columns = learner._gather([unseen]).module_columns["EURUSD"]
        obs, labels = torch.from_numpy(columns[0]), torch.from_numpy(columns[6][:, 0]).long()
        with torch.no_grad():
            said = learner._module["EURUSD"].policy.output(obs).regime_logits_BR.argmax(-1)
        return (said == labels).float().mean().item(), labels.bincount().max().item() / len(labels)

    before, majority = accuracy()
    for _ in range(4):
        learner.update(episodes=[fragment], timesteps=TIMES, num_epochs=5, minibatch_size=64)
    after, _ = accuracy()
    assert before < majority < 0.9
    assert after > majority + 0.05


@pytest.mark.slow
def test_rllibs_own_engine_warns_that_it_leaves_auxiliary_losses_out(
    make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(3, "desk", *META_ALONE)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    with caplog.at_level(logging.WARNING):
        built(RLlibLearner, config, runner)
    assert "networks.attention.losses: no part in RLlib's own loss; meta_controller learn" in caplog.text
