"""The plain networks' layers, forward and backward by the chain rule.

`forward` keeps what the gradients need; `store_gradients` writes the gradients of a layer's parameters, and
`input_gradient` returns the gradient by its input. g is the gradient by a layer's output.

Shape suffixes: S networks of the stack, B rows, F observation, H hidden, O outputs, A actions, N instruments, K columns
of one instrument or action, M = B x N (or B x A) rows, those of one observation beside each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.stacks import StackedParameters
from mtquant_rllib.policies.elementwise import dropout_mask, tanh_backward_, tanh_of_double_
from mtquant_rllib.policies.networks import Dense, PerActionLinear


class ParameterViews:
    """Parameters of a stack and their gradients by name, each with the leading S."""

    def __init__(self, stack: StackedParameters) -> None:
        self._stack = stack

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        part, shape = self._stack.parts[name]
        rows = (self._stack.weight_RP, self._stack.grad_RP)
        weight, gradient = (array[:, part].view(-1, *shape) for array in rows)
        return weight, gradient

    def __contains__(self, name: str) -> bool:
        return name in self._stack.parts


class Layer:
    """`networks.Dense`."""

    def __init__(self, views: ParameterViews, name: str) -> None:
        self.weight, self.weight_gradient = views[f"{name}.weight"]
        self.bias: Tensor | None = None
        if f"{name}.bias" in views:
            bias, self.bias_gradient = views[f"{name}.bias"]
            self.bias = bias.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(self.bias, x, self.weight.mT)

    def store_gradients(self, g: Tensor, x: Tensor) -> None:
        """Write the gradients of weight and bias, from the layer's input x and g."""
        torch.bmm(g.mT, x, out=self.weight_gradient)
        if self.bias is not None:
            torch.sum(g, 1, out=self.bias_gradient)

    def input_gradient(self, g: Tensor) -> Tensor:
        """The gradient by the layer's input."""
        return torch.bmm(g, self.weight)


class Trunk:
    """A `Sequential` of dense layers and tanh, with dropout after each tanh where `dropout` is not 0. `last`: its
    output."""

    def __init__(
        self,
        views: ParameterViews,
        name: str,
        trunk: Any,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        numbers = [number for number, layer in enumerate(trunk) if isinstance(layer, Dense)]
        self._layers = [Layer(views, f"{name}.{number}") for number in numbers]
        self._dropout, self._generator = dropout, generator
        self.last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self._inputs, self._outputs, self._masks = [], [], []
        for layer in self._layers:
            assert layer.bias is not None
            self._inputs.append(x)
            x = tanh_of_double_(torch.baddbmm(layer.bias, x, layer.weight.mT, beta=2, alpha=2))
            self._outputs.append(x)
            if self._dropout:
                self._masks.append(dropout_mask(x, self._dropout, self._generator))
                x = x * self._masks[-1]
        self.last = x
        return x

    def backward(self, g: Tensor) -> Tensor:
        """Write all gradients from that by the last output; returns the gradient by the first layer's output."""
        for number in reversed(range(len(self._layers))):
            if self._masks:
                g = g.mul_(self._masks[number])
            g = tanh_backward_(g, self._outputs[number])
            self._layers[number].store_gradients(g, self._inputs[number])
            if number:
                g = self._layers[number].input_gradient(g)
        return g

    def input_gradient(self, g: Tensor) -> Tensor:
        """The gradient by the trunk's input, from what `backward` returned."""
        return self._layers[0].input_gradient(g)


class SplitLayer:
    """`networks.split_dense`: a layer that reads M rows of own columns and B rows of shared ones."""

    def __init__(self, views: ParameterViews, name: str, n_own: int) -> None:
        layer = Layer(views, name)
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

    def store_gradients(self, g_SMO: Tensor, own_SMK: Tensor, shared_SBH: Tensor) -> Tensor:
        """Write the gradients. Returns g summed over the rows that share one, (S, B, O)."""
        torch.bmm(g_SMO.mT, own_SMK, out=self._own_gradient)
        g_SBO = g_SMO.unflatten(1, (shared_SBH.shape[1], -1)).sum(2)
        torch.bmm(g_SBO.mT, shared_SBH, out=self._shared_gradient)
        if self._layer.bias is not None:
            torch.sum(g_SBO, 1, out=self._layer.bias_gradient)
        return g_SBO


class PerActionLayer:
    """`networks.PerActionLinear`."""

    def __init__(self, views: ParameterViews, name: str, linear: PerActionLinear) -> None:
        self.line, self._columns_AK = Layer(views, f"{name}.line"), linear.columns_AK

    def forward(self, x_SBF: Tensor) -> Tensor:
        """(S, B, A)."""
        outputs_SM1 = self.line.forward(self._columns_of(x_SBF))
        return outputs_SM1.view(*x_SBF.shape[:-1], len(self._columns_AK))

    def store_gradients(self, g_SBA: Tensor, x_SBF: Tensor) -> None:
        """Write the gradient of the weights."""
        self.line.store_gradients(g_SBA.reshape(len(g_SBA), -1, 1), self._columns_of(x_SBF))

    def _columns_of(self, x_SBF: Tensor) -> Tensor:
        """The columns of every action, (S, M, K)."""
        return x_SBF[..., self._columns_AK].flatten(1, 2)
