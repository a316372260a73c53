"""How a stack of networks is run forward and backward.

Two ways with one face: `forward` gives `[mean | log deviation]` in two parts and values, `backward` takes the gradients
of a loss by them and fills the stack's gradient rows.

- `PlainPass` is the chain rule of the plain networks, written out (`manual_backward`). On small networks autograd's own
  work, one node and a few allocations for each of some hundred operations, is as long as theirs.
- `AutogradPass` runs any network.

Shape suffixes: S networks of the stack, B rows, F observation, A actions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mtquant_rllib.config.training import LearnerConfig
from mtquant_rllib.engine.learning.autograd import Prepared, asked_for, recomputing
from mtquant_rllib.engine.learning.manual_backward import FlatMean, Layer, SpecialistMean, Tables, Trunk
from mtquant_rllib.engine.learning.stacks import Rows, Stack
from mtquant_rllib.policies.elementwise import Tanh
from mtquant_rllib.policies.networks import Dense, FlatPolicy, GaussianPolicy, SpecialistNetwork, ValueNetwork

logger = logging.getLogger(__name__)

Outputs = tuple[Tensor, Tensor, Tensor]
"""Mean (S, B, A); log deviation, (S, B, A) or (S, 1, A) where it does not depend on the row; value (S, B)."""


class Pass(Protocol):
    """One way to run a stack.

    draws_its_own
        Dropout comes from a generator of its own, so that several may run at a time.
    lessons
        Of the last `forward`: what a policy that teaches adds to its agent's loss, name -> scalar.
    """

    draws_its_own: bool
    lessons: dict[str, Tensor]

    def seed(self, seed: int) -> None:
        """Begin a stream of dropout."""

    def forward(self, obs_SBF: Tensor, labels_SB1: Tensor | None = None, share: Tensor | float = 1.0) -> Outputs:
        """The outputs, with the value's dropout, and where labels of the rows are given the lessons.

        share: of these rows in their minibatch, the rest of which other learners have. Lessons are means over rows, and
        this share of theirs adds up to the minibatch's.
        """

    def backward(self, mean_SBA: Tensor, log_std_SBA: Tensor, value_SB: Tensor) -> None:
        """Fill the stack's gradient rows from the gradients by the outputs of the last `forward`, and those of its
        lessons."""


def pass_for(stack: Stack, options: LearnerConfig) -> Pass:
    """The closed form where there is one."""
    policy, value = stack.network.policy, stack.network.value
    plain = is_plain(policy, stack.weight_RP.device) and type(value) is ValueNetwork and _only_known(value)
    warn_of_idle_options(stack.names, options, plain=plain, network=stack.network)
    return PlainPass(stack) if plain else AutogradPass(stack, options)


def warn_of_idle_options(names: Sequence[str], options: LearnerConfig, *, plain: bool, network: Any) -> None:
    """Say which settings of section `learner` have no part in these modules."""
    asked = asked_for(options)
    idle = asked if plain else [own for own in asked if own == "checkpoint_activations" and not recomputing(network)]
    if idle:
        why = "the closed form of plain networks on a CPU runs them" if plain else "they have no attention layers"
        logger.warning("learner.%s: no part in %s; %s", ", learner.".join(idle), ", ".join(names), why)


class AutogradPass:
    """See the module's docstring. Dropout is torch's.

    The policy's pass is float32 whatever the options say: PPO divides its probabilities by those that the runner found.
    In bfloat16 a first minibatch's ratios are off by up to .01 on average, and by up to .9 where an attention network's
    confidence comes to lie on the other side of its threshold.
    """

    draws_its_own = False

    def __init__(self, stack: Stack, options: LearnerConfig) -> None:
        self._stack = stack
        self._prepared = Prepared(options, stack.weight_RP.device, stack.network)
        self._run = self._prepared.compiled(self._everything)

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def forward(self, obs_SBF: Tensor, labels_SB1: Tensor | None = None, share: Tensor | float = 1.0) -> Outputs:
        inputs, value_SB, lessons = self._run(obs_SBF, labels_SB1)
        self._outputs = (*inputs.chunk(2, dim=-1), value_SB)
        self._lesson = torch.stack([*lessons.values()]).sum() * share if lessons else None
        self.lessons = {name: loss.detach() * share for name, loss in lessons.items()}
        mean, log_std, value = (output.detach() for output in self._outputs)
        return mean, log_std, value

    def _everything(self, obs_SBF: Tensor, labels_SB1: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        inputs, lessons = self._stack.inputs(obs_SBF), {}
        with self._prepared.precision():
            value_SB = self._stack.values(obs_SBF)
            if labels_SB1 is not None:
                assert len(self._stack) == 1
                lessons = self._stack.network.policy.auxiliary_losses(obs_SBF[0], labels_SB1[0, :, 0])
        return inputs, value_SB.float(), lessons

    def backward(self, mean_SBA: Tensor, log_std_SBA: Tensor, value_SB: Tensor) -> None:
        outputs, gradients = [*self._outputs], [mean_SBA, log_std_SBA, value_SB]
        if self._lesson is not None:
            outputs, gradients = [*outputs, self._lesson], [*gradients, torch.ones_like(self._lesson)]
        torch._foreach_copy_(self._stack.gradients, torch.autograd.grad(outputs, self._stack.parameters, gradients))
        del self._outputs, self._lesson


class PlainPolicy:
    """The policies of a stack by the chain rule."""

    def __init__(self, policy: Any, tables: Tables) -> None:
        self._rho, self._rho_gradient = tables["policy.rho"]
        self._log_floor = policy.log_floor
        self._mean: FlatMean | SpecialistMean
        if isinstance(policy, SpecialistNetwork):
            self._mean = SpecialistMean(policy, tables)
        else:
            self._mean = FlatMean(policy, tables)

    @torch.no_grad()
    def forward(self, obs_SBF: Tensor, *, learns: bool = True) -> tuple[Tensor, Tensor]:
        """Mean (S, B, A) and log deviation (S, 1, A)."""
        log_std_S1A = torch.logaddexp(self._rho, self._rho.new_tensor(self._log_floor)).unsqueeze(1)
        return self._mean.forward(obs_SBF), log_std_S1A

    @torch.no_grad()
    def backward(self, mean_SBA: Tensor, log_std_SBA: Tensor, lesson: Tensor | None = None) -> None:
        """Fill the gradient rows from the gradients by the outputs of the last `forward`."""
        assert lesson is None
        self._mean.backward(mean_SBA)
        torch.mul(log_std_SBA.sum(1), torch.sigmoid(self._rho - self._log_floor), out=self._rho_gradient)


class AutogradPolicy:
    """The policies of a stack, of any kind, by autograd."""

    def __init__(self, policy: GaussianPolicy, rows: Rows, options: LearnerConfig) -> None:
        self._policy, self._rows = policy, rows
        self._prepared = Prepared(options, rows.weight_RP.device, policy)
        self._run, self._teach = self._prepared.compiled(self._inputs), self._prepared.compiled(self._lessons)

    def forward(self, obs_SBF: Tensor, *, learns: bool = True) -> tuple[Tensor, Tensor]:
        """Mean and log deviation, (S, B, A) each. Only a pass that `learns` can be followed by `backward`."""
        with torch.set_grad_enabled(learns):
            self._outputs = self._run(obs_SBF).chunk(2, dim=-1)
        mean, log_std = (output.detach() for output in self._outputs)
        return mean, log_std

    def _inputs(self, obs_SBF: Tensor) -> Tensor:
        with self._prepared.precision():
            inputs = self._policy(obs_SBF) if len(self._rows) > 1 else self._policy(obs_SBF[0])[None]
        return inputs.float()

    def lessons(self, obs_SBF: Tensor, labels_SB: Tensor) -> dict[str, Tensor]:
        """`auxiliary_losses` of the one policy of a stack."""
        return self._teach(obs_SBF[0], labels_SB[0])

    def _lessons(self, obs_BF: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        with self._prepared.precision():
            return self._policy.auxiliary_losses(obs_BF, labels_B)

    def backward(self, mean_SBA: Tensor, log_std_SBA: Tensor, lesson: Tensor | None = None) -> None:
        """Fill the gradient rows from the gradients by the outputs of the last `forward`, and that of a lesson added to
        the loss."""
        outputs, gradients = [*self._outputs], [mean_SBA, log_std_SBA]
        if lesson is not None:
            outputs, gradients = [*outputs, lesson], [*gradients, torch.ones_like(lesson)]
        torch._foreach_copy_(self._rows.gradients, torch.autograd.grad(outputs, self._rows.parameters, gradients))
        del self._outputs


def is_plain(policy: Any, device: torch.device) -> bool:
    """Whether there is a closed form."""
    mean = type(policy).mean in (FlatPolicy.mean, SpecialistNetwork.mean)
    return mean and _only_known(policy) and device.type == "cpu"


def _only_known(network: Any) -> bool:
    return all(isinstance(module, (Dense, Tanh)) for module in network.modules() if not list(module.children()))


class PlainPass:
    """See the module's docstring."""

    draws_its_own = True

    def __init__(self, stack: Stack) -> None:
        self.lessons: dict[str, Tensor] = {}
        self._generator = torch.Generator()
        value, tables = stack.network.value, Tables(stack)
        self._policy = PlainPolicy(stack.network.policy, tables)
        assert isinstance(value, ValueNetwork)
        self._value_trunk = Trunk(tables, "value.trunk", value.trunk, value.dropout, self._generator)
        self._value_head = Layer(tables, "value.head")

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def forward(self, obs_SBF: Tensor, labels_SB1: Tensor | None = None, share: Tensor | float = 1.0) -> Outputs:
        assert labels_SB1 is None
        mean_SBA, log_std_S1A = self._policy.forward(obs_SBF)
        value_SB1 = self._value_head.forward(self._value_trunk.forward(obs_SBF))
        return mean_SBA, log_std_S1A, value_SB1.squeeze(-1)

    @torch.no_grad()
    def backward(self, mean_SBA: Tensor, log_std_SBA: Tensor, value_SB: Tensor) -> None:
        self._policy.backward(mean_SBA, log_std_SBA)
        value_SB1 = value_SB.unsqueeze(-1)
        self._value_head.keep(value_SB1, self._value_trunk.last)
        self._value_trunk.backward(value_SB1 * self._value_head.weight)
