"""Critics of a stack run forward and backward by the chain rule, as `manual_backward` does policies.

An off-policy step asks three things of critics, and none needs all of the derivatives: values of what comes after, with
no gradient; the gradient by their parameters; and that by the executed action alone, the observation being given.

Shape suffixes: R critics, B rows, F observation, W executed action, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.manual_backward import Layer, OwnLinePass, Tables
from mtquant_rllib.engine.learning.stacks import Rows
from mtquant_rllib.policies.critics import Critic, OwnSlope, SharedSlope


class CriticPass:
    """Of `Critic`s as rows: layers with ReLU between, a head, and the slope by the action where they have one."""

    def __init__(self, rows: Rows) -> None:
        critic = rows.network
        assert isinstance(critic, Critic)
        tables = Tables(rows)
        self._layers = [Layer(tables, f"trunk.{number}") for number in critic.dense_layers()]
        self._head = Layer(tables, "head")
        self._observation_width = critic.splits[0]
        self._slope: _Slope | _SharedSlope | _OwnSlope | None = None
        if isinstance(critic.slope, SharedSlope):
            self._slope = _SharedSlope(tables, critic.slope)
        elif isinstance(critic.slope, OwnSlope):
            self._slope = _OwnSlope(tables, critic.slope)
        elif critic.slope is not None:
            self._slope = _Slope(tables)

    @torch.no_grad()
    def forward(self, obs_RBF: Tensor, executed_RBW: Tensor) -> Tensor:
        """Values (R, B)."""
        self._seen = [torch.cat((obs_RBF, executed_RBW), dim=-1)]
        for layer in self._layers:
            self._seen.append(layer.forward(self._seen[-1]).relu_())
        value_RB = self._head.forward(self._seen[-1]).squeeze(-1)
        if self._slope is not None:
            self._executed = executed_RBW
            self._slopes = self._slope.forward(obs_RBF)
            value_RB = value_RB + (self._slopes * executed_RBW).sum(-1)
        return value_RB

    @torch.no_grad()
    def backward(self, g_RB: Tensor, ridge_R: Tensor | None = None) -> None:
        """Fill the gradient rows from the gradient by the values of the last `forward`, and from half the square of the
        slope's parameters times `ridge_R`."""
        g_RB1 = g_RB.unsqueeze(-1)
        self._head.keep(g_RB1, self._seen[-1])
        if self._slope is not None:
            self._slope.keep(g_RB1 * self._executed)
            if ridge_R is not None:
                for weight, gradient in self._slope.learned:
                    gradient.addcmul_(weight, ridge_R.view(-1, *[1] * (weight.ndim - 1)))
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


class _Slope:
    """A line of its own for each executed action."""

    def __init__(self, tables: Tables) -> None:
        self._line = Layer(tables, "slope")
        self.learned = _learned(tables, "slope.weight", "slope.bias")

    def forward(self, obs_RBF: Tensor) -> Tensor:
        self._observation = obs_RBF
        return self._line.forward(obs_RBF)

    def keep(self, g_RBW: Tensor) -> None:
        """Store the gradients for that by the slopes."""
        self._line.keep(g_RBW, self._observation)


class _OwnSlope:
    """`critics.OwnSlope`."""

    def __init__(self, tables: Tables, slope: OwnSlope) -> None:
        self._own = OwnLinePass(tables, "slope.own", slope.own)
        self.learned = _learned(tables, "slope.own.line.weight", "slope.scale", "slope.bias")
        _, (self._scale_RW, self._by_scale_RW), (self._bias_RW, self._by_bias_RW) = self.learned

    def forward(self, obs_RBF: Tensor) -> Tensor:
        self._observation = obs_RBF
        self._reads_RBW = self._own.forward(obs_RBF)
        return torch.addcmul(self._bias_RW.unsqueeze(1), self._reads_RBW, self._scale_RW.unsqueeze(1))

    def keep(self, g_RBW: Tensor) -> None:
        """Store the gradients for that by the slopes."""
        self._own.keep(g_RBW * self._scale_RW.unsqueeze(1), self._observation)
        torch.sum(g_RBW * self._reads_RBW, 1, out=self._by_scale_RW)
        torch.sum(g_RBW, 1, out=self._by_bias_RW)


class _SharedSlope:
    """`critics.SharedSlope`. M: B x N rows, those of one observation beside each other."""

    def __init__(self, tables: Tables, slope: SharedSlope) -> None:
        self._intent, self._confidence = Layer(tables, "slope.intent"), Layer(tables, "slope.confidence")
        lines = ("slope.intent", "slope.confidence")
        self.learned = _learned(tables, *(f"{line}.{part}" for line in lines for part in ("weight", "bias")))
        self._splits, self._n = slope.splits, slope.n_instruments
        self._block = slope.splits[1] // slope.n_instruments

    def forward(self, obs_RBF: Tensor) -> Tensor:
        domain, blocks, state = obs_RBF.split(self._splits, dim=-1)
        n_critics, n_rows = obs_RBF.shape[:2]
        self._blocks_RMK = blocks.reshape(n_critics, n_rows * self._n, self._block)
        self._situation = torch.cat((domain, state), dim=-1)
        own, shared = self._intent.weight[..., : self._block], self._intent.weight[..., self._block :]
        intents_RBN = torch.bmm(self._blocks_RMK, own.mT).view(n_critics, n_rows, self._n)
        assert self._intent.bias is not None
        intents_RBN += torch.baddbmm(self._intent.bias, self._situation, shared.mT)
        return torch.cat((intents_RBN, self._confidence.forward(self._situation)), dim=-1)

    def keep(self, g_RBW: Tensor) -> None:
        """Store the gradients for that by the slopes."""
        self._confidence.keep(g_RBW[..., -1:], self._situation)
        g_RBN = g_RBW[..., :-1].contiguous()
        g_RB1 = g_RBN.sum(-1, keepdim=True)
        own, shared = self._intent.weight_gradient.split((self._block, self._situation.shape[-1]), dim=-1)
        torch.bmm(g_RBN.view(len(g_RBN), 1, -1), self._blocks_RMK, out=own)
        torch.bmm(g_RB1.mT, self._situation, out=shared)
        torch.sum(g_RB1, 1, out=self._intent.bias_gradient)


def _learned(tables: Tables, *names: str) -> list[tuple[Tensor, Tensor]]:
    """Parameters and their gradients, with the leading R."""
    return [tables[name] for name in names]
