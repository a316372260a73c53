"""The critics of an off-policy learner: twins, their target copies, and the entropy coefficient.

A module's configuration then has a section `sac`:

    action_map    key of `agents.action_maps.ACTION_MAPS`: from raw to executed actions
    map_numbers   the parameters of that map
    critic        `CriticConfig` as a dictionary
    initial_alpha
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtquant_rllib.agents.action_maps import ACTION_MAPS
from mtquant_rllib.agents.groups import map_numbers, module_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.policies.networks import Dense, PerActionLinear, Shape, SpecialistShape, split_dense
from mtquant_rllib.policies.registry import shape_of

TWINS = 2


def sac_config(name: str, config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The configuration of `registry.network_configs` for a module that learns by SAC."""
    sac = settings.sac
    return {
        **config,
        "options": {**config["options"], "initial_std": sac.initial_std, "min_std": sac.min_std},
        "sac": {
            "action_map": module_groups(settings)[name].action_map,
            "map_numbers": map_numbers(settings),
            "critic": sac.critic.model_dump(mode="json"),
            "initial_alpha": sac.initial_alpha,
        },
    }


class SharedSlope(nn.Module):
    """dQ/dw of a specialist's executed actions, (B, W), linear in the observation.

    As in the policy, each instrument's block is read with the context by the same weights, so that they are learned
    from all instruments and not only from the bars on which one is active.
    """

    def __init__(self, shape: SpecialistShape, gain: float):
        super().__init__()
        self.n_instruments = shape.n_instruments
        self.splits = (shape.domain, shape.n_instruments * shape.block, shape.state)
        context = shape.domain + shape.state
        self.intent = Dense(shape.block + context, 1, gain=gain)
        self.confidence = Dense(context, 1, gain=gain)

    def forward(self, obs_BF: Tensor) -> Tensor:
        domain, blocks, state = obs_BF.split(self.splits, dim=-1)
        context_BF = torch.cat((domain, state), dim=-1)
        blocks_BNK = blocks.unflatten(-1, (self.n_instruments, -1))
        intents_BN = split_dense(self.intent, blocks_BNK, context_BF).squeeze(-1)
        return torch.cat((intents_BN, self.confidence(context_BF)), dim=-1)


class PerActionSlope(nn.Module):
    """dQ/dw of an allocator's weights, (B, W): scale_a linear(own columns of a) + bias_a.

    The linear map is shared by all assets, as in the policy; their scales differ, as the sizes of their moves do.
    """

    def __init__(self, own_columns: Sequence[Sequence[int]], gain: float):
        super().__init__()
        self.own = PerActionLinear(own_columns, gain)
        self.scale = nn.Parameter(torch.ones(len(own_columns)))
        self.bias = nn.Parameter(torch.zeros(len(own_columns)))

    def forward(self, obs_BF: Tensor) -> Tensor:
        slope_BW: Tensor = self.own(obs_BF) * self.scale + self.bias
        return slope_BW


class Critic(nn.Module):
    """Q(s, w): the value of executing w in s. Reads `[observation | executed action]`.

        Q = trunk(s, w) + sum_k w_k slope_k(s),      slope linear in s

    The return of a position is its size times its market's return: a product of action and signal, which plain layers
    can only approximate piecewise. The second term has that form, as the policies' linear skip has.
    """

    def __init__(
        self, shape: Shape, executed: int, config: Mapping[str, Any], own_columns: Sequence[Sequence[int]] = ()
    ):
        super().__init__()
        self.splits = (shape.observation, executed)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((sum(self.splits), *config["hidden"])):
            layers += [Dense(n_in, n_out, gain=math.sqrt(2)), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = Dense(config["hidden"][-1], 1, gain=config["last_layer_scale"])
        self.slope: Dense | SharedSlope | PerActionSlope | None = None
        if config["slope"] and isinstance(shape, SpecialistShape):
            self.slope = SharedSlope(shape, config["last_layer_scale"])
        elif config["slope"] and own_columns:
            self.slope = PerActionSlope(own_columns, config["last_layer_scale"])
        elif config["slope"]:
            self.slope = Dense(shape.observation, executed, gain=config["last_layer_scale"])

    def forward(self, inputs_BW: Tensor) -> Tensor:
        """(B,) for inputs (B, width); any tensor may carry a leading axis of stacked critics, as in `networks`."""
        value_B1: Tensor = self.head(self.trunk(inputs_BW))
        value_B = value_B1.squeeze(-1)
        if self.slope is None:
            return value_B
        observation_BF, executed_BW = inputs_BW.split(self.splits, dim=-1)
        return value_B + (self.slope(observation_BF) * executed_BW).sum(-1)

    def dense_layers(self) -> list[int]:
        """Positions of the dense layers in the trunk."""
        return [number for number, layer in enumerate(self.trunk) if isinstance(layer, Dense)]


def build_critic(config: Mapping[str, Any]) -> Critic:
    shape = shape_of(config)
    executed = ACTION_MAPS[config["sac"]["action_map"]].width(shape.actions)
    return Critic(shape, executed, config["sac"]["critic"], config["options"]["own_columns"])


def critic_columns(observation: np.ndarray, executed: np.ndarray, common: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns of the common configuration that a critic's narrower parameters have, by name: of the last axis, or an
    open mesh of (rows, columns) for parameters that are narrower in both."""
    critic, shape = common["sac"]["critic"], shape_of(common)
    places: dict[str, Any] = {"trunk.0.weight": np.concatenate((observation, shape.observation + executed))}
    if critic["slope"] and isinstance(shape, SpecialistShape):
        blocks = shape.n_instruments * shape.block
        state = observation[observation >= shape.domain + blocks]
        context = np.concatenate((observation[observation < shape.domain], state - blocks))
        places["slope.intent.weight"] = np.concatenate((np.arange(shape.block), shape.block + context))
        places["slope.confidence.weight"] = context
    elif critic["slope"] and not common["options"]["own_columns"]:
        places |= {"slope.weight": np.ix_(executed, observation), "slope.bias": executed}
    return places


class Entropy(nn.Module):
    """alpha = exp(log_alpha), the entropy coefficient."""

    def __init__(self, initial_alpha: float):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor([math.log(initial_alpha)]))


class TwinCritics(nn.Module):
    """Two independently initialised critics, their target copies, and alpha."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.online = nn.ModuleList(build_critic(config) for _ in range(TWINS))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.entropy = Entropy(config["sac"]["initial_alpha"])


def target_entropy(actions: int) -> float:
    """-ln n for n action components."""
    return -math.log(actions)
