"""The fast path against autograd of the definitions, and stacks that learn in threads against one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learners import AS_THEY_STAND, TIMES, Linear, built, parameters

from mtquant_rllib.engine.learning.backprop import AutogradBackprop, backprop_for
from mtquant_rllib.engine.learning.fast_path import loss_gradients
from mtquant_rllib.engine.learning.fast_path.policies import ManualBackprop
from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.ppo.loss import ppo_loss, ppo_terms
from mtquant_rllib.engine.learning.sac import loss as sac_loss
from mtquant_rllib.engine.learning.stacks import ModuleStack, module_stacks
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner


@pytest.fixture(params=["never", "always"])
def stacks(make_config: Any, request: pytest.FixtureRequest) -> list[ModuleStack]:
    config = make_config(3, "desk", f"reference={{where: {request.param}, book: momentum}}")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = built(BatchedLearner, config, runner)
    modules = {name: learner._module[name] for name in list(learner.module.keys())}
    for module in modules.values():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    found = module_stacks(modules)
    for stack in found:
        stack.load()
    return found


@pytest.mark.slow
def test_one_stack_for_each_level(stacks: list[ModuleStack]) -> None:
    assert [len(stack) for stack in stacks] == [1, 3, 8]
    assert all(isinstance(backprop_for(stack, AS_THEY_STAND), ManualBackprop) for stack in stacks)


@pytest.mark.slow
def test_backpropagation_in_closed_form_is_autograds(stacks: list[ModuleStack]) -> None:
    """Dropout included: both draw the same masks from the same seed."""
    for stack in stacks:
        generator = torch.Generator().manual_seed(1)
        obs = torch.randn(len(stack), 37, stack.widths[0], generator=generator)
        answers, gradients = [], []
        for backprop in (ManualBackprop(stack), AutogradBackprop(stack, AS_THEY_STAND)):
            backprop.seed(5)
            outputs = backprop.forward(obs)
            mean, _, value = outputs
            stack.grad_RP.zero_()
            generator.manual_seed(2)
            by_mean, by_log_std = torch.randn(2, *mean.shape, generator=generator) * stack.action_mask_S1A
            backprop.backward(Linear(by_mean, by_log_std, torch.randn(value.shape, generator=generator)))
            answers.append([output.expand_as(by_mean) if output.ndim == 3 else output for output in outputs])
            gradients.append(stack.grad_RP.clone())
        for mine, theirs in zip(*answers):
            torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(*gradients, atol=2e-4, rtol=1e-5)
        assert (gradients[0] != 0).any(dim=1).all()


@pytest.mark.slow
def test_what_a_narrow_specialist_lacks_stays_zero(stacks: list[ModuleStack]) -> None:
    (specialists,) = [stack for stack in stacks if len(stack) == 3]
    own = [fit.actions.size for fit in specialists.column_maps]
    assert sorted(own) == [7, 10, 10]
    narrow = own.index(7)
    used = torch.zeros_like(specialists.weight_RP[narrow], dtype=torch.bool)
    used[specialists._positions[narrow]] = True
    assert (specialists.weight_RP[narrow][~used] == 0).all()
    obs = torch.zeros(3, 20, specialists.widths[0])
    for row, fit in zip(obs, specialists.column_maps):
        row[:, fit.observation] = torch.randn(20, len(fit.observation))
    plain = ManualBackprop(specialists)
    mean, _, value = plain.forward(obs)
    by_mean = torch.randn_like(mean) * specialists.action_mask_S1A
    plain.backward(Linear(by_mean, torch.zeros_like(mean), torch.randn_like(value)))
    assert (specialists.grad_RP[narrow][~used] == 0).all()


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("kl", [False, True])
def test_ppos_gradients_are_autograds_of_its_loss_and_the_loss_is_that_of_torchs_distributions(
    kl: bool, reference: bool
) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n_modules, n_rows, n_actions = 3, 50, 4
    real = torch.ones(n_modules, 1, n_actions, dtype=torch.float64)
    real[1, :, 2:] = 0.0
    mean, value = normal(n_modules, n_rows, n_actions), normal(n_modules, n_rows)
    log_std = 0.3 * normal(n_modules, n_rows, n_actions)
    action, old = normal(n_modules, n_rows, n_actions) * real, 0.3 * normal(n_modules, n_rows, 2 * n_actions)
    old = old * real.repeat(1, 1, 2)
    singles = [normal(n_modules, n_rows, 1) for _ in range(3)]
    weight = torch.rand(n_modules, n_rows, generator=generator, dtype=torch.float64)
    coefficients = {
        "clip_param": torch.full((n_modules, 1), 0.2, dtype=torch.float64),
        "vf_clip_param": torch.full((n_modules, 1), 1.0, dtype=torch.float64),
        "vf_loss_coeff": torch.full((n_modules, 1), 0.7, dtype=torch.float64),
        "entropy_coeff": torch.full((n_modules, 1), 0.01, dtype=torch.float64),
    }
    if kl:
        coefficients["kl_coeff"] = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)
    outputs = [tensor.requires_grad_() for tensor in (mean, log_std, value)]
    new = torch.distributions.Normal(mean, log_std.exp())
    before = torch.distributions.Normal(old[..., :n_actions], old[..., n_actions:].exp())
    # Close to the old probabilities, so that some rows are clipped and some are not.
    singles[0] = (new.log_prob(action) * real).sum(-1, keepdim=True).detach() + 0.2 * singles[0]
    old_log_prob, advantage, target = (single[..., 0] for single in singles)
    ratio = ((new.log_prob(action) * real).sum(-1) - old_log_prob).exp()
    clipped = torch.clamp(ratio, 0.8, 1.2)
    assert 10 < (ratio != clipped).sum() < 140
    loss = -torch.min(advantage * ratio, advantage * clipped)
    loss = loss + 0.7 * torch.clamp((value - target).square(), max=1.0) - 0.01 * (new.entropy() * real).sum(-1)
    if kl:
        divergence = (torch.distributions.kl_divergence(before, new) * real).sum(-1)
        loss = loss + coefficients["kl_coeff"] * divergence
    held = normal(n_modules, n_rows, n_actions) if reference else None
    if held is not None:
        coefficients["reference_kl_coeff"] = torch.tensor([[0.3], [0.0], [2.0]], dtype=torch.float64)
        deviation = log_std.detach().exp()
        departed, stays = (torch.distributions.Normal(place, deviation) for place in (mean, held))
        away = (torch.distributions.kl_divergence(departed, stays) * real).sum(-1)
        loss = loss + coefficients["reference_kl_coeff"] * away
    columns = (action, old, *singles)
    own = ppo_loss(ppo_terms((mean, log_std, value), columns, coefficients, real, held), coefficients)
    torch.testing.assert_close(own, loss, atol=1e-12, rtol=1e-12)
    expected = torch.autograd.grad((own * weight).sum(), outputs)
    found = loss_gradients.ppo_gradients((mean, log_std, value), columns, weight, coefficients, real, held)
    for mine, theirs in zip(found, expected):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


def test_sacs_gradients_are_autograds_of_its_losses() -> None:
    """In float64, where the second module lacks an action; Q is a quadratic in the action."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    s, b, a = 2, 40, 3
    mask = torch.ones(s, 1, a, dtype=torch.float64)
    mask[1, :, 2] = 0.0
    value, target, weight = normal(s, 2, b).requires_grad_(), normal(s, b), normal(s, b).abs()
    (expected,) = torch.autograd.grad(sac_loss.critic_loss(value, target, weight).sum(), value)
    torch.testing.assert_close(loss_gradients.critic_gradient(value, target, weight), expected)

    mean, log_std, noise = normal(s, b, a).requires_grad_(), (0.3 * normal(s, b, a)).requires_grad_(), normal(s, b, a)
    alpha, linear, quadratic = normal(s, 1).abs(), normal(s, 2, b, a), normal(s, 2, b, a)

    def values(action: torch.Tensor) -> torch.Tensor:
        return ((linear + quadratic * action.unsqueeze(1)) * action.unsqueeze(1)).sum(-1)

    action, log_prob = sac_loss.sampled_actions(mean, log_std, noise, mask)
    loss = sac_loss.actor_loss(values(action), log_prob, alpha) + sac_loss.action_penalty(mean, 0.7, mask)
    expected_mean, expected_log_std = torch.autograd.grad(loss.sum(), [mean, log_std])
    sampled = action.detach().requires_grad_()
    twins = values(sampled)
    (slope,) = torch.autograd.grad(twins, sampled, loss_gradients.minimum_mask(twins.detach()))
    by_mean, by_log_std = loss_gradients.actor_gradients(slope, log_std.detach(), noise, alpha, mask)
    by_mean += loss_gradients.action_penalty_gradient(mean.detach(), 0.7, mask)
    torch.testing.assert_close(by_mean, expected_mean)
    torch.testing.assert_close(by_log_std, expected_log_std)

    log_alpha, wanted = alpha.log().requires_grad_(), normal(s, 1)
    (expected,) = torch.autograd.grad(sac_loss.alpha_loss(log_prob.detach(), log_alpha.exp(), wanted).sum(), log_alpha)
    torch.testing.assert_close(loss_gradients.alpha_gradient(log_prob.detach(), alpha, wanted), expected)


@pytest.mark.slow
def test_stacks_learn_in_threads_what_they_learn_in_turn(make_config: Any) -> None:
    """To the bit, with dropout and several minibatches: how many CPUs there are has no part in a result."""
    results = []
    for threads in (1, 3):
        config = make_config(3, "desk")
        config.training(learner_threads=threads)
        runner = BatchedEnvRunner(config=config, worker_index=0)
        learner = built(BatchedLearner, config, runner)
        (fragment,) = runner.sample(num_timesteps=200)
        for _ in range(3):
            learner.update(episodes=[fragment], timesteps=TIMES, num_epochs=2, minibatch_size=16)
        results.append(parameters(learner))
    one, several = results
    assert all(np.array_equal(one[name], several[name]) for name in one)
