"""SAC's losses and a whole gradient step against a reference written from the paper (arXiv 1812.05905), module by
module, with torch's own distributions, autograd and Adam."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from learners import AS_THEY_STAND
from torch.distributions import Normal, kl_divergence

from mtquant_rllib.config import Settings
from mtquant_rllib.engine.learning.fast_path import loss_gradients
from mtquant_rllib.engine.learning.sac import loss as sac_loss
from mtquant_rllib.engine.learning.sac.update import ACTOR, ALPHA, CRITICS, SACStack
from mtquant_rllib.engine.replay.replay import Batch
from mtquant_rllib.policies.action_maps import apply_action_map
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.policies.networks import GaussianPolicy
from mtquant_rllib.universe import ALLOCATOR

RATES = {ACTOR: 1e-3, **dict.fromkeys(CRITICS, 2e-3), ALPHA: 5e-3}
ROWS, TAU, CLIP = 32, 0.005, 0.7
REMEMBERED = 40

GROUPS = [
    ("EURUSD", "XAUUSD", "US30"),
    ("forex_specialist", "commodities_specialist", "equity_specialist"),
    ("meta_controller",),
]
ALLOCATES = ("allocator.hidden=[8]", "allocator.network=plain")
ALLOCATES_BY_ATTENTION = (
    "allocator.network=attention",
    "networks.attention={width: 16, heads: 2, dropout: 0.0, classifier: {hidden: [8], dropout: 0.0},"
    " policy_heads: {hidden: 8, dropout: 0.0}}",
)
LETTER = ("sac.action_penalty=0", "sac.critic.slope_penalty=0")
PENALTIES = ("sac.action_penalty=0.3", "sac.critic.slope_penalty=8")
KL_COEFFS = "reference.kl_coeff={meta: 0.2, specialist: 0.4, instrument: 0.8}"
REFERENCE = (*PENALTIES, "reference.where=always", "reference.book=momentum", KL_COEFFS)
ATTENTION = (
    "networks.names={meta: attention}",
    "networks.attention={width: 16, heads: 2, dropout: 0.0, classifier: {hidden: [8], dropout: 0.0},"
    " policy_heads: {hidden: 8, dropout: 0.0}}",
)


def settings_of(overrides: tuple[str, ...] = ()) -> Settings:
    config = "allocator.yaml" if any(key.startswith("allocator.") for key in overrides) else "default.yaml"
    return Settings.load(config, ["sac.critic.hidden=[16, 16]", *LETTER, *overrides])


def stack_of(modules: dict[str, Any], overrides: tuple[str, ...] = (), tau: float = TAU) -> SACStack:
    stack = SACStack(
        list(modules),
        list(modules.values()),
        optimizers(modules),
        tau=tau,
        grad_clip=CLIP,
        action_penalty=settings_of(overrides).sac.action_penalty,
        options=AS_THEY_STAND,
    )
    stack.load()
    return stack


def modules_of(names: tuple[str, ...], overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    settings = settings_of(overrides)
    torch.manual_seed(3)
    built = module_specs(settings, only=names, sac=names).build()
    modules = {name: built[name] for name in names}
    with torch.no_grad():
        for number, module in enumerate(modules.values()):
            # Lively ones: fresh networks say nearly nothing, and alphas of their own.
            for parameter in (*module.policy.parameters(), *module.critics.parameters()):
                parameter += 0.1 * torch.randn_like(parameter)
            module.critics.entropy.log_alpha.fill_(math.log(0.05 + 0.1 * number))
    return modules


def batch_for(module: Any, rng: np.random.Generator) -> Batch:
    shape = module.policy.shape
    return Batch(
        observation=rng.normal(size=(ROWS, shape.observation)).astype(np.float32),
        action=rng.normal(0, 0.8, (ROWS, shape.actions)).astype(np.float32),
        next_observation=rng.normal(size=(ROWS, shape.observation)).astype(np.float32),
        reward=rng.normal(size=ROWS).astype(np.float32),
        discount=np.where(rng.random(ROWS) < 0.2, 0.0, 0.99 ** rng.integers(1, 6, ROWS)).astype(np.float32),
        weight=rng.uniform(0.2, 1.0, ROWS).astype(np.float32),
        regime=rng.integers(-1, 4, ROWS),
        leaves=np.arange(ROWS),
        n_stored=REMEMBERED,
    )


def _parts(module: Any) -> dict[str, Any]:
    return {ACTOR: module.policy, **dict(zip(CRITICS, module.critics.online)), ALPHA: module.critics.entropy}


def optimizers(modules: dict[str, Any]) -> dict[str, Any]:
    """With an epsilon that keeps Adam from magnifying the rounding of gradients near zero."""
    return {
        name: {
            key: torch.optim.Adam(part.parameters(), lr=RATES[key], eps=1e-2) for key, part in _parts(module).items()
        }
        for name, module in modules.items()
    }


def reference_losses(
    module: Any, batch: Batch, next_noise: torch.Tensor, noise: torch.Tensor, action_penalty: float
) -> dict[str, Any]:
    """Equations 5 to 8, 17 and 18 of the paper, and the two penalties, nothing in its letter; the policy's loss against
    whatever critics the module has."""
    obs, after, action, reward, discount, weight, regime = (
        torch.from_numpy(getattr(batch, name)).to(next_noise.dtype)
        for name in ("observation", "next_observation", "action", "reward", "discount", "weight", "regime")
    )
    config = module.model_config["sac"]

    def done(raw: torch.Tensor) -> torch.Tensor:
        return apply_action_map(config["action_map"], raw, config["map_numbers"])

    def sampled(seen: torch.Tensor, draw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = module.policy(seen).chunk(2, dim=-1)
        raw = mean + log_std.exp() * draw
        return raw, Normal(mean, log_std.exp()).log_prob(raw).sum(-1)

    def lower(critics: Any, seen: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat((seen, done(raw)), dim=-1)
        return torch.minimum(critics[0](inputs), critics[1](inputs))

    alpha = module.critics.entropy.log_alpha.exp().squeeze()
    with torch.no_grad():
        next_raw, next_log_prob = sampled(after, next_noise)
        target = reward + discount * (lower(module.critics.target, after, next_raw) - alpha * next_log_prob)
    inputs = torch.cat((obs, done(action)), dim=-1)
    critic = [0.5 * (weight * (twin(inputs) - target) ** 2).mean() for twin in module.critics.online]
    raw, log_prob = sampled(obs, noise)
    actor = (alpha.detach() * log_prob - lower(module.critics.online, obs, raw)).mean()
    entropy_target = -math.log(action.shape[1])
    ridge = 0.5 * config["critic"]["slope_penalty"] / batch.n_stored
    ridges = [ridge * sum(part.square().sum() for part in twin.slope.parameters()) for twin in module.critics.online]
    mean, log_std = module.policy(obs).chunk(2, dim=-1)
    held = torch.zeros_like(mean) if module.policy.reference is None else module.policy.reference(obs)
    small = 0.5 * action_penalty * (mean - held).square().sum(-1).mean()
    stays, departs = (Normal(place, log_std.detach().exp()) for place in (held, mean))
    kl_loss = module.model_config.get("reference_kl_coeff", 0.0) * kl_divergence(departs, stays).sum(-1).mean()
    alpha_loss = -(alpha * (log_prob.detach() + entropy_target)).mean()
    auxiliary_losses = module.policy.auxiliary_losses(obs, regime.long())
    return {
        "figure": np.mean([loss.item() for loss in critic]),
        "critic": [loss + own for loss, own in zip(critic, ridges)],
        "actor": actor + small + kl_loss + sum(auxiliary_losses.values()),
        "alpha": alpha_loss,
    }


def descend(optimizer: Any, loss: torch.Tensor) -> None:
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "overrides"),
    [
        *((group, ()) for group in GROUPS),
        (GROUPS[2], ATTENTION),
        *((group, PENALTIES) for group in GROUPS),
        *((group, REFERENCE) for group in GROUPS),
        (GROUPS[2], (*ATTENTION, *REFERENCE)),
        ((ALLOCATOR,), (*ALLOCATES, *PENALTIES)),
        ((ALLOCATOR,), (*ALLOCATES, "allocator.shared_line=false")),
        ((ALLOCATOR,), (*ALLOCATES_BY_ATTENTION, *PENALTIES)),
    ],
)
def test_a_step_is_algorithm_one_of_the_paper(names: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    modules = modules_of(names, overrides)
    theirs = copy.deepcopy(modules)
    mine, reference = optimizers(modules), optimizers(theirs)
    penalty = settings_of(overrides).sac.action_penalty
    stack = SACStack(
        names, list(modules.values()), mine, tau=TAU, grad_clip=CLIP, action_penalty=penalty, options=AS_THEY_STAND
    )
    stack.load()
    rng = np.random.default_rng(1)
    widths = [module.policy.shape.actions for module in modules.values()]
    for seed in range(3):
        batches = [batch_for(module, rng) for module in modules.values()]
        figures, _ = stack.step(batches, seed, with_metrics=True)
        torch.manual_seed(seed)
        draws = [torch.randn(len(names), ROWS, stack.widths[1]) for _ in range(2)]
        for member, (name, module) in enumerate(theirs.items()):
            columns = stack.column_maps[member].actions
            assert len(columns) == widths[member]
            next_noise, noise = (draw[member][:, columns] for draw in draws)
            first = reference_losses(module, batches[member], next_noise, noise, penalty)
            figure = {key: column[member].item() for key, column in figures.items() if len(column) == len(names)}
            assert figure["critic_loss"] == pytest.approx(first["figure"], rel=1e-5)
            for key, loss in zip(CRITICS, first["critic"]):
                descend(reference[name][key], loss)
            second = reference_losses(module, batches[member], next_noise, noise, penalty)
            descend(reference[name][ACTOR], second["actor"])
            assert figure["alpha_loss"] == pytest.approx(second["alpha"].item(), rel=1e-4, abs=1e-6)
            alpha_optimizer = reference[name][ALPHA]
            (alpha_gradient,) = torch.autograd.grad(second["alpha"], [module.critics.entropy.log_alpha])
            module.critics.entropy.log_alpha.grad = alpha_gradient
            alpha_optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(module.critics.target.parameters(), module.critics.online.parameters()):
                    slow.copy_((1 - TAU) * slow + TAU * fast)
    stack.store(policies_only=False)
    for name in names:
        for (key, own), other in zip(modules[name].state_dict().items(), theirs[name].state_dict().values()):
            assert (own - other).abs().max() < 1e-6, (name, key)
        for key, optimizer in mine[name].items():
            for own, other in zip(optimizer.state.values(), reference[name][key].state.values()):
                torch.testing.assert_close(own["exp_avg"], other["exp_avg"], rtol=0, atol=1e-6)
                assert own["step"] == other["step"] == 3


def test_the_losses_are_the_papers_to_the_last_digit() -> None:
    """In float64, on a fixed batch of two modules."""
    torch.manual_seed(0)
    s, b, a = 2, 64, 3
    mean, log_std = torch.randn(s, b, a).double(), 0.3 * torch.randn(s, b, a).double()
    noise, real = torch.randn(s, b, a).double(), torch.ones(s, 1, a).double()
    action, log_prob = sac_loss.sampled_actions(mean, log_std, noise, real)
    expected = Normal(mean, log_std.exp()).log_prob(mean + log_std.exp() * noise).sum(-1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(action, mean + log_std.exp() * noise, rtol=0, atol=0)

    reward, discount, alpha = torch.randn(s, b).double(), torch.rand(s, b).double(), torch.rand(s, 1).double()
    value, next_value = torch.randn(s, 2, b).double(), torch.randn(s, 2, b).double()
    y = sac_loss.critic_target(reward, discount, next_value, log_prob, alpha)
    losses = sac_loss.critic_loss(value, y, torch.full((s, b), 1 / b, dtype=torch.float64))
    actor = sac_loss.actor_loss(value, log_prob, alpha)
    for m in range(s):
        total, policy = [0.0, 0.0], 0.0
        for i in range(b):
            soft = min(next_value[m, 0, i].item(), next_value[m, 1, i].item()) - alpha[m].item() * log_prob[m, i].item()
            target = reward[m, i].item() + discount[m, i].item() * soft
            for twin in range(2):
                total[twin] += 0.5 * (value[m, twin, i].item() - target) ** 2 / b
            policy += (alpha[m].item() * log_prob[m, i].item() - min(value[m, :, i].tolist())) / b
        assert losses[m].tolist() == pytest.approx(total, abs=1e-10)
        assert actor[m].item() == pytest.approx(policy, abs=1e-10)

    log_alpha = alpha.log().requires_grad_()
    j_alpha = -(log_alpha.exp() * (log_prob - math.log(a))).mean(-1).sum()
    (by_log_alpha,) = torch.autograd.grad(j_alpha, log_alpha)
    own = loss_gradients.alpha_gradient(log_prob, alpha, torch.full((s, 1), -math.log(a), dtype=torch.float64))
    torch.testing.assert_close(own, by_log_alpha, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("deviation", "goes_down"), [(0.6, True), (0.06, False)])
def test_alpha_falls_where_entropy_is_above_its_target_and_rises_below(deviation: float, goes_down: bool) -> None:
    """-ln 3 over three actions is a deviation of .168: .6 is too lively, .06 too sure."""
    modules = modules_of(("EURUSD",))
    policy = modules["EURUSD"].policy
    floor = math.exp(policy.log_min_std)
    with torch.no_grad():
        policy.rho.fill_(math.log(deviation - floor))
    stack = stack_of(modules)
    before = stack.alphas.weight_RP.item()
    figures, _ = stack.step([batch_for(modules["EURUSD"], np.random.default_rng(0))], 0, with_metrics=True)
    assert figures["entropy"].item() == pytest.approx(3 * (math.log(deviation) + 0.5 * math.log(2 * math.pi * math.e)))
    assert (figures["entropy"].item() > -math.log(3)) == goes_down
    assert (stack.alphas.weight_RP.item() < before) == goes_down


def test_targets_move_by_tau_and_those_of_resting_modules_not_at_all() -> None:
    names = GROUPS[0]
    modules = modules_of(names)
    stack = stack_of(modules, tau=0.25)
    before = stack.targets.weight_RP.clone()
    fresh = {rows: getattr(stack, rows).weight_RP.clone() for rows in ("actors", "critics", "alphas")}
    batch = batch_for(modules["EURUSD"], np.random.default_rng(0))
    stack.step([batch, None, batch], 0, with_metrics=False)
    moved = (before + 0.25 * (stack.critics.weight_RP - before)).view(3, 2, -1)
    now = stack.targets.weight_RP.view(3, 2, -1)
    torch.testing.assert_close(now[[0, 2]], moved[[0, 2]], rtol=0, atol=1e-7)
    assert torch.equal(now[1], before.view(3, 2, -1)[1])
    for rows, weights in fresh.items():
        per_module = getattr(stack, rows).weight_RP.view(3, -1)
        assert torch.equal(per_module[1], weights.view(3, -1)[1])
        assert (per_module[[0, 2]] != weights.view(3, -1)[[0, 2]]).any(dim=1).all()


def test_an_error_that_is_not_finite_skips_its_module_and_no_other() -> None:
    names = GROUPS[0]
    modules = modules_of(names)
    stack = stack_of(modules)
    before = stack.critics.weight_RP.clone().view(3, -1)
    batches = [batch_for(modules[name], np.random.default_rng(0)) for name in names]
    batches[1].reward[0] = np.nan
    stack.step(batches, 0, with_metrics=False)
    after = stack.critics.weight_RP.view(3, -1)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])
    assert stack.steps["XAUUSD"].skipped.total() == 2
    assert stack.steps["EURUSD"].skipped.total() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("penalty", "where"), [(0.5, 0.4), (0.0, None)])
def test_with_a_price_the_mean_is_the_slope_over_it_and_without_one_it_leaves_the_bounds(
    penalty: float, where: float | None
) -> None:
    """Q = .2 g whatever is seen: a price of .5 makes .4 the best signal; at no price more is always better."""
    modules = modules_of(("EURUSD",))
    module = modules["EURUSD"]
    with torch.no_grad():
        for parameter in (*module.policy.parameters(), *module.critics.parameters()):
            parameter.zero_()
        module.policy.rho.fill_(-4.0)
        module.critics.entropy.log_alpha.fill_(-20.0)
        for twin in (*module.critics.online, *module.critics.target):
            twin.slope.bias[0] = 0.2
    rates = {ACTOR: 0.003, **dict.fromkeys(CRITICS, 0.0), ALPHA: 0.0}
    optimizers = {key: torch.optim.Adam(part.parameters(), lr=rates[key]) for key, part in _parts(module).items()}
    stack = SACStack(
        ["EURUSD"],
        [module],
        {"EURUSD": optimizers},
        tau=0.0,
        grad_clip=10.0,
        action_penalty=penalty,
        options=AS_THEY_STAND,
    )
    stack.load()
    batch = batch_for(module, np.random.default_rng(0))
    for seed in range(300):
        stack.step([batch], seed, with_metrics=False)
    stack.store(policies_only=True)
    mean = module.policy.mean(torch.from_numpy(batch.observation)).detach()
    if where is None:
        assert (mean[:, 0] > 1.0).float().mean() > 0.9
    else:
        assert mean[:, 0].mean().item() == pytest.approx(where, abs=0.02)
    assert mean[:, 1:].abs().max() < 0.2


@pytest.mark.slow
def test_a_penalised_slope_is_a_ridge_regression() -> None:
    """At its closed form, (X'X / n + lambda)^-1 X'y / n with X = w (s, 1), the gradient of the critics is zero, for a
    line for each action and for one that is shared by instruments."""
    for name in ("EURUSD", "forex_specialist"):
        modules = modules_of((name,), PENALTIES)
        module = modules[name]
        rng = np.random.default_rng(0)
        batch = batch_for(module, rng)
        obs, reward = torch.from_numpy(batch.observation).double(), torch.from_numpy(batch.reward).double()
        config = module.model_config["sac"]
        seen = apply_action_map(config["action_map"], torch.from_numpy(batch.action), config["map_numbers"]).double()
        twin = copy.deepcopy(module.critics.online[0]).double()
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        parts = list(twin.slope.parameters())
        value = twin(torch.cat((obs, seen), dim=-1))
        rows = [torch.autograd.grad(one, parts, retain_graph=True) for one in value]
        x = torch.stack([torch.cat([part.ravel() for part in row]) for row in rows])
        solved = torch.linalg.solve(x.mT @ x / ROWS + 0.2 * torch.eye(x.shape[1]), x.mT @ reward / ROWS)
        for part, own in zip(parts, solved.split([part.numel() for part in parts])):
            part.data.copy_(own.view(part.shape))
        with torch.no_grad():
            for critic in module.critics.online:
                critic.load_state_dict(twin.float().state_dict())
        stack = stack_of(modules)
        critics = stack._critic_backprop
        obs_RBF, executed_RBW = (item.float().expand(2, -1, -1).contiguous() for item in (obs, seen))
        error = critics.forward(obs_RBF, executed_RBW) - reward.float()
        critics.backward(error / ROWS, torch.full((2,), 0.2))
        slopes = [
            (part, stack.critics.grad_RP[:, part]) for key, (part, _) in stack.critics.parts.items() if "slope" in key
        ]
        assert sum(gradient.shape[1] for _, gradient in slopes) == x.shape[1]
        assert max(gradient.abs().max().item() for _, gradient in slopes) < 1e-6
        critics.forward(obs_RBF, executed_RBW.roll(1, dims=1))
        critics.backward(error / ROWS, torch.full((2,), 0.2))
        assert max(stack.critics.grad_RP[:, part].abs().max().item() for part, _ in slopes) > 1e-3


def test_plain_policies_have_nothing_to_teach() -> None:
    assert type(modules_of(("EURUSD",))["EURUSD"].policy).auxiliary_losses is GaussianPolicy.auxiliary_losses
