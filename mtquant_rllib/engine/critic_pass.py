"""Critics of a stack run forward and backward by the chain rule, as `passes` does policies.

An off-policy step asks three things of critics, and none needs all of the derivatives: values of what comes after, with
no gradient; the gradient by their parameters; and that by the executed action alone, the observation being given.

Shape suffixes: R critics, B rows, F observation, W executed action, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtquant_rllib.engine.passes import Layer, Tables
from mtquant_rllib.engine.stacks import Rows
from mtquant_rllib.policies.critics import Critic


class CriticPass:
    """Of `Critic`s as rows: layers with ReLU between, a head, and the slope by the action where they have one."""

    def __init__(self, rows: Rows) -> None:
        assert isinstance(rows.network, Critic)
        tables = Tables(rows)
        self._layers = [Layer(tables, f"trunk.{number}") for number in rows.network.dense_layers()]
        self._head = Layer(tables, "head")
        self._slope = Layer(tables, "slope") if rows.network.slope is not None else None
        self._observation_width = rows.network.splits[0]

    @torch.no_grad()
    def forward(self, obs_RBF: Tensor, executed_RBW: Tensor) -> Tensor:
        """Values (R, B)."""
        self._seen = [torch.cat((obs_RBF, executed_RBW), dim=-1)]
        for layer in self._layers:
            self._seen.append(layer.forward(self._seen[-1]).relu_())
        value_RB = self._head.forward(self._seen[-1]).squeeze(-1)
        if self._slope is not None:
            self._observation, self._executed = obs_RBF, executed_RBW
            self._slopes = self._slope.forward(obs_RBF)
            value_RB = value_RB + (self._slopes * executed_RBW).sum(-1)
        return value_RB

    @torch.no_grad()
    def backward(self, g_RB: Tensor) -> None:
        """Fill the gradient rows from the gradient by the values of the last `forward`."""
        g_RB1 = g_RB.unsqueeze(-1)
        self._head.keep(g_RB1, self._seen[-1])
        if self._slope is not None:
            self._slope.keep(g_RB1 * self._executed, self._observation)
        self._down(g_RB1, keep=True)

    @torch.no_grad()
    def by_action(self, g_RB: Tensor) -> Tensor:
        """The gradient by the executed action, (R, B, W), from that by the values of the last `forward`."""
        g_RB1 = g_RB.unsqueeze(-1)
        g_RBW = torch.bmm(self._down(g_RB1, keep=False), self._layers[0].weight[..., self._observation_width :])
        return g_RBW if self._slope is None else g_RBW + g_RB1 * self._slopes

    def _down(self, g_RB1: Tensor, *, keep: bool) -> Tensor:
        """To the gradient by what goes into the first ReLU."""
        g = g_RB1 * self._head.weight
        steps: Sequence[tuple[int, Layer]] = list(enumerate(self._layers))
        for number, layer in reversed(steps):
            torch.ops.aten.threshold_backward.grad_input(g, self._seen[number + 1], 0.0, grad_input=g)
            if keep:
                layer.keep(g, self._seen[number])
            if number:
                g = layer.through(g)
        return g
