"""The plain networks' layers by the chain rule: what each computes, and the gradients of it.

Each keeps what it saw on the way forward; on the way back `keep` stores gradients of its parameters and `through` hands
on the gradient by its input.

Shape suffixes: S networks of the stack, B rows, F observation, H hidden, A actions, N instruments, K one's block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.stacks import Rows
from mtquant_rllib.policies.elementwise import dropout_mask, tanh_of_double, through_tanh
from mtquant_rllib.policies.networks import Dense, GaussianPolicy, OwnLine, SpecialistNetwork, SpecialistShape


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


class Trunk:
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


class FlatMean:
    """`FlatPolicy.mean`."""

    def __init__(self, policy: GaussianPolicy, tables: Tables) -> None:
        self._trunk = Trunk(tables, "policy.trunk", policy.trunk)
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


class SpecialistMean:
    """`SpecialistNetwork.mean`. M: B x N rows, those of one observation beside each other."""

    def __init__(self, policy: SpecialistNetwork, tables: Tables) -> None:
        assert isinstance(policy.shape, SpecialistShape)
        self._policy = policy
        self._splits, self._n = policy.splits, policy.shape.n_instruments
        self._encoder = Trunk(tables, "policy.encoder", policy.encoder)
        self._reader = _Beside(tables, "policy.reader", policy.shape.block)
        self._logits = Layer(tables, "policy.logits")
        self._confidence_trunk = Trunk(tables, "policy.confidence_trunk", policy.confidence_trunk)
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
