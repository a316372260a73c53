"""The plain networks of the desk: what each level computes, in torch alone.

A level has two trunks that share nothing. The *policy* maps observations to the parameters of a diagonal Gaussian over
raw actions, `[mean | log deviation]`; it has no dropout, so that the runner that samples and the learner that computes
the loss give the same probabilities. The *value* estimates the return; dropout, where configured, acts there alone and
only when asked for.

The deviation is learned but does not depend on the state: sigma = floor + exp(rho), one rho per action component. The
floor is approached smoothly, so that no gradient dies on it. Last layers start small: an untrained desk acts near 0
and expects a return near 0 (Andrychowicz et al. 2021, "What matters in on-policy reinforcement learning?").

Every network takes its widths as numbers; none knows which features stand behind them.

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
    """Widths of an observation that is read as named groups of columns, side by side in this order.

    groups
        (name, columns) of each.
    regime_columns
        Where the observation itself carries the detector's label, one column per regime in the order of `Regime`;
        empty where it does not, as in every layout the desk ships.
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


@dataclass(frozen=True)
class NetworkOptions:
    """What a network of any level needs besides its shape. See `NetworksConfig` for the meaning of each."""

    hidden: tuple[int, ...]
    value_hidden: tuple[int, ...]
    value_dropout: float
    activation: str
    linear_skip: bool
    initial_std: float
    std_floor: float
    last_layer_scale: float
    initial_mean: tuple[float, ...]
    """Raw action before training, beside the small last layer; empty for zeros."""
    own_columns: tuple[tuple[int, ...], ...]
    """Of the observation, those that belong to each action, alike in kind and order, (A, K). A straight line then reads
    each action's own with the same weights for all (`OwnLine`). Empty: it reads all columns, each with its own weights.
    """


def dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias. With weights (S, out, in) and inputs (S, ..., in), row s meets the weights of network s: S
    small networks then run as one batched matrix product instead of S separate ones."""
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


def beside(layer: nn.Module, own_BNK: Tensor, shared_BH: Tensor) -> Tensor:
    """A linear layer on `[own | shared]` where N things share one part, (B, N, out). A `Dense` does that part once."""
    if not isinstance(layer, Dense):
        shared_BNH = shared_BH.unsqueeze(-2).expand(*own_BNK.shape[:-1], shared_BH.shape[-1])
        out: Tensor = layer(torch.cat((own_BNK, shared_BNH), dim=-1))
        return out
    weights = layer.weight.split((own_BNK.shape[-1], shared_BH.shape[-1]), dim=-1)
    return dense(own_BNK, weights[0], None) + dense(shared_BH, weights[1], layer.bias).unsqueeze(-2)


class OwnLine(nn.Module):
    """A straight line to each action from its own columns, with the same weights for all: (B, F) -> (B, A).

    What a signal means is the same for every asset, and is learned from all of them at once.
    """

    own_AK: Tensor

    def __init__(self, own_columns: Sequence[Sequence[int]], gain: float):
        super().__init__()
        # Not a parameter and not in a state: it follows from the layout.
        self.register_buffer("own_AK", torch.tensor(own_columns), persistent=False)
        self.line = Dense(self.own_AK.shape[1], 1, gain=gain, bias=False)

    def forward(self, obs_BF: Tensor) -> Tensor:
        reads_BA1: Tensor = self.line(obs_BF[..., self.own_AK])
        return reads_BA1.squeeze(-1)


def straight_line(shape: Shape, options: NetworkOptions) -> nn.Module | None:
    """From the observation to the mean, beside a network; None where the options have none."""
    if not options.linear_skip:
        return None
    if options.own_columns:
        return OwnLine(options.own_columns, options.last_layer_scale)
    return Dense(shape.observation, shape.actions, gain=options.last_layer_scale, bias=False)


def _trunk(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [Dense(n_in, n_out, gain=math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class GaussianPolicy(nn.Module):
    """A policy trunk's common part: state-independent deviations, and the layout of the outputs."""

    def __init__(self, shape: Shape, options: NetworkOptions):
        super().__init__()
        self.shape = shape
        # Held as logarithms: log(floor + exp(rho)) is then one logaddexp, exact at both ends.
        self.log_floor = math.log(options.std_floor) if options.std_floor > 0 else -math.inf
        rho = math.log(options.initial_std - options.std_floor)
        self.rho = nn.Parameter(torch.full((shape.actions,), rho))

    def mean(self, obs_BF: Tensor) -> Tensor:
        """Raw action means, (B, A); unbounded, the environment clips to [-1, 1]."""
        raise NotImplementedError

    def log_std(self) -> Tensor:
        """Logarithm of the deviation of each action component, (A,)."""
        return torch.logaddexp(self.rho, self.rho.new_tensor(self.log_floor))

    def forward(self, obs_BF: Tensor) -> Tensor:
        """`[mean | log deviation]`, (B, 2A): the inputs of a diagonal Gaussian."""
        mean_BA = self.mean(obs_BF)
        return torch.cat((mean_BA, self.log_std().unsqueeze(-2).expand_as(mean_BA)), dim=-1)

    @property
    def teaches(self) -> bool:
        """Whether there are auxiliary losses, for which a learner keeps the detector's labels."""
        return False

    def auxiliary_losses(self, obs_BF: Tensor, labels_B: Tensor | None = None) -> dict[str, Tensor]:
        """What a learner adds to the policy's loss besides the agent's own: name -> scalar, weight included.

        Nothing for most networks. The names are metrics too. The pass is one of its own, with dropout: the policy's
        probabilities are not touched.

        labels_B: regimes of the detector, int64 (B,), -1 where unknown.
        """
        return {}


class FlatPolicy(GaussianPolicy):
    """A trunk, a head, and where configured a straight line from the observation to the action."""

    def __init__(self, shape: FlatShape, options: NetworkOptions):
        super().__init__(shape, options)
        self.trunk = _trunk((shape.observation, *options.hidden), options.activation)
        self.head = Dense(options.hidden[-1], shape.actions, gain=options.last_layer_scale)
        if options.initial_mean:
            self.head.bias.data.copy_(torch.tensor(options.initial_mean))
        self.skip = straight_line(shape, options)

    def mean(self, obs_BF: Tensor) -> Tensor:
        mean_BA: Tensor = self.head(self.trunk(obs_BF))
        return mean_BA if self.skip is None else mean_BA + self.skip(obs_BF)


class MetaNetwork(FlatPolicy):
    """Portfolio state -> allocation logits of the domains and risk appetite, through two hidden layers."""


class InstrumentNetwork(FlatPolicy):
    """One instrument's block and private state -> signal, urgency, stop distance."""


class SpecialistNetwork(GaussianPolicy):
    """A domain expert: one encoder of the domain's situation, one reader of instruments, one confidence.

    The encoder reads domain features and own state. The head reads one instrument's block beside that encoding, with
    the same weights for each instrument of the domain: what a breakout means is learned from all of them, and a domain
    gains an instrument without a new network. Confidence reads the encoding and the mean of what the head saw.
    """

    def __init__(self, shape: SpecialistShape, options: NetworkOptions):
        super().__init__(shape, options)
        width = options.hidden[-1]
        situation = shape.domain + shape.state
        small = options.last_layer_scale
        self.splits = (shape.domain, shape.n_instruments * shape.block, shape.state)
        self.encoder = _trunk((situation, *options.hidden, width), options.activation)
        self.reader = Dense(shape.block + width, width, gain=math.sqrt(2))
        self.activation = ACTIVATIONS[options.activation]()
        self.logits = Dense(width, LOGITS_PER_INSTRUMENT, gain=small)
        self.confidence_trunk = _trunk((2 * width, width), options.activation)
        self.confidence = Dense(width, 1, gain=small)
        self.shares: Tensor | None = None
        """Of each instrument in the mean of what was seen, (S, N); equal where not set, in networks of their own."""
        self.skip_logits = self.skip_confidence = None
        if options.linear_skip:
            self.skip_logits = Dense(shape.block + situation, LOGITS_PER_INSTRUMENT, gain=small, bias=False)
            self.skip_confidence = Dense(situation, 1, gain=small, bias=False)

    def pooled(self, seen_BNH: Tensor) -> Tensor:
        """Mean over the instruments there are, (B, H)."""
        if self.shares is None:
            return seen_BNH.mean(dim=-2)
        return (seen_BNH * self.shares[:, None, :, None]).sum(dim=-2)

    def mean(self, obs_BF: Tensor) -> Tensor:
        assert isinstance(self.shape, SpecialistShape)
        domain, blocks, state = obs_BF.split(self.splits, dim=-1)
        blocks_BNK = blocks.unflatten(-1, (self.shape.n_instruments, self.shape.block))
        situation_BF = torch.cat((domain, state), dim=-1)
        encoding_BH = self.encoder(situation_BF)
        seen_BNH = self.activation(beside(self.reader, blocks_BNK, encoding_BH))
        logits_BN3 = self.logits(seen_BNH)
        pooled_BH = torch.cat((encoding_BH, self.pooled(seen_BNH)), dim=-1)
        confidence_B1 = self.confidence(self.confidence_trunk(pooled_BH))
        if self.skip_logits is not None and self.skip_confidence is not None:
            logits_BN3 = logits_BN3 + beside(self.skip_logits, blocks_BNK, situation_BF)
            confidence_B1 = confidence_B1 + self.skip_confidence(situation_BF)
        return torch.cat((logits_BN3.flatten(-2), confidence_B1), dim=-1)


class ValueFunction(nn.Module):
    """Expected return of an observation, from a trunk of its own: features, then a linear `head`."""

    head: Dense

    def features(self, obs_BF: Tensor, drop: bool = False) -> Tensor:
        """Last hidden layer, (B, H). `drop` applies dropout; an argument and not a mode, because the learner asks the
        same module, in the same mode, for the targets of the returns (exact) and for the loss (with dropout)."""
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
    """Parameters of equally shaped networks on a new first axis, name -> (S, ...). Gradients flow back to each.

    `torch.func.functional_call(networks[0], stacked_parameters(networks), (obs_SBF,))` runs all of them at once.
    """
    tables = [dict(network.named_parameters()) for network in networks]
    return {name: torch.stack([table[name] for table in tables]) for name in tables[0]}


def stack(networks: Sequence[Network]) -> Network:
    """One network that runs S equally shaped ones as batched products: (S, B, F) -> (S, B, ...). For inference.

    It holds a copy of the parameters at the time of the call and takes no gradient back to them.
    """
    stacked = copy.deepcopy(networks[0])
    for name, values in stacked_parameters(networks).items():
        owner, _, leaf = name.rpartition(".")
        setattr(stacked.get_submodule(owner), leaf, nn.Parameter(values.detach(), requires_grad=False))
    return stacked
