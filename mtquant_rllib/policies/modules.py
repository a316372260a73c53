"""RLlib modules made of the networks, by their `model_config`.

Actions are raw: the Gaussian is unbounded, the spaces are Box[-1, 1]. Learner and log-probability use the sample, the
environment gets clip(sample, -1, 1). In `AlgorithmConfig.environment(...)` `normalize_actions=False, clip_actions=True`
does exactly that. The default, `normalize_actions=True`, maps [-1, 1] onto the bounds of the space and clips after, the
same up to one float32 rounding. With both False the raw sample reaches the environment.

The policy has no dropout. `forward_train` passes the value network's features *with* dropout to the loss as
`EMBEDDINGS`; `compute_values` without embeddings, for advantages, runs without. So the first minibatch's ratios are 1
although the learner puts the module in training mode every time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.util.debug import log_once
from torch import Tensor

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.policies.critics import TwinCritics, sac_config
from mtquant_rllib.policies.registry import build_policy, build_value, network_configs, shape_of

# Every module, RLlib's own too, makes a deprecated configuration object, of which RLlib warns once.
log_once("RLModule(config=[RLModuleConfig object])")

VALUE, CRITICS = "value", "critics"


class _DeskModule(TorchRLModule, InferenceOnlyAPI):
    """A policy and, outside runners, its learner's own networks. `model_config` is an entry of `network_configs`."""

    model_config: dict[str, Any]
    learner_attribute: str
    """Name of the attribute with the learner's networks, which a state may lack as a whole."""

    def setup(self) -> None:
        self.policy = build_policy(self.model_config)
        # Built even where it is not kept, so that runner and learner use the same random numbers.
        setattr(self, self.learner_attribute, self.build_learner_network())

    def build_learner_network(self) -> torch.nn.Module:
        raise NotImplementedError

    def get_non_inference_attributes(self) -> list[str]:
        return [self.learner_attribute]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.policy(batch[Columns.OBS])}

    def set_state(self, state: dict[str, Any]) -> None:
        """Load a state strictly; RLlib's own would leave missing parameters at their initial values.

        The learner's part may be absent as a whole: an inference-only module ignores it, and a full module keeps its
        own when the state was taken with `inference_only=True`. (RLlib builds full modules on its runners whenever a
        `MultiRLModuleSpec` is given, and sends them inference-only states.)

        Raises
        ------
        RunError
            When parameters are missing, unknown or of another shape: the state belongs to other network settings.
        """
        prefix = f"{self.learner_attribute}."
        if self.inference_only:
            state = {key: item for key, item in state.items() if not key.startswith(prefix)}
        elif not any(key.startswith(prefix) for key in state):
            state = {**state, **{key: item for key, item in self.state_dict().items() if key.startswith(prefix)}}
        try:
            # Arrays are copied, because a state may be a read-only view of shared memory.
            tensors = {key: item if isinstance(item, Tensor) else torch.tensor(item) for key, item in state.items()}
            self.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            raise RunError(f"this state does not fit the module {self.model_config['network']!r}: {error}") from error


class DeskRLModule(_DeskModule, ValueFunctionAPI):
    """A policy that learns by PPO or does not learn, and a value network."""

    learner_attribute = VALUE

    def build_learner_network(self) -> torch.nn.Module:
        return build_value(self.model_config)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {
            **self._forward(batch),
            Columns.EMBEDDINGS: self.value.features(batch[Columns.OBS], drop=True),
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        features = self.value.features(batch[Columns.OBS]) if embeddings is None else embeddings
        return self.value.value_of(features)


class SACRLModule(_DeskModule):
    """A policy that learns by SAC, with twin critics, their targets and alpha. See `critics` for its configuration."""

    learner_attribute = CRITICS

    def build_learner_network(self) -> torch.nn.Module:
        return TwinCritics(self.model_config)


def module_specs(
    settings: Settings,
    only: Collection[str] | None = None,
    sac: Collection[str] = (),
) -> MultiRLModuleSpec:
    """The desk's modules for `AlgorithmConfig.rl_module`, in the order of the universe.

    `settings.networks.sharing` decides how many instrument modules there are; the ids are those of
    `Universe.policies`. `only` keeps the named modules, for a phase that plays part of the desk; those in `sac` learn
    by it, with critics and with deviations of their own.
    """
    configs = network_configs(settings)
    if only is not None:
        if unknown := sorted(set(only) - set(configs)):
            raise KeyError(f"no modules {', '.join(unknown)}; there are {', '.join(configs)}")
        configs = {name: config for name, config in configs.items() if name in only}
    return MultiRLModuleSpec(
        rl_module_specs={
            name: _spec(sac_config(name, config, settings), SACRLModule) if name in sac else _spec(config, DeskRLModule)
            for name, config in configs.items()
        }
    )


def _spec(config: dict[str, Any], module_class: type[_DeskModule]) -> RLModuleSpec:
    shape = shape_of(config)
    return RLModuleSpec(
        module_class=module_class,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (shape.observation,), np.float32),
        action_space=gymnasium.spaces.Box(-1.0, 1.0, (shape.actions,), np.float32),
        model_config=config,
    )
