"""Cheaper inference of policies: eight-bit and sixteen-bit weights, and cached outputs.

All three hold a copy of the policy at the time of the call. Only linear layers change their precision; norms, softmax,
mixture and deviation stay in float32, so that fall-backs and probabilities keep their meaning.

Milliseconds of a meta-controller of the document's size (822,000 parameters), one core with AVX512, PyTorch 2.13:

    rows                1      16      64      256
    float32           .69     1.9     5.3       20
    eight bits        .77     1.5     3.3       20      a quarter of the memory
    bfloat16          .89     1.7     3.8       15      half of it
    cached              .04     .11     .31      .91

`mtquant bench inference` measures whole desks, plain ones too, which eight bits and bfloat16 make slower: layers of
64 units are too small. `evaluation.inference` selects one of them.

A network of lower precision can fall on the other side of the confidence threshold of the global head; elsewhere
outputs move by a few hundredths of their spread (eight bits) or one hundredth (bfloat16).

Shape suffixes: as in `regime_network`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtquant_rllib.policies.attention.policy import AttentionPolicy
from mtquant_rllib.policies.attention.regime_network import RegimeOutput

Network = TypeVar("Network", bound=nn.Module)

INT8_MAX = torch.iinfo(torch.int8).max


class Int8Linear(nn.Module):
    """A linear layer in eight bits: weights scaled per output, inputs scaled per row ("dynamic").

        y = (x / s_row) rounded . (w / s_out) rounded * s_row * s_out + b        s = largest magnitude / 127

    The products are summed in 32-bit integers. A row that is not finite comes out not finite.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        scale = _scale(linear.weight.detach())
        self.register_buffer("scale", scale.squeeze(-1))
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = _scale(rows)
        product = torch._int_mm((rows / scale).round().to(torch.int8), self.weight.t()) * (scale * self.scale)
        return (product if self.bias is None else product + self.bias).unflatten(0, x.shape[:-1])


def _scale(x: Tensor) -> Tensor:
    # For a row of zeros any scale will do.
    return x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) / INT8_MAX


class Bfloat16Linear(nn.Module):
    """A linear layer with weights and products in bfloat16; inputs and outputs keep their precision."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(torch.bfloat16))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(torch.bfloat16), self.weight, self.bias).to(x.dtype)


def in_int8(policy: Network) -> Network:
    """A copy of the policy with `Int8Linear` layers, for CPUs."""
    return _with_linears(policy, Int8Linear)


def in_bfloat16(policy: Network) -> Network:
    """A copy of the policy with `Bfloat16Linear` layers."""
    return _with_linears(policy, Bfloat16Linear)


class CachedPolicy(nn.Module):
    """An attention policy with cached outputs: observations -> `[mean | log deviation]`, without gradients.

    on_output: called with every batch of observations and its fall-backs, cached ones included.
    """

    def __init__(
        self, policy: AttentionPolicy, max_rows: int, on_output: Callable[[Tensor, Tensor], None] | None = None
    ) -> None:
        super().__init__()
        self.cache, self._on_output = OutputCache(policy, max_rows), on_output
        self._log_std = policy.log_std().detach()

    def forward(self, obs_BF: Tensor) -> Tensor:
        output = self.cache.output(obs_BF)
        if self._on_output is not None:
            self._on_output(obs_BF, output.fallback_B)
        return torch.cat((output.logits_BA, self._log_std.expand_as(output.logits_BA)), dim=-1)


PRECISIONS: dict[str, Callable[[Any], Any]] = {
    "float32": lambda policy: policy,
    "bfloat16": lambda policy: in_bfloat16(policy),
    "int8": lambda policy: in_int8(policy),
}
"""From a policy to one of that precision, by the names of `config.evaluation.InferenceConfig`."""


def _with_linears(policy: Network, convert: Callable[[nn.Linear], nn.Module]) -> Network:
    cheap = _frozen(policy)
    for name, module in list(cheap.named_modules()):
        if isinstance(module, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            setattr(cheap.get_submodule(owner), leaf, convert(module))
    return cheap


def _frozen(policy: Network) -> Network:
    return copy.deepcopy(policy).eval().requires_grad_(False)


class OutputCache:
    """A cache of an attention policy's outputs by observation, attention included.

    Equal rows get equal outputs, to the bit, however they are batched; only rows not in the cache are computed, in one
    batch. For monitoring and explaining, where the same bars come again and again.

    max_rows: rows kept; the least recently used are evicted first.
    """

    def __init__(self, policy: AttentionPolicy, max_rows: int):
        self._policy, self._max_rows = _frozen(policy), max_rows
        self._outputs: OrderedDict[bytes, RegimeOutput] = OrderedDict()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._outputs)

    def output(self, obs_BF: Tensor) -> RegimeOutput:
        """As `AttentionPolicy.output(obs_BF, need_weights=True)`, without gradients."""
        keys = [row.tobytes() for row in obs_BF.detach().cpu().contiguous().numpy()]
        if not keys:
            with torch.no_grad():
                return self._policy.output(obs_BF, need_weights=True)
        rows: dict[bytes, RegimeOutput] = {key: self._outputs[key] for key in keys if key in self._outputs}
        missing = {key: index for index, key in enumerate(keys) if key not in rows}
        if missing:
            with torch.no_grad():
                computed = self._policy.output(obs_BF[list(missing.values())], need_weights=True)
            for place, key in enumerate(missing):
                # Copies: a view would keep the whole batch alive.
                rows[key] = RegimeOutput(*(part[place].clone() for part in computed if part is not None))
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        for key, row in rows.items():
            self._outputs[key] = row
            self._outputs.move_to_end(key)
        while len(self._outputs) > self._max_rows:
            self._outputs.popitem(last=False)
        return RegimeOutput(*(torch.stack(parts) for parts in zip(*(rows[key] for key in keys), strict=True)))
