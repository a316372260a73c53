"""Section `learner`: what may change how gradients are computed, and by how much they may differ."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from learners import AS_THEY_STAND, Linear

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.training import LearnerConfig
from mtquant_rllib.engine.learning.backprop import AutogradBackprop, AutogradPolicyBackprop, Outputs, backprop_for
from mtquant_rllib.engine.learning.execution_options import checkpointed_encoders, compiler_error
from mtquant_rllib.engine.learning.fast_path.policies import ManualBackprop
from mtquant_rllib.engine.learning.stacks import ModuleStack, StackedParameters
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.attention.self_attention import AttentionLayer
from mtquant_rllib.policies.modules import module_specs

ALL_ATTENTION = "networks.names={meta: attention, specialist: attention, instrument: attention}"
SMALL = "networks.attention={width: 32, heads: 4, policy_heads: {hidden: 16}, classifier: {hidden: [16]}}"
STEADY = (
    "networks.attention={dropout: 0.0, classifier: {dropout: 0.0}, policy_heads: {dropout: 0.0}}",
    "meta_controller.dropout=0.0",
)
ROWS = 40


def options(**changed: Any) -> LearnerConfig:
    return AS_THEY_STAND.model_copy(update=changed)


def stack_of(*names: str, overrides: tuple[str, ...] = (ALL_ATTENTION, SMALL)) -> ModuleStack:
    """Lively modules: fresh ones say nearly nothing."""
    settings = Settings.load(overrides=overrides)
    torch.manual_seed(3)
    built = module_specs(settings, only=names).build()
    modules = [built[name] for name in names]
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    stack = ModuleStack(names, modules)
    stack.load()
    return stack


def answer(stack: ModuleStack, how: LearnerConfig, seed: int = 5) -> tuple[Outputs, torch.Tensor]:
    """Outputs and gradient rows of one pass."""
    generator = torch.Generator().manual_seed(1)
    obs = torch.randn(len(stack), ROWS, stack.widths[0], generator=generator)
    backprop = AutogradBackprop(stack, how)
    backprop.seed(seed)
    outputs = backprop.forward(obs)
    gradients = [torch.randn(output.shape, generator=generator) for output in outputs]
    backprop.backward(Linear(*gradients))
    return outputs, stack.grad_RP.clone()


@pytest.mark.parametrize("name", ["meta_controller", "forex_specialist", "EURUSD"])
def test_recomputed_activations_give_the_same_gradients_with_dropout(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stack_of(name)
    passes: list[bool] = []
    forward = AttentionLayer.forward

    def counted(self: Any, *args: Any) -> Any:
        passes.append(True)
        return forward(self, *args)

    monkeypatch.setattr(AttentionLayer, "forward", counted)
    (mean, _, value), kept = answer(stack, AS_THEY_STAND)
    once = len(passes)
    (same_mean, _, same_value), recomputed = answer(stack, options(checkpoint_activations=True))
    # Two layers of a policy and of a value; with recomputation each on the way back once more.
    assert (once, len(passes) - once) == (4, 8)
    torch.testing.assert_close(same_mean, mean, rtol=0, atol=0)
    torch.testing.assert_close(same_value, value, rtol=0, atol=0)
    torch.testing.assert_close(recomputed, kept, rtol=0, atol=1e-6)
    _, other_masks = answer(stack, AS_THEY_STAND, seed=6)
    assert (other_masks - kept).abs().max() > 1e-3


@pytest.mark.slow
def test_bfloat16_leaves_the_policy_alone_and_other_gradients_are_within_five_percent() -> None:
    """A bfloat16 has 8 bits: what is rounded to it is off by up to .4%, and a gradient has passed a dozen layers."""
    for name in ("meta_controller", "forex_specialist", "EURUSD"):
        stack = stack_of(name, overrides=(ALL_ATTENTION, SMALL, *STEADY))
        (mean, log_std, value), exact = answer(stack, AS_THEY_STAND)
        (same_mean, same_log_std, near_value), near = answer(stack, options(precision="bfloat16"))
        assert torch.equal(mean, same_mean)
        assert torch.equal(log_std, same_log_std)
        assert {tensor.dtype for tensor in (same_mean, near_value, near)} == {torch.float32}
        assert 1e-4 < (near_value - value).norm() / value.norm() < 0.02
        for part, (columns, _) in stack.parts.items():
            apart = (near[:, columns] - exact[:, columns]).norm() / exact[:, columns].norm()
            if part.startswith("policy."):
                assert apart == 0, part
            else:
                assert apart < 0.05, part
        assert not torch.equal(near, exact)


def test_under_sac_the_policys_pass_is_in_bfloat16_too() -> None:
    """SAC divides no probabilities: it draws its actions anew from the policy that learns."""
    stack = stack_of("EURUSD", overrides=(ALL_ATTENTION, SMALL, *STEADY))
    policy = stack.network.policy
    rows = StackedParameters(torch.nn.ModuleDict({"policy": policy}), [
        {f"policy.{name}": parameter for name, parameter in stack.modules[0].policy.named_parameters()}
    ])  # fmt: skip
    rows.load()
    obs, labels = torch.randn(1, ROWS, stack.widths[0]), torch.arange(ROWS)[None] % 4
    gradients = []
    for how in (AS_THEY_STAND, options(precision="bfloat16"), options(checkpoint_activations=True)):
        act = AutogradPolicyBackprop(policy, rows, how)
        torch.manual_seed(4)
        mean, log_std = act.forward(obs)
        assert mean.dtype == torch.float32
        only_asked, _ = AutogradPolicyBackprop(policy, rows, how).forward(obs, learns=False)
        torch.testing.assert_close(only_asked, mean, rtol=0.02, atol=0.002)
        auxiliary_losses = torch.stack([*act.auxiliary_losses(obs, labels).values()]).sum()
        act.backward(Linear(torch.ones_like(mean), torch.zeros_like(log_std)), auxiliary_losses)
        gradients.append(rows.grad_RP.clone())
    exact, near, same = gradients
    assert 1e-4 < (near - exact).norm() / exact.norm() < 0.02
    torch.testing.assert_close(same, exact, rtol=0, atol=1e-6)


@pytest.mark.nightly
@pytest.mark.skipif(compiler_error("cpu") is not None, reason="torch.compile finds no compiler here")
@pytest.mark.parametrize(
    ("names", "overrides"),
    [(("EURUSD",), (ALL_ATTENTION, SMALL)), (("EURUSD", "XAUUSD"), STEADY)],
    ids=["attention with dropout", "two plain networks"],
)
def test_compiled_networks_are_the_same_networks(names: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    stack = stack_of(*names, overrides=overrides)
    with torch._inductor.config.patch(fallback_random=True):
        eager, by_hand = answer(stack, AS_THEY_STAND)
        compiled, by_compiler = answer(stack, options(compile=True))
    for mine, theirs in zip(compiled, eager):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_compiler, by_hand, rtol=1e-5, atol=1e-5)
    assert by_hand.abs().max() > 0.1


@pytest.mark.slow
def test_without_a_compiler_the_setting_is_refused() -> None:
    check = (
        "import torch; from mtquant_rllib.engine.learning.execution_options import NetworkExecution;"
        "from mtquant_rllib.config import Settings;"
        "options = Settings.load(overrides=['learner.compile=true']).learner;"
        "NetworkExecution(options, torch.device('cpu'), torch.nn.Linear(1, 1))"
    )
    nowhere = {**os.environ, "PATH": "/nowhere", "CXX": "/nowhere/g++"}
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=nowhere)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"{ConfigError.__module__}.ConfigError: learner.compile = true: torch.compile does not work")
    assert "install a C++ compiler" in last


@pytest.mark.slow
def test_a_setting_without_a_part_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    asked = options(precision="bfloat16", checkpoint_activations=True)
    with caplog.at_level(logging.WARNING):
        assert isinstance(backprop_for(stack_of("EURUSD", "XAUUSD", overrides=()), asked), ManualBackprop)
        (said,) = caplog.messages
        assert said.startswith("learner.precision, learner.checkpoint_activations: no part in EURUSD, XAUUSD; ")
        caplog.clear()
        assert isinstance(backprop_for(stack_of("EURUSD"), asked), AutogradBackprop)
        assert isinstance(backprop_for(stack_of("EURUSD", overrides=()), AS_THEY_STAND), ManualBackprop)
        assert not caplog.messages
        # Its value network is plain: the policy alone has layers of attention.
        stack = stack_of("EURUSD", overrides=(ALL_ATTENTION, SMALL, "networks.attention.value=plain"))
        assert isinstance(backprop_for(stack, asked), AutogradBackprop)
        assert [encoder.recomputes for encoder in checkpointed_encoders(stack.network)] == [True]
        assert not caplog.messages


def test_rllibs_own_engine_refuses_them(make_config: Any) -> None:
    with pytest.raises(ConfigError, match=r"learner\.checkpoint_activations = True with resources.engine = 'rllib'"):
        make_config(3, "desk", "resources.engine=rllib", "learner.checkpoint_activations=true")


def test_the_learner_gets_them_from_the_settings(make_config: Any) -> None:
    config = make_config(3, "desk", "learner.precision=bfloat16")
    assert config.trial.learner == options(precision="bfloat16")


def test_one_encoder_recomputes_only_on_the_way_to_gradients() -> None:
    stack = stack_of("EURUSD")
    (encoder,) = checkpointed_encoders(stack.network.policy)
    encoder.recomputes = True
    obs = torch.from_numpy(np.random.default_rng(0).normal(size=(3, stack.widths[0])).astype(np.float32))
    with torch.no_grad():
        pooled, _ = encoder(obs)
    assert not pooled.requires_grad
