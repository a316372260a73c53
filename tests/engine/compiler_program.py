"""A process that trains by PPO and by SAC with a remote runner, and says where torch's compiler was loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import ray
import torch
from small_runs import SMALL_MARKET, SMALL_SAC

from mtquant_rllib.config import Settings
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.curriculum.phases import plan_named
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.records.manifest import Manifest, TrialRecord

COMPILER = ("torch._dynamo", "torch._inductor")
SMALL = (*SMALL_MARKET, "desk.episode.bars=20", "recipe.environments=4", "recipe.validations=1", "resources.runners=1")


def loaded() -> list[str]:
    return [name for name in COMPILER if name in sys.modules]


def train(name: str, *overrides: str) -> None:
    settings = Settings.load(overrides=[*SMALL, *overrides])
    manifest = Manifest.begin("compiler", settings, prepare(settings, None, None), 1.0, [1])
    manifest.phase(1).trials[name] = TrialRecord(budget_bars=1000)
    config = build_config(plan_named(settings, 1, name), manifest, TrialResources(0.5, 0.5, 0.0))
    algorithm = config.algo_class(config=config)
    algorithm.train()
    checkpoint = Path(sys.argv[1]) / name
    algorithm.save_to_path(checkpoint)
    algorithm.restore_from_path(checkpoint)
    algorithm.train()
    found = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules],
        local_env_runner=False,
    )
    print(f"{name}: runners {found} trial {loaded()} mode {torch.get_deterministic_debug_mode()}")
    algorithm.stop()


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    train("forex")
    train("equity", "recipe.algorithms=[sac, ppo, ppo]", *SMALL_SAC)
