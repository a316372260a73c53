"""What an off-policy learner has besides the policy: twin critics, their slow copies, and the weight of entropy.

A module's configuration then has a section `sac`:

    action_map    key of `agents.action_maps.ACTION_MAPS`: what the environment makes of its actions
    map_numbers   the numbers of that map
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
from mtquant_rllib.policies.networks import Dense, OwnLine, Shape, SpecialistShape, beside
from mtquant_rllib.policies.registry import shape_of

TWINS = 2


def sac_config(name: str, config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The configuration of `registry.network_configs` for a module that learns by SAC."""
    sac = settings.sac
    return {
        **config,
        "options": {**config["options"], "initial_std": sac.initial_std, "std_floor": sac.std_floor},
        "sac": {
            "action_map": module_groups(settings)[name].action_map,
            "map_numbers": map_numbers(settings),
            "critic": sac.critic.model_dump(mode="json"),
            "initial_alpha": sac.initial_alpha,
        },
    }


class SharedSlope(nn.Module):
    """What one more unit of each of a specialist's executed actions is worth, (B, W), linear in the observation.

    As in its policy, an instrument's block is read beside the situation with the same weights for each: what an intent
    is worth is learned from all instruments, and not only from the bars on which its own is on turn.
    """

    def __init__(self, shape: SpecialistShape, gain: float):
        super().__init__()
        self.n_instruments = shape.n_instruments
        self.splits = (shape.domain, shape.n_instruments * shape.block, shape.state)
        situation = shape.domain + shape.state
        self.intent = Dense(shape.block + situation, 1, gain=gain)
        self.confidence = Dense(situation, 1, gain=gain)

    def forward(self, obs_BF: Tensor) -> Tensor:
        domain, blocks, state = obs_BF.split(self.splits, dim=-1)
        situation_BF = torch.cat((domain, state), dim=-1)
        blocks_BNK = blocks.unflatten(-1, (self.n_instruments, -1))
        intents_BN = beside(self.intent, blocks_BNK, situation_BF).squeeze(-1)
        return torch.cat((intents_BN, self.confidence(situation_BF)), dim=-1)


class OwnSlope(nn.Module):
    """What one more unit of each of an allocator's weights is worth, (B, W): w_a = scale_a line(own columns of a) +
    bias_a.

    The line is one for all assets, as in the policy; assets differ in how far they move, which is their scale.
    """

    def __init__(self, own_columns: Sequence[Sequence[int]], gain: float):
        super().__init__()
        self.own = OwnLine(own_columns, gain)
        self.scale = nn.Parameter(torch.ones(len(own_columns)))
        self.bias = nn.Parameter(torch.zeros(len(own_columns)))

    def forward(self, obs_BF: Tensor) -> Tensor:
        slope_BW: Tensor = self.own(obs_BF) * self.scale + self.bias
        return slope_BW


class Critic(nn.Module):
    """Q(s, w): the value of having had w executed in s. Reads `[observation | executed action]`.

        Q = trunk(s, w) + sum_k w_k slope_k(s),      slope linear in s

    What a position earns is its size times what its market does next: a product of an action and a signal, which plain
    layers have to put together from bends. The second term begins with it, as the policies' straight line does.
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
        self.slope: Dense | SharedSlope | OwnSlope | None = None
        if config["slope"] and isinstance(shape, SpecialistShape):
            self.slope = SharedSlope(shape, config["last_layer_scale"])
        elif config["slope"] and own_columns:
            self.slope = OwnSlope(own_columns, config["last_layer_scale"])
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
        """Their numbers in the trunk."""
        return [number for number, layer in enumerate(self.trunk) if isinstance(layer, Dense)]


def build_critic(config: Mapping[str, Any]) -> Critic:
    shape = shape_of(config)
    executed = ACTION_MAPS[config["sac"]["action_map"]].width(shape.actions)
    return Critic(shape, executed, config["sac"]["critic"], config["options"]["own_columns"])


def critic_columns(observation: np.ndarray, executed: np.ndarray, common: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Where the flat places of a critic's narrower parameters stand in one of the common configuration: columns of the
    last axis, or for parameters narrow in their rows too, (rows, columns) as an open mesh."""
    critic, shape = common["sac"]["critic"], shape_of(common)
    places: dict[str, Any] = {"trunk.0.weight": np.concatenate((observation, shape.observation + executed))}
    if critic["slope"] and isinstance(shape, SpecialistShape):
        blocks = shape.n_instruments * shape.block
        state = observation[observation >= shape.domain + blocks]
        situation = np.concatenate((observation[observation < shape.domain], state - blocks))
        places["slope.intent.weight"] = np.concatenate((np.arange(shape.block), shape.block + situation))
        places["slope.confidence.weight"] = situation
    elif critic["slope"] and not common["options"]["own_columns"]:
        places |= {"slope.weight": np.ix_(executed, observation), "slope.bias": executed}
    return places


class Entropy(nn.Module):
    """alpha = exp(log_alpha), the weight of entropy in an agent's objective."""

    def __init__(self, initial_alpha: float):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor([math.log(initial_alpha)]))


class TwinCritics(nn.Module):
    """Two critics with starts of their own, the targets that follow them, and alpha."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.online = nn.ModuleList(build_critic(config) for _ in range(TWINS))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.entropy = Entropy(config["sac"]["initial_alpha"])


def target_entropy(actions: int) -> float:
    """-ln n, n the width of the action."""
    return -math.log(actions)
