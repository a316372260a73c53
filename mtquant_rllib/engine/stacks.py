"""Parameters of modules side by side: one flat row per module, one network that runs them all, one optimiser step.

The modules of RLlib stay what they are: their parameters become views of the rows, so that states, weights and
checkpoints are per module as ever. Equally built modules share a `Stack`, whose network sees all rows at once through
weights with a leading axis. Gradients are rows too, so that a norm per module is one reduction and Adam steps a few
long vectors instead of two hundred small ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtquant_rllib.engine.panel import can_stack
from mtquant_rllib.policies.registry import shape_of

MOMENTS = ("exp_avg", "exp_avg_sq")


class _Pair(nn.Module):
    """The two trunks of a module, as `DeskRLModule` names them."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.policy = copy.deepcopy(module.policy)
        self.value = copy.deepcopy(module.value)


class Stack:
    """S equally built modules. S suffixes: S modules, P parameters of one.

    names
        Module ids, in the order of the rows.
    weight_SP, grad_SP
        Parameters and their gradients. `rows` are the parameters as the optimiser sees them, one vector a module.
    widths
        Of an observation and of an action.
    parameters, gradients
        Of `network`; the gradients are views of grad_SP, to be filled.
    network
        `policy` and `value` on (S, rows, F); for a single module without the leading axis.
    """

    def __init__(self, names: Sequence[str], modules: Sequence[Any]) -> None:
        self.names = tuple(names)
        self.modules = list(modules)
        pair = _Pair(self.modules[0])
        shapes = {name: parameter.shape for name, parameter in pair.named_parameters()}
        sizes = [shape.numel() for shape in shapes.values()]
        device = next(pair.parameters()).device
        self.weight_SP = torch.zeros(len(self.names), sum(sizes), device=device)
        self.grad_SP = torch.zeros_like(self.weight_SP)
        self.parts = {}
        for (name, shape), start, size in zip(shapes.items(), _starts(sizes), sizes):
            self.parts[name] = (slice(start, start + size), shape)
        self.adopt()
        built = shape_of(self.modules[0].model_config)
        self.widths = (built.observation, built.actions)
        self.rows = [nn.Parameter(row) for row in self.weight_SP]
        self.network = self._network(pair)

    def __len__(self) -> int:
        return len(self.names)

    def adopt(self) -> None:
        """Take over the modules' parameters, and make theirs views of the rows."""
        with torch.no_grad():
            for row, module in zip(self.weight_SP, self.modules):
                for name, parameter in module.named_parameters():
                    part, shape = self.parts[name]
                    view = row[part].view(shape)
                    if parameter.data_ptr() != view.data_ptr():
                        view.copy_(parameter)
                        parameter.data = view

    def is_whole(self) -> bool:
        """Whether the modules' parameters still are views of the rows: moving a module gives it new ones."""
        return all(
            parameter.data_ptr() == row[self.parts[name][0]].data_ptr()
            for row, module in zip(self.weight_SP, self.modules)
            for name, parameter in module.named_parameters()
        )

    def split(self, row: Tensor) -> dict[str, Tensor]:
        """Views of a vector as long as a module's parameters, by their names."""
        return {name: row[part].view(shape) for name, (part, shape) in self.parts.items()}

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
    """Stacks of the modules, equally built ones together, in order of first appearance."""
    groups: list[list[str]] = []
    for name, module in modules.items():
        for group in groups:
            if can_stack([modules[group[0]], module]):
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
    """One fused Adam over the rows of all stacks; its moments are what the modules' own optimisers hold.

    RLlib registers an optimiser per module, with its name, rate and state. They stay, as the keepers of rate and state;
    the step is taken here, for all rows of one rate at once.
    """

    def __init__(self, stacks: Sequence[Stack], keepers: Mapping[str, torch.optim.Adam]) -> None:
        self._stacks, self._keepers = stacks, keepers
        first = next(iter(keepers.values())).defaults
        self._adam = torch.optim.Adam(
            [row for stack in stacks for row in stack.rows],
            lr=first["lr"],
            betas=first["betas"],
            eps=first["eps"],
            fused=first["fused"],
        )
        for stack in stacks:
            for row in stack.rows:
                device = row.device if first["fused"] else "cpu"
                self._adam.state[row] = {
                    "step": torch.zeros((), device=device),
                    **{name: torch.zeros_like(row) for name in MOMENTS},
                }
        self.collect()

    def _each(self) -> list[tuple[str, Stack, nn.Parameter, Any]]:
        return [
            (name, stack, row, module)
            for stack in self._stacks
            for name, row, module in zip(stack.names, stack.rows, stack.modules)
        ]

    def collect(self) -> None:
        """Take over what the keepers hold, and make it views of the rows' moments."""
        for name, stack, row, module in self._each():
            own, keeper = self._adam.state[row], self._keepers[name]
            views = {moment: stack.split(own[moment]) for moment in MOMENTS}
            for parameter_name, parameter in module.named_parameters():
                held = keeper.state.get(parameter, {})
                if held:
                    own["step"].copy_(held["step"])
                for moment in MOMENTS:
                    view = views[moment][parameter_name]
                    if moment in held and held[moment].data_ptr() != view.data_ptr():
                        view.copy_(held[moment])
                keeper.state[parameter] = {
                    "step": own["step"],
                    **{moment: views[moment][parameter_name] for moment in MOMENTS},
                }

    def set_rates(self) -> None:
        """Rows of one rate form one group."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, _, row, _ in self._each():
            groups.setdefault(float(self._keepers[name].param_groups[0]["lr"]), []).append(row)
        self._adam.param_groups.clear()
        for rate, rows in groups.items():
            self._adam.add_param_group({"params": rows, "lr": rate})

    def step(self, active: Mapping[str, bool]) -> None:
        """Step the rows of the active modules by their gradients."""
        for name, stack, row, _ in self._each():
            row.grad = stack.grad_SP[stack.names.index(name)] if active[name] else None
        self._adam.step()
