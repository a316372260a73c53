"""Stacked modules: one row of parameters per module, one network that runs all rows, one optimiser step.

RLlib's modules stay as they are. An update begins by copying their parameters into the rows of a `ModuleStack` and ends
by copying them back, so that states, weights and checkpoints are per module. The stack's network runs all rows at once
through weights with a leading axis; gradients are rows too, so that the norm of each module's gradient is one reduction
and Adam steps a few long vectors instead of two hundred small ones. Modules of one kind and unlike width are padded to
the widest (`policies.padding`): absent columns stay zero, because nothing is read from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from mtquant_rllib.policies.padding import column_map, common_config, instrument_weights
from mtquant_rllib.policies.registry import build_policy, build_value, shape_of

MOMENTS = ("exp_avg", "exp_avg_sq")


class StackedParameters:
    """The parameters of R networks of one shape: R rows of P numbers.

    Parameters
    ----------
    network
        A network of the common shape; its parameters are replaced by views of the rows, so that it runs all of them on
        inputs with a leading axis R (none for R = 1).
    members
        The parameters of each row by their names in `network`, in order.
    column_maps
        Columns of the last axis that a member's narrower parameters have in the common shape, by name; a tuple indexes
        all axes. None where no member is narrower.

    Attributes
    ----------
    weight_RP, grad_RP
        Parameters and their gradients.
    tensors
        Each member's parameters, in order.
    parameters, gradients
        Those of `network`; the gradients are views of grad_RP, to be filled.
    parts
        Name -> (columns of a row, shape) of each parameter.
    """

    def __init__(
        self,
        network: nn.Module,
        members: Sequence[Mapping[str, Tensor]],
        column_maps: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.tensors = [list(member.values()) for member in members]
        device = self.tensors[0][0].device
        self.network = network.to(device)
        shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        sizes = [shape.numel() for shape in shapes.values()]
        self.weight_RP = torch.zeros(len(members), sum(sizes), device=device)
        self.grad_RP = torch.zeros_like(self.weight_RP)
        starts = np.cumsum([0, *sizes]).tolist()
        self.parts = {
            name: (slice(start, start + size), shape)
            for (name, shape), start, size in zip(shapes.items(), starts, sizes)
        }
        maps = column_maps or [{}] * len(members)
        self._positions = [self._positions_of(member, own).to(device) for member, own in zip(members, maps)]
        self.parameters: list[nn.Parameter] = []
        self.gradients: list[Tensor] = []
        for name, (part, shape) in self.parts.items():
            leading = (len(members), *shape) if len(members) > 1 else shape
            parameter = nn.Parameter(self.weight_RP[:, part].view(leading))
            self.parameters.append(parameter)
            self.gradients.append(self.grad_RP[:, part].view(leading))
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, parameter)

    def __len__(self) -> int:
        return len(self.tensors)

    def _positions_of(self, member: Mapping[str, Tensor], columns: Mapping[str, Any]) -> Tensor:
        """Positions in a row of a member's parameters, flattened in their order, int64."""
        positions = []
        for name, parameter in member.items():
            part, shape = self.parts[name]
            indices = np.arange(part.start, part.stop).reshape(shape)
            if name in columns:
                own = columns[name]
                indices = indices[own] if isinstance(own, tuple) else indices[..., own]
            assert indices.shape == parameter.shape, (name, indices.shape, parameter.shape)
            positions.append(indices.ravel())
        return torch.from_numpy(np.concatenate(positions))

    def load(self) -> None:
        """Copy the members' parameters into the rows."""
        for member, tensors in enumerate(self.tensors):
            self.write_row(self.weight_RP[member], member, tensors)

    def store(self, members: Collection[int] | None = None) -> None:
        """Copy the rows into the parameters of all members, or of some."""
        for member, tensors in enumerate(self.tensors):
            if members is None or member in members:
                self.read_row(self.weight_RP[member], member, tensors)

    def write_row(self, row: Tensor, member: int, tensors: Sequence[Tensor]) -> None:
        """Copy one member's tensors, in the order of its parameters, into a row."""
        with torch.no_grad():
            row[self._positions[member]] = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(row.device)

    def read_row(self, row: Tensor, member: int, tensors: Sequence[Tensor]) -> None:
        """Copy a row into one member's tensors."""
        with torch.no_grad():
            flat = row[self._positions[member]]
            pieces = flat.split([tensor.numel() for tensor in tensors])
            for tensor, piece in zip(tensors, pieces):
                tensor.copy_(piece.view(tensor.shape))

    def clip(self, limit_R1: Tensor | float) -> Tensor:
        """Scale gradients down to a largest norm of each row. Returns the norms before, (R, 1). A row that is not
        finite stays so."""
        norm_R1 = torch.linalg.vector_norm(self.grad_RP, dim=1, keepdim=True)
        limit_R1 = torch.as_tensor(limit_R1, dtype=norm_R1.dtype, device=norm_R1.device)
        # As RLlib clips: the norm plus a millionth is compared with the limit.
        self.grad_RP.mul_(limit_R1.div(torch.maximum(norm_R1 + 1e-6, limit_R1)).nan_to_num(1.0))
        return norm_R1


class _PolicyAndValue(nn.Module):
    """The two networks of a module, by the names that `DeskRLModule` has for them."""

    policy: Any
    value: Any

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.policy = build_policy(config)
            self.value = build_value(config)


class StackableModules:
    """S modules that fit one shape.

    names
        Module ids, in the order of the rows.
    common
        Configuration of that shape.
    column_maps
        Which columns of it each module has (`policies.padding.ColumnMap`).
    widths
        Of an observation and of an action.
    action_mask_S1A
        1 where a module has the action, 0 where the column is padding.
    """

    def __init__(self, names: Sequence[str], modules: Sequence[Any]) -> None:
        self.names = tuple(names)
        self.modules = list(modules)
        self.configs = [module.model_config for module in self.modules]
        common = common_config(self.configs)
        assert common is not None
        self.common = common
        self.column_maps = [column_map(config, common) for config in self.configs]
        shape = shape_of(common)
        self.widths = (shape.observation, shape.actions)
        self.device = next(self.modules[0].parameters()).device
        self.action_mask_S1A = torch.zeros(len(self.names), 1, shape.actions, device=self.device)
        for mask, columns in zip(self.action_mask_S1A, self.column_maps):
            mask[:, columns.actions] = 1.0

    def set_instrument_weights(self, policy: Any) -> None:
        """Tell a stack of specialists which instruments each of them has."""
        weights = instrument_weights(self.configs, self.common)
        if weights is not None:
            policy.instrument_weights = torch.from_numpy(weights).float().to(self.device)


class ModuleStack(StackedParameters, StackableModules):
    """The policies and value networks of modules that fit one shape, one row per module.

    network
        `policy` and `value`.
    """

    network: _PolicyAndValue

    def __init__(self, names: Sequence[str], modules: Sequence[Any]) -> None:
        StackableModules.__init__(self, names, modules)
        network = _PolicyAndValue(self.common)
        self.set_instrument_weights(network.policy)
        StackedParameters.__init__(
            self,
            network,
            [dict(module.named_parameters()) for module in self.modules],
            [columns.parameters for columns in self.column_maps],
        )

    def action_dist_inputs(self, obs_SBF: Tensor) -> Tensor:
        """`[mean | log deviation]` of each row, (S, B, 2A)."""
        several = len(self.names) > 1
        inputs: Tensor = self.network.policy(obs_SBF) if several else self.network.policy(obs_SBF[0])[None]
        return inputs

    def values(self, obs_SBF: Tensor) -> Tensor:
        """Values (S, B), with dropout."""
        value, several = self.network.value, len(self.names) > 1
        values: Tensor = value(obs_SBF, drop=True) if several else value(obs_SBF[0], drop=True)[None]
        return values


def stackable_groups(modules: Mapping[str, Any]) -> list[list[str]]:
    """Names of modules that fit one shape together, in order of first appearance."""
    groups: list[list[str]] = []
    for name in modules:
        for group in groups:
            if common_config([modules[member].model_config for member in (*group, name)]) is not None:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def module_stacks(modules: Mapping[str, Any]) -> list[ModuleStack]:
    return [ModuleStack(group, [modules[name] for name in group]) for group in stackable_groups(modules)]


class StackedAdam:
    """One fused Adam (Kingma & Ba 2015) over the rows of `StackedParameters`.

    RLlib registers optimisers per module, with name, rate and state. They hold rate and state between updates, one
    for each row; the step is taken here, for all rows of one rate at once.
    """

    def __init__(self, rows: StackedParameters, optimizers: Sequence[torch.optim.Adam]) -> None:
        self._rows, self._optimizers = rows, optimizers
        self._defaults = optimizers[0].defaults
        self._moments = {name: torch.zeros_like(rows.weight_RP) for name in MOMENTS}
        device = rows.weight_RP.device if self._defaults["fused"] else "cpu"
        self._steps = [torch.zeros((), device=device) for _ in optimizers]
        self._rates: list[float] = []

    def load(self) -> None:
        """Take over rates and moments from the modules' optimisers."""
        self.load_rates()
        for member, (optimizer, tensors) in enumerate(zip(self._optimizers, self._rows.tensors)):
            states = [optimizer.state.get(parameter, {}) for parameter in tensors]
            self._steps[member].fill_(states[0]["step"] if all(states) else 0.0)
            for name, moment_RP in self._moments.items():
                if all(states):
                    self._rows.write_row(moment_RP[member], member, [state[name] for state in states])
                else:
                    moment_RP[member].zero_()

    def load_rates(self) -> None:
        self._rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in self._optimizers]

    def __len__(self) -> int:
        return len(self._optimizers)

    def reset(self, member: int) -> None:
        """Set the moments and the step count of a row to zero."""
        self._steps[member].zero_()
        for moment_RP in self._moments.values():
            moment_RP[member].zero_()

    def store(self, members: Collection[int] | None = None) -> None:
        """Copy the moments into the optimisers of all members, or of some."""
        for member, (optimizer, parameters) in enumerate(zip(self._optimizers, self._rows.tensors)):
            if members is not None and member not in members:
                continue
            for parameter in parameters:
                state = optimizer.state[parameter]
                if not state:
                    state["step"] = torch.zeros_like(self._steps[member])
                    state.update({name: torch.zeros_like(parameter) for name in MOMENTS})
                state["step"].copy_(self._steps[member])
            for name, moment_RP in self._moments.items():
                moments = [optimizer.state[parameter][name] for parameter in parameters]
                self._rows.read_row(moment_RP[member], member, moments)

    @torch.no_grad()
    def step(self, active: Sequence[bool]) -> None:
        """Step the rows of the active modules by their gradients."""
        for rate in dict.fromkeys(self._rates):
            members = [number for number, own in enumerate(self._rates) if own == rate and active[number]]
            if not members:
                continue
            buffers = (self._rows.weight_RP, self._rows.grad_RP, *self._moments.values())
            weights, gradients, first, second = ([buffer[number] for number in members] for buffer in buffers)
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
