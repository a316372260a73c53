"""Parameters of modules side by side: one row per module, one network that runs them all, one optimiser step.

The modules of RLlib stay what they are. An update begins by copying their parameters into the rows of a `Stack` and
ends by copying them back, so that states, weights and checkpoints are per module as ever. The stack's network sees all
rows at once through weights with a leading axis; gradients are rows too, so that a norm per module is one reduction and
Adam steps a few long vectors instead of two hundred small ones. Modules of one kind and unlike width fit into rows of
the widest (`policies.joining`): what they lack stays zero, because nothing is read from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from mtquant_rllib.policies.joining import Fit, fit, joined, presence
from mtquant_rllib.policies.registry import build_policy, build_value, shape_of

MOMENTS = ("exp_avg", "exp_avg_sq")


class _Pair(nn.Module):
    """The two trunks of a module, as `DeskRLModule` names them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.policy = build_policy(config)
            self.value = build_value(config)


class Stack:
    """S modules that fit one shape. S suffixes: S modules, P parameters of that shape.

    names
        Module ids, in the order of the rows.
    fits
        Which columns of the common shape each module has.
    weight_SP, grad_SP
        Parameters and their gradients.
    widths
        Of an observation and of an action.
    real_S1A
        1 where a module has the action, 0 where another has one more.
    parameters, gradients
        Of `network`; the gradients are views of grad_SP, to be filled.
    network
        `policy` and `value` on (S, rows, F); for a single module without the leading axis.
    """

    def __init__(self, names: Sequence[str], modules: Sequence[Any]) -> None:
        self.names = tuple(names)
        self.modules = list(modules)
        configs = [module.model_config for module in self.modules]
        common = joined(configs)
        assert common is not None
        device = next(self.modules[0].parameters()).device
        pair = _Pair(common).to(device)
        shapes = {name: parameter.shape for name, parameter in pair.named_parameters()}
        sizes = [shape.numel() for shape in shapes.values()]
        self.weight_SP = torch.zeros(len(self.names), sum(sizes), device=device)
        self.grad_SP = torch.zeros_like(self.weight_SP)
        self.parts = {}
        for (name, shape), start, size in zip(shapes.items(), _starts(sizes), sizes):
            self.parts[name] = (slice(start, start + size), shape)
        self.fits = [fit(config, common) for config in configs]
        self._places = [self._places_of(module, own).to(device) for module, own in zip(self.modules, self.fits)]
        built = shape_of(common)
        self.widths = (built.observation, built.actions)
        self.real_S1A = torch.zeros(len(self.names), 1, built.actions, device=device)
        for real, own in zip(self.real_S1A, self.fits):
            real[:, own.actions] = 1.0
        shares = presence(configs, common)
        if shares is not None:
            pair.policy.shares = torch.from_numpy(shares).float().to(device)
        self.network = self._network(pair)

    def __len__(self) -> int:
        return len(self.names)

    def _places_of(self, module: Any, own: Fit) -> Tensor:
        """Where each of a module's parameters, in their order and flat, stands in its row."""
        places = []
        for name, parameter in module.named_parameters():
            part, shape = self.parts[name]
            table = np.arange(part.start, part.stop).reshape(shape)
            table = table[..., own.parameters[name]] if name in own.parameters else table
            assert table.shape == parameter.shape, (name, table.shape, parameter.shape)
            places.append(table.ravel())
        return torch.from_numpy(np.concatenate(places))

    def load(self) -> None:
        """Copy the modules' parameters into the rows."""
        for member, module in enumerate(self.modules):
            self.put(self.weight_SP[member], member, [parameter.detach() for parameter in module.parameters()])

    def store(self) -> None:
        """Copy the rows into the modules' parameters."""
        for member, module in enumerate(self.modules):
            self.take(self.weight_SP[member], member, [parameter.detach() for parameter in module.parameters()])

    def put(self, row: Tensor, member: int, tensors: Sequence[Tensor]) -> None:
        """Copy one module's tensors, in the order of its parameters, into a row."""
        with torch.no_grad():
            row[self._places[member]] = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(row.device)

    def take(self, row: Tensor, member: int, tensors: Sequence[Tensor]) -> None:
        """Copy a row into one module's tensors."""
        with torch.no_grad():
            flat = row[self._places[member]]
            pieces = flat.split([tensor.numel() for tensor in tensors])
            for tensor, piece in zip(tensors, pieces):
                tensor.copy_(piece.view(tensor.shape))

    def _network(self, pair: _Pair) -> _Pair:
        self.parameters: list[nn.Parameter] = []
        self.gradients: list[Tensor] = []
        for name, (part, shape) in self.parts.items():
            leading = (len(self.names), *shape) if len(self.names) > 1 else shape
            parameter = nn.Parameter(self.weight_SP[:, part].view(leading))
            self.parameters.append(parameter)
            self.gradients.append(self.grad_SP[:, part].view(leading))
            owner, _, leaf = name.rpartition(".")
            setattr(pair.get_submodule(owner), leaf, parameter)
        return pair

    def forward(self, obs_SBF: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution inputs (S, B, 2A) and values (S, B), with the value's dropout."""
        obs = obs_SBF if len(self.names) > 1 else obs_SBF[0]
        inputs = self.network.policy(obs)
        values = self.network.value(obs, drop=True)
        return (inputs, values) if len(self.names) > 1 else (inputs[None], values[None])


def stacked(modules: Mapping[str, Any]) -> list[Stack]:
    """Stacks of the modules, those that fit one shape together, in order of first appearance."""
    groups: list[list[str]] = []
    for name in modules:
        for group in groups:
            if joined([modules[member].model_config for member in (*group, name)]) is not None:
                group.append(name)
                break
        else:
            groups.append([name])
    return [Stack(group, [modules[name] for name in group]) for group in groups]


def _starts(sizes: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    return starts


class RowOptimizer:
    """One fused Adam (Kingma & Ba 2015) over the rows of a stack.

    RLlib registers an optimiser per module, with its name, rate and state. They stay, as the keepers of rate and state
    between updates; the step is taken here, for all rows of one rate at once.
    """

    def __init__(self, stack: Stack, keepers: Sequence[torch.optim.Adam]) -> None:
        self._stack, self._keepers = stack, keepers
        self._defaults = keepers[0].defaults
        self._moments = {name: torch.zeros_like(stack.weight_SP) for name in MOMENTS}
        device = stack.weight_SP.device if self._defaults["fused"] else "cpu"
        self._steps = [torch.zeros((), device=device) for _ in stack.names]
        self._rates: list[float] = []

    def load(self) -> None:
        """Take over rates and moments from the keepers."""
        self._rates = [float(keeper.param_groups[0]["lr"]) for keeper in self._keepers]
        for member, (keeper, module) in enumerate(zip(self._keepers, self._stack.modules)):
            held = [keeper.state.get(parameter, {}) for parameter in module.parameters()]
            self._steps[member].fill_(held[0]["step"] if all(held) else 0.0)
            for name, rows in self._moments.items():
                if all(held):
                    self._stack.put(rows[member], member, [entry[name] for entry in held])
                else:
                    rows[member].zero_()

    def store(self) -> None:
        """Hand the moments to the keepers."""
        for member, (keeper, module) in enumerate(zip(self._keepers, self._stack.modules)):
            parameters = list(module.parameters())
            for parameter in parameters:
                held = keeper.state[parameter]
                if not held:
                    held["step"] = torch.zeros_like(self._steps[member])
                    held.update({name: torch.zeros_like(parameter) for name in MOMENTS})
                held["step"].copy_(self._steps[member])
            for name, rows in self._moments.items():
                self._stack.take(rows[member], member, [keeper.state[parameter][name] for parameter in parameters])

    @torch.no_grad()
    def step(self, active: Sequence[bool]) -> None:
        """Step the rows of the active modules by their gradients."""
        for rate in dict.fromkeys(self._rates):
            members = [number for number, own in enumerate(self._rates) if own == rate and active[number]]
            if not members:
                continue
            tables = (self._stack.weight_SP, self._stack.grad_SP, *self._moments.values())
            weights, gradients, first, second = ([table[number] for number in members] for table in tables)
            adam(
                weights,
                gradients,
                first,
                second,
                [],
                [self._steps[number] for number in members],
                fused=self._defaults["fused"],
                amsgrad=False,
                beta1=self._defaults["betas"][0],
                beta2=self._defaults["betas"][1],
                lr=rate,
                weight_decay=0.0,
                eps=self._defaults["eps"],
                maximize=False,
            )
