"""The plain networks of the desk.

Each module has two networks that share nothing. The *policy* maps observations to a diagonal Gaussian over raw actions,
`[mean | log deviation]`; it has no dropout, so that runner and learner compute the same probabilities. The *value*
network estimates the return, with dropout only where it is asked for.

The deviation is learned and does not depend on the state: sigma = floor + exp(rho), one rho per action component, so
that the gradient does not vanish at the floor. Last layers start small: an untrained desk acts near 0 and expects a
return near 0 (Andrychowicz et al. 2021, "What matters in on-policy reinforcement learning?").

Shape suffixes: B rows, F observation width, A action width, H hidden width, N instruments of a domain, K one
instrument's block, S stacked networks. Any tensor may carry one leading S axis when the parameters do (see `stack`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtquant_rllib.agents.action_maps import LOGITS_PER_INSTRUMENT
from mtquant_rllib.policies.elementwise import Tanh, dropout_mask

Network = TypeVar("Network", bound=nn.Module)

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
"""Of the log-density of a standard normal number."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}


@dataclass(frozen=True)
class FlatShape:
    """Widths of a network that reads its observation as one vector."""

    observation: int
    actions: int


@dataclass(frozen=True)
class SpecialistShape:
    """Widths of a specialist's observation: domain features | one block per instrument | own state, in this order."""

    domain: int
    n_instruments: int
    block: int
    state: int

    @property
    def observation(self) -> int:
        return self.domain + self.n_instruments * self.block + self.state

    @property
    def actions(self) -> int:
        """(buy, hold, sell) logits of each instrument in order, then confidence."""
        return LOGITS_PER_INSTRUMENT * self.n_instruments + 1


@dataclass(frozen=True)
class GroupedShape:
    """Widths of an observation that is read as named groups of columns, in this order.

    groups
        (name, columns) of each.
    regime_columns
        Columns with the detector's label, one per regime in the order of `Regime`; empty where the observation has
        none, as in every layout of the desk.
    """

    groups: tuple[tuple[str, int], ...]
    actions: int
    regime_columns: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.groups) < 2:
            raise ValueError(f"groups {self.groups}: attention between groups needs at least two of them")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(width for _, width in self.groups)

    @property
    def observation(self) -> int:
        return sum(self.widths)


Shape = FlatShape | SpecialistShape | GroupedShape


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of a network of any level; see `NetworksConfig`."""

    hidden: tuple[int, ...]
    value_hidden: tuple[int, ...]
    value_dropout: float
    activation: str
    linear_skip: bool
    initial_std: float
    min_std: float
    last_layer_scale: float
    initial_mean: tuple[float, ...]
    """Mean of the raw action before training, up to the small last layer; empty for zeros. Where there is a reference
    policy it is a part of that policy's mean."""
    own_columns: tuple[tuple[int, ...], ...]
    """Columns of the observation that belong to each action, of the same kinds in the same order, (A, K): the linear
    skip then is a `PerActionLinear`. Empty: it is a `Dense` layer on all columns."""
    reference: tuple[tuple[int, float], ...] = ()
    """(column, factor) of each action: the reference policy's mean is the column's value times the factor, plus
    `initial_mean`. A specialist has four, of any instrument's (buy, hold, sell) and of confidence, with columns of the
    instrument's block. Empty: there is no reference policy."""


def dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias. With weights (S, out, in) and inputs (S, ..., in) S networks run as one batched matrix
    product."""
    if weight.ndim == 2:
        return functional.linear(x, weight, bias)
    rows = x.flatten(1, -2)
    product = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return product.unflatten(1, x.shape[1:-1])


class Dense(nn.Linear):
    """A linear layer whose weights may carry a leading axis of stacked networks; see `dense`."""

    def __init__(self, n_in: int, n_out: int, *, gain: float, bias: bool = True):
        super().__init__(n_in, n_out, bias=bias)
        nn.init.orthogonal_(self.weight, gain)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight, self.bias)


def split_dense(layer: nn.Module, own_BNK: Tensor, shared_BH: Tensor) -> Tensor:
    """A linear layer on `[own | shared]`, (B, N, out), where N rows share one part: a `Dense` multiplies that part
    once."""
    if not isinstance(layer, Dense):
        shared_BNH = shared_BH.unsqueeze(-2).expand(*own_BNK.shape[:-1], shared_BH.shape[-1])
        out: Tensor = layer(torch.cat((own_BNK, shared_BNH), dim=-1))
        return out
    weights = layer.weight.split((own_BNK.shape[-1], shared_BH.shape[-1]), dim=-1)
    return dense(own_BNK, weights[0], None) + dense(shared_BH, weights[1], layer.bias).unsqueeze(-2)


class PerActionLinear(nn.Module):
    """A linear map from each action's own columns to it, with the same weights for all actions: (B, F) -> (B, A)."""

    columns_AK: Tensor

    def __init__(self, own_columns: Sequence[Sequence[int]], gain: float):
        super().__init__()
        # Not a parameter and not in a state: it follows from the layout.
        self.register_buffer("columns_AK", torch.tensor(own_columns), persistent=False)
        self.line = Dense(self.columns_AK.shape[1], 1, gain=gain, bias=False)

    def forward(self, obs_BF: Tensor) -> Tensor:
        outputs_BA1: Tensor = self.line(obs_BF[..., self.columns_AK])
        return outputs_BA1.squeeze(-1)


def linear_skip_layer(shape: Shape, options: NetworkOptions) -> nn.Module | None:
    """The linear layer from observation to mean that is added to a network's; None where the options have none."""
    if not options.linear_skip:
        return None
    if options.own_columns:
        return PerActionLinear(options.own_columns, options.last_layer_scale)
    return Dense(shape.observation, shape.actions, gain=options.last_layer_scale, bias=False)


class ReferenceMean(nn.Module):
    """Raw action means of the reference policy, (B, F) -> (B, A): no parameters, and nothing in a state, since they
    follow from layout and settings."""

    columns_A: Tensor
    factors_A: Tensor
    offsets_A: Tensor

    def __init__(self, per_action: Sequence[tuple[int, float]], offsets: Sequence[float]):
        super().__init__()
        columns, factors = zip(*per_action)
        self.register_buffer("columns_A", torch.tensor(columns), persistent=False)
        self.register_buffer("factors_A", torch.tensor(factors, dtype=torch.float32), persistent=False)
        constants = torch.tensor(offsets or [0.0] * len(columns), dtype=torch.float32)
        self.register_buffer("offsets_A", constants, persistent=False)

    def forward(self, obs_BF: Tensor) -> Tensor:
        return obs_BF.index_select(-1, self.columns_A) * self.factors_A + self.offsets_A


def reference_mean(shape: Shape, options: NetworkOptions) -> ReferenceMean | None:
    """The reference policy of a network; None where there is none."""
    if not options.reference:
        return None
    per_action: Sequence[tuple[int, float]] = options.reference
    if isinstance(shape, SpecialistShape):
        *views, confidence = options.reference
        starts = [shape.domain + number * shape.block for number in range(shape.n_instruments)]
        per_action = [*((start + column, factor) for start in starts for column, factor in views), confidence]
    return ReferenceMean(per_action, options.initial_mean)


def _trunk(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [Dense(n_in, n_out, gain=math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class GaussianPolicy(nn.Module):
    """Base of the policies: state-independent deviations, and the layout of the outputs."""

    def __init__(self, shape: Shape, options: NetworkOptions):
        super().__init__()
        self.shape = shape
        # In logarithms: log(floor + exp(rho)) is one logaddexp, exact at both ends.
        self.log_min_std = math.log(options.min_std) if options.min_std > 0 else -math.inf
        rho = math.log(options.initial_std - options.min_std)
        self.rho = nn.Parameter(torch.full((shape.actions,), rho))
        self.reference = reference_mean(shape, options)

    def mean(self, obs_BF: Tensor) -> Tensor:
        """Raw action means, (B, A); unbounded, the environment clips to [-1, 1]."""
        raise NotImplementedError

    def from_reference(self, departure_BA: Tensor, obs_BF: Tensor) -> Tensor:
        """The mean that departs so far from the reference policy's; the departure itself where there is none."""
        return departure_BA if self.reference is None else departure_BA + self.reference(obs_BF)

    def log_std(self) -> Tensor:
        """Logarithm of the deviation of each action component, (A,)."""
        return torch.logaddexp(self.rho, self.rho.new_tensor(self.log_min_std))

    def forward(self, obs_BF: Tensor) -> Tensor:
        """`[mean | log deviation]`, (B, 2A): the inputs of a diagonal Gaussian."""
        mean_BA = self.mean(obs_BF)
        return torch.cat((mean_BA, self.log_std().unsqueeze(-2).expand_as(mean_BA)), dim=-1)

    @property
    def has_auxiliary_losses(self) -> bool:
        """Whether the policy has auxiliary losses, for which runners record regime labels."""
        return False

    def auxiliary_losses(self, obs_BF: Tensor, labels_B: Tensor | None = None) -> dict[str, Tensor]:
        """Losses that a learner adds to the policy's: name (also of the metric) -> scalar, weight included.

        They come from a forward pass of their own, with dropout, and do not touch the policy's probabilities.

        labels_B: the regime detector's labels, int64 (B,), -1 where unknown.
        """
        return {}


class FlatPolicy(GaussianPolicy):
    """A trunk, a head, and where configured a linear skip from the observation to the mean."""

    def __init__(self, shape: FlatShape, options: NetworkOptions):
        super().__init__(shape, options)
        self.trunk = _trunk((shape.observation, *options.hidden), options.activation)
        self.head = Dense(options.hidden[-1], shape.actions, gain=options.last_layer_scale)
        if options.initial_mean and self.reference is None:
            self.head.bias.data.copy_(torch.tensor(options.initial_mean))
        self.skip = linear_skip_layer(shape, options)

    def mean(self, obs_BF: Tensor) -> Tensor:
        mean_BA: Tensor = self.head(self.trunk(obs_BF))
        if self.skip is not None:
            mean_BA = mean_BA + self.skip(obs_BF)
        return self.from_reference(mean_BA, obs_BF)


class MetaNetwork(FlatPolicy):
    """Portfolio state -> allocation logits of the domains and risk appetite, through two hidden layers."""


class InstrumentNetwork(FlatPolicy):
    """One instrument's block and private state -> signal, urgency, stop distance."""


class SpecialistNetwork(GaussianPolicy):
    """A domain's specialist: an encoder of the domain, a layer per instrument with shared weights, and a confidence.

    The encoder reads the context: domain features and own state. The reader reads each instrument's block and that
    encoding, with the same weights for all instruments of the domain, so that a pattern is learned from all of them and
    a domain gains an instrument without a new network. Confidence reads the encoding and the mean of the reader's
    outputs.
    """

    def __init__(self, shape: SpecialistShape, options: NetworkOptions):
        super().__init__(shape, options)
        width = options.hidden[-1]
        context = shape.domain + shape.state
        small = options.last_layer_scale
        self.splits = (shape.domain, shape.n_instruments * shape.block, shape.state)
        self.encoder = _trunk((context, *options.hidden, width), options.activation)
        self.reader = Dense(shape.block + width, width, gain=math.sqrt(2))
        self.activation = ACTIVATIONS[options.activation]()
        self.logits = Dense(width, LOGITS_PER_INSTRUMENT, gain=small)
        self.confidence_trunk = _trunk((2 * width, width), options.activation)
        self.confidence = Dense(width, 1, gain=small)
        self.instrument_weights: Tensor | None = None
        """Weights of the instruments in the reader's mean, (S, N), in a stack of unlike domains; None for equal
        ones."""
        self.skip_logits = self.skip_confidence = None
        if options.linear_skip:
            self.skip_logits = Dense(shape.block + context, LOGITS_PER_INSTRUMENT, gain=small, bias=False)
            self.skip_confidence = Dense(context, 1, gain=small, bias=False)

    def pooled(self, hidden_BNH: Tensor) -> Tensor:
        """The reader's mean over the instruments that the domain has, (B, H)."""
        if self.instrument_weights is None:
            return hidden_BNH.mean(dim=-2)
        return (hidden_BNH * self.instrument_weights[:, None, :, None]).sum(dim=-2)

    def mean(self, obs_BF: Tensor) -> Tensor:
        assert isinstance(self.shape, SpecialistShape)
        domain, blocks, state = obs_BF.split(self.splits, dim=-1)
        blocks_BNK = blocks.unflatten(-1, (self.shape.n_instruments, self.shape.block))
        context_BF = torch.cat((domain, state), dim=-1)
        encoding_BH = self.encoder(context_BF)
        hidden_BNH = self.activation(split_dense(self.reader, blocks_BNK, encoding_BH))
        logits_BN3 = self.logits(hidden_BNH)
        pooled_BH = torch.cat((encoding_BH, self.pooled(hidden_BNH)), dim=-1)
        confidence_B1 = self.confidence(self.confidence_trunk(pooled_BH))
        if self.skip_logits is not None and self.skip_confidence is not None:
            logits_BN3 = logits_BN3 + split_dense(self.skip_logits, blocks_BNK, context_BF)
            confidence_B1 = confidence_B1 + self.skip_confidence(context_BF)
        return self.from_reference(torch.cat((logits_BN3.flatten(-2), confidence_B1), dim=-1), obs_BF)


class ValueFunction(nn.Module):
    """Expected return of an observation: features of a trunk, then a linear `head`."""

    head: Dense

    def features(self, obs_BF: Tensor, drop: bool = False) -> Tensor:
        """Last hidden layer, (B, H). drop: with dropout. An argument and not a mode, because a learner needs values for
        targets (without) and for the loss (with) from one module in one mode."""
        raise NotImplementedError

    def value_of(self, features_BH: Tensor) -> Tensor:
        """Value of each row of `features`, (B,)."""
        value_B1: Tensor = self.head(features_BH)
        return value_B1.squeeze(-1)

    def forward(self, obs_BF: Tensor, drop: bool = False) -> Tensor:
        return self.value_of(self.features(obs_BF, drop))


class ValueNetwork(ValueFunction):
    """A plain trunk; dropout after each hidden layer."""

    def __init__(self, shape: Shape, options: NetworkOptions):
        super().__init__()
        self.dropout = options.value_dropout
        self.trunk = _trunk((shape.observation, *options.value_hidden), options.activation)
        self.head = Dense(options.value_hidden[-1], 1, gain=options.last_layer_scale)

    def features(self, obs_BF: Tensor, drop: bool = False) -> Tensor:
        x_BH = obs_BF
        for layer in self.trunk:
            x_BH = layer(x_BH)
            if drop and self.dropout > 0 and not isinstance(layer, Dense):
                x_BH = x_BH * dropout_mask(x_BH, self.dropout)
        return x_BH


def stacked_parameters(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters of S networks of one shape on a new first axis, name -> (S, ...). Gradients flow back to each.

    `torch.func.functional_call(networks[0], stacked_parameters(networks), (obs_SBF,))` runs all of them at once.
    """
    tables = [dict(network.named_parameters()) for network in networks]
    return {name: torch.stack([table[name] for table in tables]) for name in tables[0]}


def stack(networks: Sequence[Network]) -> Network:
    """One network that runs S networks of one shape as batched products, (S, B, F) -> (S, B, ...), for inference.

    It holds a copy of their present parameters, without gradients.
    """
    stacked = copy.deepcopy(networks[0])
    for name, values in stacked_parameters(networks).items():
        owner, _, leaf = name.rpartition(".")
        setattr(stacked.get_submodule(owner), leaf, nn.Parameter(values.detach(), requires_grad=False))
    return stacked
