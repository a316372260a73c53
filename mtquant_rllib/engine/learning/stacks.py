"""Parameters of modules side by side: one row per module, one network that runs them all, one optimiser step.

The modules of RLlib stay what they are. An update begins by copying their parameters into the rows of a `Stack` and
ends by copying them back, so that states, weights and checkpoints are per module as ever. The stack's network sees all
rows at once through weights with a leading axis; gradients are rows too, so that a norm per module is one reduction and
Adam steps a few long vectors instead of two hundred small ones. Modules of one kind and unlike width fit into rows of
the widest (`policies.padding`): what they lack stays zero, because nothing is read from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from mtquant_rllib.policies.padding import fit, joined, presence
from mtquant_rllib.policies.registry import build_policy, build_value, shape_of

MOMENTS = ("exp_avg", "exp_avg_sq")


class Rows:
    """Equally built networks beside each other: one row of parameters each. R rows, P parameters of the common shape.

    Parameters
    ----------
    network
        One of the common shape; it becomes the one that runs all rows, on inputs with a leading axis R
        (none for R = 1).
    members
        The parameters of each row by their names in `network`, in order.
    narrow
        Columns of the last axis that a member's narrower parameters have in the common shape, by name; a tuple indexes
        all axes.

    Attributes
    ----------
    weight_RP, grad_RP
        Parameters and their gradients.
    tensors
        Each member's parameters, in order.
    parameters, gradients
        Of `network`; the gradients are views of grad_RP, to be filled.
    """

    def __init__(
        self,
        network: nn.Module,
        members: Sequence[Mapping[str, Tensor]],
        narrow: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.tensors = [list(member.values()) for member in members]
        device = self.tensors[0][0].device
        self.network = network.to(device)
        shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        sizes = [shape.numel() for shape in shapes.values()]
        self.weight_RP = torch.zeros(len(members), sum(sizes), device=device)
        self.grad_RP = torch.zeros_like(self.weight_RP)
        self.parts = {}
        for (name, shape), start, size in zip(shapes.items(), _starts(sizes), sizes):
            self.parts[name] = (slice(start, start + size), shape)
        fits = narrow or [{}] * len(members)
        self._places = [self._places_of(member, own).to(device) for member, own in zip(members, fits)]
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

    def _places_of(self, member: Mapping[str, Tensor], narrow: Mapping[str, Any]) -> Tensor:
        """Where each of a member's parameters, in their order and flat, stands in its row."""
        places = []
        for name, parameter in member.items():
            part, shape = self.parts[name]
            table = np.arange(part.start, part.stop).reshape(shape)
            if name in narrow:
                place = narrow[name]
                table = table[place] if isinstance(place, tuple) else table[..., place]
            assert table.shape == parameter.shape, (name, table.shape, parameter.shape)
            places.append(table.ravel())
        return torch.from_numpy(np.concatenate(places))

    def load(self) -> None:
        """Copy the members' parameters into the rows."""
        for member, tensors in enumerate(self.tensors):
            self.put(self.weight_RP[member], member, tensors)

    def store(self, members: Collection[int] | None = None) -> None:
        """Copy the rows into the members' parameters, of all or of some members."""
        for member, tensors in enumerate(self.tensors):
            if members is None or member in members:
                self.take(self.weight_RP[member], member, tensors)

    def put(self, row: Tensor, member: int, tensors: Sequence[Tensor]) -> None:
        """Copy one member's tensors, in the order of its parameters, into a row."""
        with torch.no_grad():
            row[self._places[member]] = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(row.device)

    def take(self, row: Tensor, member: int, tensors: Sequence[Tensor]) -> None:
        """Copy a row into one member's tensors."""
        with torch.no_grad():
            flat = row[self._places[member]]
            pieces = flat.split([tensor.numel() for tensor in tensors])
            for tensor, piece in zip(tensors, pieces):
                tensor.copy_(piece.view(tensor.shape))

    def clip(self, limit_R1: Tensor | float) -> Tensor:
        """Scale rows of gradients down to a largest norm; their norms before, (R, 1). A row that is not finite stays
        so."""
        norm_R1 = torch.linalg.vector_norm(self.grad_RP, dim=1, keepdim=True)
        limit_R1 = torch.as_tensor(limit_R1, dtype=norm_R1.dtype, device=norm_R1.device)
        # As RLlib clips: by what is over the limit, a millionth of a unit early.
        self.grad_RP.mul_(limit_R1.div(torch.maximum(norm_R1 + 1e-6, limit_R1)).nan_to_num(1.0))
        return norm_R1


class _Pair(nn.Module):
    """The two trunks of a module, as `DeskRLModule` names them."""

    policy: Any
    value: Any

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.policy = build_policy(config)
            self.value = build_value(config)


class Alike:
    """S modules that fit one shape.

    names
        Module ids, in the order of the rows.
    common
        Configuration of that shape.
    fits
        Which columns of it each module has.
    widths
        Of an observation and of an action.
    real_S1A
        1 where a module has the action, 0 where another has one more.
    """

    def __init__(self, names: Sequence[str], modules: Sequence[Any]) -> None:
        self.names = tuple(names)
        self.modules = list(modules)
        self.configs = [module.model_config for module in self.modules]
        common = joined(self.configs)
        assert common is not None
        self.common = common
        self.fits = [fit(config, common) for config in self.configs]
        built = shape_of(common)
        self.widths = (built.observation, built.actions)
        self.device = next(self.modules[0].parameters()).device
        self.real_S1A = torch.zeros(len(self.names), 1, built.actions, device=self.device)
        for real, own in zip(self.real_S1A, self.fits):
            real[:, own.actions] = 1.0

    def share_out(self, policy: Any) -> None:
        """Tell a specialists' policy which instruments each of them has."""
        shares = presence(self.configs, self.common)
        if shares is not None:
            policy.shares = torch.from_numpy(shares).float().to(self.device)


class Stack(Rows, Alike):
    """The policies and value networks of modules that fit one shape, a row for each module.

    network
        `policy` and `value`.
    """

    network: _Pair

    def __init__(self, names: Sequence[str], modules: Sequence[Any]) -> None:
        Alike.__init__(self, names, modules)
        pair = _Pair(self.common)
        self.share_out(pair.policy)
        Rows.__init__(
            self,
            pair,
            [dict(module.named_parameters()) for module in self.modules],
            [own.parameters for own in self.fits],
        )

    def inputs(self, obs_SBF: Tensor) -> Tensor:
        """Of the actions' distributions, (S, B, 2A)."""
        several = len(self.names) > 1
        inputs: Tensor = self.network.policy(obs_SBF) if several else self.network.policy(obs_SBF[0])[None]
        return inputs

    def values(self, obs_SBF: Tensor) -> Tensor:
        """(S, B), with dropout."""
        value, several = self.network.value, len(self.names) > 1
        values: Tensor = value(obs_SBF, drop=True) if several else value(obs_SBF[0], drop=True)[None]
        return values


def grouped(modules: Mapping[str, Any]) -> list[list[str]]:
    """Names of modules that fit one shape together, in order of first appearance."""
    groups: list[list[str]] = []
    for name in modules:
        for group in groups:
            if joined([modules[member].model_config for member in (*group, name)]) is not None:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def stacked(modules: Mapping[str, Any]) -> list[Stack]:
    """The modules as stacks."""
    return [Stack(group, [modules[name] for name in group]) for group in grouped(modules)]


def _starts(sizes: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    return starts


class RowOptimizer:
    """One fused Adam (Kingma & Ba 2015) over rows.

    RLlib registers optimisers per module, with name, rate and state. They stay, as the keepers of rate and state
    between updates, one for each row; the step is taken here, for all rows of one rate at once.
    """

    def __init__(self, rows: Rows, keepers: Sequence[torch.optim.Adam]) -> None:
        self._rows, self._keepers = rows, keepers
        self._defaults = keepers[0].defaults
        self._moments = {name: torch.zeros_like(rows.weight_RP) for name in MOMENTS}
        device = rows.weight_RP.device if self._defaults["fused"] else "cpu"
        self._steps = [torch.zeros((), device=device) for _ in keepers]
        self._rates: list[float] = []

    def load(self) -> None:
        """Take over rates and moments from the keepers."""
        self.load_rates()
        for member, (keeper, tensors) in enumerate(zip(self._keepers, self._rows.tensors)):
            held = [keeper.state.get(parameter, {}) for parameter in tensors]
            self._steps[member].fill_(held[0]["step"] if all(held) else 0.0)
            for name, table in self._moments.items():
                if all(held):
                    self._rows.put(table[member], member, [entry[name] for entry in held])
                else:
                    table[member].zero_()

    def load_rates(self) -> None:
        self._rates = [float(keeper.param_groups[0]["lr"]) for keeper in self._keepers]

    def __len__(self) -> int:
        return len(self._keepers)

    def forget(self, member: int) -> None:
        """Begin again: moments of zero."""
        self._steps[member].zero_()
        for table in self._moments.values():
            table[member].zero_()

    def store(self, members: Collection[int] | None = None) -> None:
        """Hand the moments to the keepers, of all or of some members."""
        for member, (keeper, parameters) in enumerate(zip(self._keepers, self._rows.tensors)):
            if members is not None and member not in members:
                continue
            for parameter in parameters:
                held = keeper.state[parameter]
                if not held:
                    held["step"] = torch.zeros_like(self._steps[member])
                    held.update({name: torch.zeros_like(parameter) for name in MOMENTS})
                held["step"].copy_(self._steps[member])
            for name, table in self._moments.items():
                self._rows.take(table[member], member, [keeper.state[parameter][name] for parameter in parameters])

    @torch.no_grad()
    def step(self, active: Sequence[bool]) -> None:
        """Step the rows of the active modules by their gradients."""
        for rate in dict.fromkeys(self._rates):
            members = [number for number, own in enumerate(self._rates) if own == rate and active[number]]
            if not members:
                continue
            tables = (self._rows.weight_RP, self._rows.grad_RP, *self._moments.values())
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
