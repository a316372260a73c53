"""How much faster SAC is on the batched engine than RLlib's own, in one run: same market, threads and machine.

    sac_ratio               bars a second, sampling and learning together, batched over RLlib's own
    sac_attention_ratio     the same with the attention network on the meta-controller, over RLlib's plain networks

Both sides have twelve policies with critics of [64, 64], learn from batches of 256 of each module's decisions, and make
one gradient step of every module after every bar. All agents decide on every bar, so that a bar is three of RLlib's
turns and one call of its training step. RLlib's side is its own runner, connectors, episode replay and learner with its
default networks; the sides are measured in turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

from mtquant_rllib.bench.interleaving import interleaved, rate
from mtquant_rllib.bench.setup import endless_run, ray_session
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.multi_agent import desk_env
from mtquant_rllib.policies.registry import ATTENTION
from mtquant_rllib.training.algorithm.building import PolicyMapping, build_config
from mtquant_rllib.training.curriculum.phases import JOINT, plan_named
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord

HIDDEN, BATCH = 64, 256
META_NETWORK = "meta"
TURNS = 3
"""RLlib's steps in a bar on which every level decides."""
_RLLIB_ENV = "mtquant_desk_turn_by_turn"


@dataclass(frozen=True)
class Sizes:
    """bars, attention_bars and rllib_bars: of a window of each side; warm_bars: collected before anything is measured;
    repeats: windows a side.
    """

    environments: int = 16
    bars: int = 128
    attention_bars: int = 32
    rllib_bars: int = 8
    warm_bars: int = 384
    repeats: int = 5


def bench_sac(settings: Settings, market: MarketRecord, sizes: Sizes) -> Mapping[str, Any]:
    """The ratio with its raw figures; see the module's docstring."""
    with ray_session(settings, cpus=2):
        manifest, few = _manifest(settings, market, sizes), replace(sizes, bars=sizes.attention_bars)
        sides = {
            "batched": _batched(manifest, sizes),
            "attention": _batched(_manifest(settings, market, few, meta=ATTENTION), few),
            "rllib": _rllib(manifest, sizes),
        }
        windows = interleaved(sides, sizes.repeats)
    batched, attention, rllib = (statistics.median(values) for values in windows.values())
    return {
        "sac_ratio": batched / rllib,
        "sac_attention_ratio": attention / rllib,
        "sac_bars_per_s": windows,
        "sizes": vars(sizes),
        "torch_threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }


def _manifest(settings: Settings, market: MarketRecord, sizes: Sizes, meta: str = META_NETWORK) -> Manifest:
    """Of a run in which both sides are the same size. meta: name of its meta-controller's network."""
    tree = settings.model_dump(mode="json")
    tree["recipe"] |= {"algorithms": ["sac"] * 3, "environments": sizes.environments}
    tree["resources"] |= {"engine": "batched", "runners": 0}
    tree["meta_controller"] |= {"hidden_dim": HIDDEN, "hidden_dim_2": HIDDEN}
    for specialist in tree["specialists"].values():
        specialist["hidden_dim"] = HIDDEN
    tree["networks"]["instrument_hidden"] = [HIDDEN, HIDDEN]
    tree["networks"]["names"]["meta"] = meta
    tree["desk"]["decision"] |= {"meta_every_bars": 1, "specialists_every_bars": 1}
    tree["sac"] |= {
        "batch_size": BATCH,
        "bars_per_gradient_step": 1,
        "rollout_bars": 64,
        "bars_per_iteration": sizes.bars,
        "learning_starts_bars": sizes.warm_bars,
        "learning_starts_frac": 1.0,
    }
    tree["sac"]["critic"]["hidden"] = [HIDDEN, HIDDEN]
    return endless_run(Settings.model_validate(tree), market)


def _batched(manifest: Manifest, sizes: Sizes) -> Callable[[], float]:
    config = build_config(plan_named(manifest.load_settings(), 3, JOINT), manifest, TrialResources(1.0, 1.0, 0.0))
    config.training(validations=0)
    algorithm: Any = config.build_algo()
    while algorithm.bars_sampled < sizes.warm_bars:
        algorithm.training_step()
    return rate(algorithm.training_step, sizes.bars)


def _rllib(manifest: Manifest, sizes: Sizes) -> Callable[[], float]:
    settings = manifest.load_settings()
    register_env(_RLLIB_ENV, desk_env)
    blank: Any = SACConfig()
    config = (
        blank.environment(
            _RLLIB_ENV,
            env_config={
                "data": manifest.market.data,
                "settings": manifest.settings,
                "phase": 3,
                "seed": manifest.seed,
            },
            disable_env_checking=True,
        )
        .env_runners(num_env_runners=0, rollout_fragment_length=TURNS)
        .multi_agent(
            policies=set(settings.universe.agent_ids),
            policy_mapping_fn=PolicyMapping(settings.universe, settings.networks.sharing),
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[HIDDEN, HIDDEN], fcnet_activation="relu"))
        .training(
            train_batch_size_per_learner=BATCH,
            replay_buffer_config={"type": "MultiAgentEpisodeReplayBuffer", "capacity": 100_000},
            num_steps_sampled_before_learning_starts=TURNS * sizes.warm_bars,
        )
        .learners(num_learners=0)
        .debugging(seed=manifest.seed, log_level="ERROR")
    )
    algorithm: Any = config.build_algo()
    for _ in range(sizes.warm_bars + 1):
        algorithm.training_step()
    return rate(algorithm.training_step, sizes.rllib_bars, calls=sizes.rllib_bars)
