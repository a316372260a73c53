"""Forward and backward passes of a stack of networks.

`forward` returns the networks' outputs, `backward` writes the stack's gradient rows of an objective of them. Plain
networks run by the chain rule, from the objective's gradients in closed form (`fast_path`); all others by autograd of
the objective's loss as it is defined.

Shape suffixes: S networks of the stack, B rows, F observation, A actions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mtquant_rllib.config.sections.training import LearnerConfig
from mtquant_rllib.engine.learning.execution_options import NetworkExecution, changed_options, checkpointed_encoders
from mtquant_rllib.engine.learning.fast_path.policies import ManualBackprop, has_fast_path
from mtquant_rllib.engine.learning.objective import Objective
from mtquant_rllib.engine.learning.stacks import ModuleStack, StackedParameters
from mtquant_rllib.policies.networks import GaussianPolicy

logger = logging.getLogger(__name__)

Outputs = tuple[Tensor, Tensor, Tensor]
"""Mean (S, B, A); log deviation, (S, B, A) or (S, 1, A) where it does not depend on the row; value (S, B)."""


class Backprop(Protocol):
    """The passes of one stack of policies and value networks.

    has_own_generator
        Dropout is drawn from a generator of its own, so that several stacks may run in threads.
    auxiliary_losses
        Of the last `forward`: the policy's auxiliary losses, name -> scalar.
    """

    has_own_generator: bool
    auxiliary_losses: dict[str, Tensor]

    def seed(self, seed: int) -> None:
        """Seed dropout."""

    def forward(self, obs_SBF: Tensor, labels_SB1: Tensor | None = None, fraction: Tensor | float = 1.0) -> Outputs:
        """The outputs, with the value's dropout, and where regime labels of the rows are given the auxiliary losses.

        fraction: of the minibatch's rows that these are; other learners have the rest. Auxiliary losses are means over
        rows times it, so that they add up to the minibatch's.
        """

    def backward(self, objective: Objective) -> None:
        """Write the stack's gradient rows of the objective at the outputs of the last `forward`, plus those of its
        auxiliary losses."""


def backprop_for(stack: ModuleStack, options: LearnerConfig) -> Backprop:
    fast = has_fast_path(stack.weight_RP.device, stack.network.policy, stack.network.value)
    warn_of_unused_options(stack.names, options, fast=fast, network=stack.network)
    return ManualBackprop(stack) if fast else AutogradBackprop(stack, options)


def warn_of_unused_options(names: Sequence[str], options: LearnerConfig, *, fast: bool, network: Any) -> None:
    """Log which settings of section `learner` do nothing for these modules."""
    changed = changed_options(options)
    unused = changed if fast else [name for name in changed if name == "checkpoint_activations"]
    if unused and (fast or not checkpointed_encoders(network)):
        why = "the closed form of plain networks on a CPU runs them" if fast else "they have no attention layers"
        logger.warning("learner.%s: no part in %s; %s", ", learner.".join(unused), ", ".join(names), why)


class AutogradBackprop:
    """Policies and value networks of any kind. Dropout is torch's.

    The policy's pass is float32 whatever the options say: PPO divides its probabilities by those that the runner found.
    In bfloat16 a first minibatch's ratios are off by up to .01 on average, and by up to .9 where an attention network's
    confidence comes to lie on the other side of its threshold.
    """

    has_own_generator = False

    def __init__(self, stack: ModuleStack, options: LearnerConfig) -> None:
        self._stack = stack
        self._execution = NetworkExecution(options, stack.weight_RP.device, stack.network)
        self._run = self._execution.compiled(self._all_outputs)

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def forward(self, obs_SBF: Tensor, labels_SB1: Tensor | None = None, fraction: Tensor | float = 1.0) -> Outputs:
        inputs, value_SB, losses = self._run(obs_SBF, labels_SB1)
        self._outputs = (*inputs.chunk(2, dim=-1), value_SB)
        self._auxiliary_loss = torch.stack([*losses.values()]).sum() * fraction if losses else None
        self.auxiliary_losses = {name: loss.detach() * fraction for name, loss in losses.items()}
        mean, log_std, value = (output.detach() for output in self._outputs)
        return mean, log_std, value

    def _all_outputs(self, obs_SBF: Tensor, labels_SB1: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        inputs, losses = self._stack.action_dist_inputs(obs_SBF), {}
        with self._execution.precision():
            value_SB = self._stack.values(obs_SBF)
            if labels_SB1 is not None:
                assert len(self._stack) == 1
                losses = self._stack.network.policy.auxiliary_losses(obs_SBF[0], labels_SB1[0, :, 0])
        return inputs, value_SB.float(), losses

    def backward(self, objective: Objective) -> None:
        _backward(self._stack, objective.loss(*self._outputs), self._auxiliary_loss)
        del self._outputs, self._auxiliary_loss


class AutogradPolicyBackprop:
    """The policies of a stack alone, of any kind."""

    def __init__(self, policy: GaussianPolicy, rows: StackedParameters, options: LearnerConfig) -> None:
        self._policy, self._rows = policy, rows
        self._execution = NetworkExecution(options, rows.weight_RP.device, policy)
        self._run = self._execution.compiled(self._inputs)
        self._run_auxiliary = self._execution.compiled(self._auxiliary_losses)

    def forward(self, obs_SBF: Tensor, *, learns: bool = True) -> tuple[Tensor, Tensor]:
        """Mean and log deviation, (S, B, A) each. Only a pass that `learns` can be followed by `backward`."""
        with torch.set_grad_enabled(learns):
            self._outputs = self._run(obs_SBF).chunk(2, dim=-1)
        mean, log_std = (output.detach() for output in self._outputs)
        return mean, log_std

    def _inputs(self, obs_SBF: Tensor) -> Tensor:
        with self._execution.precision():
            inputs = self._policy(obs_SBF) if len(self._rows) > 1 else self._policy(obs_SBF[0])[None]
        return inputs.float()

    def auxiliary_losses(self, obs_SBF: Tensor, labels_SB: Tensor) -> dict[str, Tensor]:
        """`auxiliary_losses` of the one policy of a stack."""
        return self._run_auxiliary(obs_SBF[0], labels_SB[0])

    def _auxiliary_losses(self, obs_BF: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        with self._execution.precision():
            return self._policy.auxiliary_losses(obs_BF, labels_B)

    def backward(self, objective: Objective, auxiliary_loss: Tensor | None = None) -> None:
        """Write the gradient rows of the objective at the outputs of the last `forward`, plus those of an auxiliary
        loss."""
        _backward(self._rows, objective.loss(*self._outputs), auxiliary_loss)
        del self._outputs


def _backward(rows: StackedParameters, loss: Tensor, auxiliary_loss: Tensor | None) -> None:
    if auxiliary_loss is not None:
        loss = loss + auxiliary_loss
    torch._foreach_copy_(rows.gradients, torch.autograd.grad(loss, rows.parameters))
