"""How a stack of networks is run forward and backward.

Two ways with one face: `forward` gives `[mean | log deviation]` in two parts and values, `backward` takes the gradients
of a loss by them and fills the stack's gradient rows.

- `PlainPass` writes the chain rule of the plain networks out. On small networks autograd's own work, one node and a few
  allocations for each of some hundred operations, is as long as theirs.
- `AutogradPass` runs any network.

Shape suffixes: S networks of the stack, B rows, F observation, H hidden, A actions, N instruments, K one's block.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mtquant_rllib.config.training import LearnerConfig
from mtquant_rllib.engine.autograd import Prepared, asked_for, recomputing
from mtquant_rllib.engine.stacks import Rows, Stack
from mtquant_rllib.policies.elementwise import Tanh, dropout_mask, tanh_of_double, through_tanh
from mtquant_rllib.policies.networks import (
    Dense,
    FlatPolicy,
    GaussianPolicy,
    OwnLine,
    SpecialistNetwork,
    SpecialistShape,
    ValueNetwork,
)

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
        self._mean: _FlatMean | _SpecialistMean
        if isinstance(policy, SpecialistNetwork):
            self._mean = _SpecialistMean(policy, tables)
        else:
            self._mean = _FlatMean(policy, tables)

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
        self._value_trunk = _Trunk(tables, "value.trunk", value.trunk, value.dropout, self._generator)
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


class Tables:
    """Parameters of a stack and their gradients by name, each with the leading S."""

    def __init__(self, stack: Rows) -> None:
        self._stack = stack

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        part, shape = self._stack.parts[name]
        rows = (self._stack.weight_RP, self._stack.grad_RP)
        weight, gradient = (table[:, part].view(-1, *shape) for table in rows)
        return weight, gradient

    def __contains__(self, name: str) -> bool:
        return name in self._stack.parts


class Layer:
    """One `Dense`, forward and backward."""

    def __init__(self, tables: Tables, name: str) -> None:
        self.weight, self.weight_gradient = tables[f"{name}.weight"]
        self.bias: Tensor | None = None
        if f"{name}.bias" in tables:
            bias, self.bias_gradient = tables[f"{name}.bias"]
            self.bias = bias.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(self.bias, x, self.weight.mT)

    def keep(self, g: Tensor, x: Tensor) -> None:
        """Store the gradients of weight and bias for the gradient `g` by what `x` became."""
        torch.bmm(g.mT, x, out=self.weight_gradient)
        if self.bias is not None:
            torch.sum(g, 1, out=self.bias_gradient)

    def through(self, g: Tensor) -> Tensor:
        """The gradient by the input."""
        return torch.bmm(g, self.weight)


class _Trunk:
    """Dense layers with tanh between, and dropout after each where there is a share of it."""

    def __init__(
        self,
        tables: Tables,
        name: str,
        trunk: Any,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        numbers = [number for number, layer in enumerate(trunk) if isinstance(layer, Dense)]
        self._layers = [Layer(tables, f"{name}.{number}") for number in numbers]
        self._dropout, self._generator = dropout, generator
        self.last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self._inputs, self._outputs, self._masks = [], [], []
        for layer in self._layers:
            assert layer.bias is not None
            self._inputs.append(x)
            x = tanh_of_double(torch.baddbmm(layer.bias, x, layer.weight.mT, beta=2, alpha=2))
            self._outputs.append(x)
            if self._dropout:
                self._masks.append(dropout_mask(x, self._dropout, self._generator))
                x = x * self._masks[-1]
        self.last = x
        return x

    def backward(self, g: Tensor) -> Tensor:
        """Take the gradient by the last output; the gradient by what went into the first tanh."""
        for number in reversed(range(len(self._layers))):
            if self._masks:
                g = g.mul_(self._masks[number])
            g = through_tanh(g, self._outputs[number])
            self._layers[number].keep(g, self._inputs[number])
            if number:
                g = self._layers[number].through(g)
        return g

    def through(self, g: Tensor) -> Tensor:
        """From what `backward` returned to the gradient by the trunk's input."""
        return self._layers[0].through(g)


class _FlatMean:
    """`FlatPolicy.mean`."""

    def __init__(self, policy: GaussianPolicy, tables: Tables) -> None:
        self._trunk = _Trunk(tables, "policy.trunk", policy.trunk)
        self._head = Layer(tables, "policy.head")
        self._skip: Layer | OwnLinePass | None = None
        if isinstance(policy.skip, OwnLine):
            self._skip = OwnLinePass(tables, "policy.skip", policy.skip)
        elif policy.skip is not None:
            self._skip = Layer(tables, "policy.skip")

    def forward(self, obs_SBF: Tensor) -> Tensor:
        self._obs = obs_SBF
        mean_SBA = self._head.forward(self._trunk.forward(obs_SBF))
        if isinstance(self._skip, OwnLinePass):
            return mean_SBA.add_(self._skip.forward(obs_SBF))
        return mean_SBA if self._skip is None else mean_SBA.baddbmm_(obs_SBF, self._skip.weight.mT)

    def backward(self, g_SBA: Tensor) -> None:
        if self._skip is not None:
            self._skip.keep(g_SBA, self._obs)
        self._head.keep(g_SBA, self._trunk.last)
        self._trunk.backward(self._head.through(g_SBA))


class OwnLinePass:
    """`networks.OwnLine`, forward and backward. M: B x A rows, those of one observation beside each other."""

    def __init__(self, tables: Tables, name: str, line: OwnLine) -> None:
        self.line, self._own_AK = Layer(tables, f"{name}.line"), line.own_AK

    def forward(self, x_SBF: Tensor) -> Tensor:
        """(S, B, A)."""
        reads_SM1 = self.line.forward(self._own_of(x_SBF))
        return reads_SM1.view(*x_SBF.shape[:-1], len(self._own_AK))

    def keep(self, g_SBA: Tensor, x_SBF: Tensor) -> None:
        """Store the gradient of the weights for the gradient `g` by what `x` became."""
        self.line.keep(g_SBA.reshape(len(g_SBA), -1, 1), self._own_of(x_SBF))

    def _own_of(self, x_SBF: Tensor) -> Tensor:
        """Own columns of every action, (S, M, K)."""
        return x_SBF[..., self._own_AK].flatten(1, 2)


class _SpecialistMean:
    """`SpecialistNetwork.mean`. M: B x N rows, those of one observation beside each other."""

    def __init__(self, policy: SpecialistNetwork, tables: Tables) -> None:
        assert isinstance(policy.shape, SpecialistShape)
        self._policy = policy
        self._splits, self._n = policy.splits, policy.shape.n_instruments
        self._encoder = _Trunk(tables, "policy.encoder", policy.encoder)
        self._reader = _Beside(tables, "policy.reader", policy.shape.block)
        self._logits = Layer(tables, "policy.logits")
        self._confidence_trunk = _Trunk(tables, "policy.confidence_trunk", policy.confidence_trunk)
        self._confidence = Layer(tables, "policy.confidence")
        self._skips: tuple[_Beside, Layer] | None = None
        if policy.skip_logits is not None:
            self._skips = (
                _Beside(tables, "policy.skip_logits", policy.shape.block),
                Layer(tables, "policy.skip_confidence"),
            )

    def forward(self, obs_SBF: Tensor) -> Tensor:
        domain, blocks, state = obs_SBF.split(self._splits, dim=-1)
        n_networks, n_rows = obs_SBF.shape[:2]
        self._blocks_SMK = blocks.reshape(n_networks, n_rows * self._n, -1)
        self._situation = torch.cat((domain, state), dim=-1)
        encoding = self._encoder.forward(self._situation)
        twice = self._reader.forward(self._blocks_SMK, encoding).mul_(2.0)
        self._seen_SMH = tanh_of_double(twice)
        logits_SM3 = self._logits.forward(self._seen_SMH)
        seen_SBNH = self._seen_SMH.unflatten(1, (n_rows, self._n))
        pooled = torch.cat((encoding, self._policy.pooled(seen_SBNH)), dim=-1)
        confidence = self._confidence.forward(self._confidence_trunk.forward(pooled))
        if self._skips is not None:
            skip_logits, skip_confidence = self._skips
            logits_SM3 += skip_logits.forward(self._blocks_SMK, self._situation)
            confidence.baddbmm_(self._situation, skip_confidence.weight.mT)
        return torch.cat((logits_SM3.view(n_networks, n_rows, -1), confidence), dim=-1)

    def backward(self, g_SBA: Tensor) -> None:
        g_logits = g_SBA[..., :-1].reshape(len(g_SBA), -1, self._logits.weight.shape[1])
        g_confidence = g_SBA[..., -1:].contiguous()
        if self._skips is not None:
            skip_logits, skip_confidence = self._skips
            skip_logits.keep(g_logits, self._blocks_SMK, self._situation)
            skip_confidence.keep(g_confidence, self._situation)
        self._confidence.keep(g_confidence, self._confidence_trunk.last)
        g_pooled = self._confidence_trunk.through(
            self._confidence_trunk.backward(g_confidence * self._confidence.weight)
        )
        width = self._encoder.last.shape[-1]
        self._logits.keep(g_logits, self._seen_SMH)
        g_seen_SMH = self._logits.through(g_logits)
        g_mean = g_pooled[..., width:].unsqueeze(2)
        shares = self._policy.shares
        g_mean = g_mean / self._n if shares is None else g_mean * shares[:, None, :, None]
        g_seen_SMH.unflatten(1, (-1, self._n)).add_(g_mean)
        g_read = through_tanh(g_seen_SMH, self._seen_SMH)
        g_encoding = self._reader.keep(g_read, self._blocks_SMK, self._encoder.last)
        self._encoder.backward(torch.bmm(g_encoding, self._reader.shared).add_(g_pooled[..., :width]))


class _Beside:
    """`networks.beside`: own columns of M = B x N rows, shared columns of B."""

    def __init__(self, tables: Tables, name: str, n_own: int) -> None:
        layer = Layer(tables, name)
        self.own, self.shared = layer.weight[..., :n_own], layer.weight[..., n_own:]
        self._own_gradient = layer.weight_gradient[..., :n_own]
        self._shared_gradient = layer.weight_gradient[..., n_own:]
        self._layer = layer

    def forward(self, own_SMK: Tensor, shared_SBH: Tensor) -> Tensor:
        out = torch.bmm(own_SMK, self.own.mT)
        if self._layer.bias is None:
            part = torch.bmm(shared_SBH, self.shared.mT)
        else:
            part = torch.baddbmm(self._layer.bias, shared_SBH, self.shared.mT)
        out.unflatten(1, (shared_SBH.shape[1], -1)).add_(part.unsqueeze(2))
        return out

    def keep(self, g_SMO: Tensor, own_SMK: Tensor, shared_SBH: Tensor) -> Tensor:
        """Store the gradients; the sum of `g` over what shares a row, (S, B, O)."""
        torch.bmm(g_SMO.mT, own_SMK, out=self._own_gradient)
        g_SBO = g_SMO.unflatten(1, (shared_SBH.shape[1], -1)).sum(2)
        torch.bmm(g_SBO.mT, shared_SBH, out=self._shared_gradient)
        if self._layer.bias is not None:
            torch.sum(g_SBO, 1, out=self._layer.bias_gradient)
        return g_SBO
