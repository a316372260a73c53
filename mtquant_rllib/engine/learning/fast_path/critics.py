"""The critics of a stack, forward and backward by the chain rule.

A SAC step needs three things of critics, and none needs all derivatives: values of the next state without gradients;
the gradient by their parameters; and the gradient by the executed action alone.

Shape suffixes: R critics, B rows, F observation, W executed action, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.fast_path.layers import Layer, ParameterViews, PerActionLayer
from mtquant_rllib.engine.learning.stacks import StackedParameters
from mtquant_rllib.policies.critics import Critic, PerActionSlope, SharedSlope


class CriticBackprop:
    """`critics.Critic` as rows: dense layers with ReLU, a head, and where it has one the slope by the action."""

    def __init__(self, rows: StackedParameters) -> None:
        critic = rows.network
        assert isinstance(critic, Critic)
        views = ParameterViews(rows)
        self._layers = [Layer(views, f"trunk.{number}") for number in critic.dense_layers()]
        self._head = Layer(views, "head")
        self._observation_width = critic.splits[0]
        self._slope: _LinearSlope | _SharedSlope | _PerActionSlope | None = None
        if isinstance(critic.slope, SharedSlope):
            self._slope = _SharedSlope(views, critic.slope)
        elif isinstance(critic.slope, PerActionSlope):
            self._slope = _PerActionSlope(views, critic.slope)
        elif critic.slope is not None:
            self._slope = _LinearSlope(views)

    @torch.no_grad()
    def forward(self, obs_RBF: Tensor, executed_RBW: Tensor) -> Tensor:
        """Values (R, B)."""
        self._activations = [torch.cat((obs_RBF, executed_RBW), dim=-1)]
        for layer in self._layers:
            self._activations.append(layer.forward(self._activations[-1]).relu_())
        value_RB = self._head.forward(self._activations[-1]).squeeze(-1)
        if self._slope is not None:
            self._executed = executed_RBW
            self._slopes = self._slope.forward(obs_RBF)
            value_RB = value_RB + (self._slopes * executed_RBW).sum(-1)
        return value_RB

    @torch.no_grad()
    def backward(self, g_RB: Tensor, ridge_R: Tensor | None = None) -> None:
        """Write the gradient rows from the gradient by the values of the last `forward`, plus that of the slope
        penalty, ridge_R / 2 times the slope's squared parameters."""
        g_RB1 = g_RB.unsqueeze(-1)
        self._head.store_gradients(g_RB1, self._activations[-1])
        if self._slope is not None:
            self._slope.store_gradients(g_RB1 * self._executed)
            if ridge_R is not None:
                for weight, gradient in self._slope.parameters:
                    gradient.addcmul_(weight, ridge_R.view(-1, *[1] * (weight.ndim - 1)))
        self._trunk_backward(g_RB1, store_gradients=True)

    @torch.no_grad()
    def by_action(self, g_RB: Tensor) -> Tensor:
        """The gradient by the executed action, (R, B, W), from that by the values of the last `forward`."""
        g_RB1 = g_RB.unsqueeze(-1)
        g_RBW = torch.bmm(
            self._trunk_backward(g_RB1, store_gradients=False), self._layers[0].weight[..., self._observation_width :]
        )
        return g_RBW if self._slope is None else g_RBW + g_RB1 * self._slopes

    def _trunk_backward(self, g_RB1: Tensor, *, store_gradients: bool) -> Tensor:
        """The gradient by the input of the first ReLU."""
        g = g_RB1 * self._head.weight
        steps: Sequence[tuple[int, Layer]] = list(enumerate(self._layers))
        for number, layer in reversed(steps):
            torch.ops.aten.threshold_backward.grad_input(g, self._activations[number + 1], 0.0, grad_input=g)
            if store_gradients:
                layer.store_gradients(g, self._activations[number])
            if number:
                g = layer.input_gradient(g)
        return g


class CriticValues(torch.autograd.Function):
    """`CriticBackprop.forward` as one node of autograd's graph, differentiable in the executed actions alone. Its
    backward pass belongs to the last forward pass of these critics."""

    @staticmethod
    def forward(ctx: Any, executed_RBW: Tensor, obs_RBF: Tensor, critics: CriticBackprop) -> Tensor:
        ctx.critics = critics
        return critics.forward(obs_RBF, executed_RBW)

    @staticmethod
    def backward(ctx: Any, *g_RB: Tensor) -> tuple[Tensor, None, None]:
        return ctx.critics.by_action(*g_RB), None, None


class _LinearSlope:
    """A linear layer, an output per executed action."""

    def __init__(self, views: ParameterViews) -> None:
        self._layer = Layer(views, "slope")
        self.parameters = _parameters_of(views, "slope.weight", "slope.bias")

    def forward(self, obs_RBF: Tensor) -> Tensor:
        self._observation = obs_RBF
        return self._layer.forward(obs_RBF)

    def store_gradients(self, g_RBW: Tensor) -> None:
        """Write the gradients from that by the slopes."""
        self._layer.store_gradients(g_RBW, self._observation)


class _PerActionSlope:
    """`critics.PerActionSlope`."""

    def __init__(self, views: ParameterViews, slope: PerActionSlope) -> None:
        self._linear = PerActionLayer(views, "slope.own", slope.own)
        self.parameters = _parameters_of(views, "slope.own.line.weight", "slope.scale", "slope.bias")
        _, (self._scale_RW, self._by_scale_RW), (self._bias_RW, self._by_bias_RW) = self.parameters

    def forward(self, obs_RBF: Tensor) -> Tensor:
        self._observation = obs_RBF
        self._linear_RBW = self._linear.forward(obs_RBF)
        return torch.addcmul(self._bias_RW.unsqueeze(1), self._linear_RBW, self._scale_RW.unsqueeze(1))

    def store_gradients(self, g_RBW: Tensor) -> None:
        """Write the gradients from that by the slopes."""
        self._linear.store_gradients(g_RBW * self._scale_RW.unsqueeze(1), self._observation)
        torch.sum(g_RBW * self._linear_RBW, 1, out=self._by_scale_RW)
        torch.sum(g_RBW, 1, out=self._by_bias_RW)


class _SharedSlope:
    """`critics.SharedSlope`. M: B x N rows, those of one observation beside each other."""

    def __init__(self, views: ParameterViews, slope: SharedSlope) -> None:
        self._intent, self._confidence = Layer(views, "slope.intent"), Layer(views, "slope.confidence")
        layers = ("slope.intent", "slope.confidence")
        self.parameters = _parameters_of(views, *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias")))
        self._splits, self._n = slope.splits, slope.n_instruments
        self._block = slope.splits[1] // slope.n_instruments

    def forward(self, obs_RBF: Tensor) -> Tensor:
        domain, blocks, state = obs_RBF.split(self._splits, dim=-1)
        n_critics, n_rows = obs_RBF.shape[:2]
        self._blocks_RMK = blocks.reshape(n_critics, n_rows * self._n, self._block)
        self._context = torch.cat((domain, state), dim=-1)
        own, shared = self._intent.weight[..., : self._block], self._intent.weight[..., self._block :]
        intents_RBN = torch.bmm(self._blocks_RMK, own.mT).view(n_critics, n_rows, self._n)
        assert self._intent.bias is not None
        intents_RBN += torch.baddbmm(self._intent.bias, self._context, shared.mT)
        return torch.cat((intents_RBN, self._confidence.forward(self._context)), dim=-1)

    def store_gradients(self, g_RBW: Tensor) -> None:
        """Write the gradients from that by the slopes."""
        self._confidence.store_gradients(g_RBW[..., -1:], self._context)
        g_RBN = g_RBW[..., :-1].contiguous()
        g_RB1 = g_RBN.sum(-1, keepdim=True)
        own, shared = self._intent.weight_gradient.split((self._block, self._context.shape[-1]), dim=-1)
        torch.bmm(g_RBN.view(len(g_RBN), 1, -1), self._blocks_RMK, out=own)
        torch.bmm(g_RB1.mT, self._context, out=shared)
        torch.sum(g_RB1, 1, out=self._intent.bias_gradient)


def _parameters_of(views: ParameterViews, *names: str) -> list[tuple[Tensor, Tensor]]:
    """Parameters and their gradients, with the leading R."""
    return [views[name] for name in names]
