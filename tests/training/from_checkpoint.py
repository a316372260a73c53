"""What a person's plain script does with checkpoints that were copied into the folder where it runs.

    python from_checkpoint.py STAGE:TRIAL ...

TRIAL is a folder with the checkpoints `first`, `second` and `last` of a trial. Every stage that comes to its end says
so in a line.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module import MultiRLModule, RLModule

MODULES = "learner_group/learner/rl_module"


def same_modules(algo: Any, checkpoint: Path) -> bool:
    """Whether an algorithm's modules are those of a checkpoint, bit for bit."""
    files = sorted((checkpoint / MODULES).glob("*/module_state.pkl"))
    states = {file.parent.name: pickle.loads(file.read_bytes()) for file in files}
    own = algo.module_states()
    assert own.keys() == states.keys()
    return all(np.array_equal(own[name][key], states[name][key]) for name in own for key in own[name])


def changeable(algo: Any) -> Any:
    return algo.config.copy(copy_frozen=False)


def complaint(call: Callable[[], Any]) -> tuple[str, str]:
    """Name and words of the exception that a call raises; of none, nothing."""
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def goes_on(trial: Path) -> str:
    first, second, last = (trial / name for name in ("first", "second", "last"))
    algo: Any = Algorithm.from_checkpoint(first)
    assert same_modules(algo, first)
    result = algo.train()
    assert same_modules(algo, second), "the run's own next iteration"
    assert not result["done"]
    saved = [Path(algo.save_to_path(trial / name)) for name in ("again", "and_again")]
    result = algo.train()
    assert same_modules(algo, last), "and the one after, which is the last"
    assert result["done"]
    kind, said = complaint(algo.train)
    assert kind == "RunError", "a used budget was trained on"
    assert "training(budget_bars=...)" in said
    assert (Path(algo.logdir) / "modules" / "last").is_dir()

    for path in saved:
        other = changeable(algo).build_algo()
        other.restore_from_path(path)
        other.train()
        assert same_modules(other, last), "what a plain script saved goes on alike"
        other.stop()
    reads_modules(algo, last)
    takes_more(algo, first, second, last)
    algo.stop()
    return ""


def reads_modules(algo: Any, checkpoint: Path) -> None:
    """One alone and all together decide as the algorithm's own."""
    module = RLModule.from_checkpoint(checkpoint / MODULES / "EURUSD")
    seen = {"obs": torch.from_numpy(module.observation_space.sample()[None]).nan_to_num(0.0)}
    decided = module.forward_inference(seen)["action_dist_inputs"]
    several = MultiRLModule.from_checkpoint(checkpoint / MODULES)
    assert torch.equal(several["EURUSD"].forward_inference(seen)["action_dist_inputs"], decided)
    assert torch.equal(algo.get_module("EURUSD").forward_inference(seen)["action_dist_inputs"], decided)


def takes_more(algo: Any, first: Path, second: Path, last: Path) -> None:
    """More bars than the run had, and three times its rates."""
    config = changeable(algo)
    config.training(budget_bars=config.trial.budget_bars + 50)
    longer: Any = Algorithm.from_checkpoint(last, config=config)
    result = longer.train()
    assert result["bars_sampled_lifetime"] > algo.bars_sampled
    assert result["bars_budget"] == algo.bars_sampled + 50
    longer.stop()

    config = changeable(algo)
    for setting in config.rate_names:
        config.training(**{setting: 3 * getattr(config, setting)})
    faster, slower = (Algorithm.from_checkpoint(first, **how) for how in ({"config": config}, {}))
    rates = [own.train()["learners"]["EURUSD"] for own in (faster, slower)]
    assert not same_modules(faster, second), "another rate, other weights"
    names = [name for name in rates[0] if name.endswith("learning_rate") and name in rates[1]]
    assert names
    for name in names:
        assert abs(rates[0][name] / rates[1][name] - 3.0) < 1e-6, name
    faster.stop()
    slower.stop()


def refused(trial: Path) -> str:
    first = trial / "first"
    started: Any = Algorithm.from_checkpoint(first)
    for changes, word in (({"use_gae": False}, "lambda_"), ({"train_batch_size": 7}, "train_batch_size_per_learner")):
        changed = partial(changeable(started).training, **changes)
        kind, said = complaint(lambda changed=changed: Algorithm.from_checkpoint(first, config=changed()))
        assert kind == "ConfigError", changes
        assert word in said

    config = changeable(started).training(train_batch_size_per_learner=10, minibatch_size=10, gamma=0.5)
    other: Any = Algorithm.from_checkpoint(first, config=config)
    before = other.bars_sampled
    other.train()
    assert other.bars_sampled == before + 10
    other.stop()

    config = changeable(started).multi_agent(policies_to_train=["EURUSD"])
    config.rl_module(algorithm_config_overrides_per_module={"EURUSD": {"lr": 1e-6}})
    alone: Any = Algorithm.from_checkpoint(first, config=config)
    begun = alone.module_states()
    result = alone.train()
    ended = alone.module_states()
    same = {name: [np.array_equal(own[key], ended[name][key]) for key in own] for name, own in begun.items()}
    assert {name for name, parts in same.items() if not all(parts)} == {"EURUSD"}
    assert 0 < result["learners"]["EURUSD"]["default_optimizer_learning_rate"] <= 1e-6
    alone.stop()
    started.stop()
    return ""


def in_several_processes(trial: Path) -> str:
    first = trial / "first"
    started: Any = Algorithm.from_checkpoint(first)
    config = changeable(started)
    started.stop()
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=2, num_cpus_per_env_runner=0.25).evaluation(
        evaluation_num_env_runners=1,
        evaluation_duration=4,
        evaluation_config={"explore": False, "env_config": {**config.env_config, "split": "validation"}},
    )
    algo: Any = Algorithm.from_checkpoint(first, config=config)
    algo.train()
    states = algo.module_states()
    weights = {name: sum(float(np.abs(part).sum()) for part in own.values()) for name, own in states.items()}
    played = algo.evaluate()["env_runners"]
    assert played["num_episodes"] >= 4
    assert played["episode_len_mean"] == 30
    (actor,) = algo.eval_env_runner_group._worker_manager.actors().values()
    os.kill(ray.get(actor.__ray_call__.remote(lambda runner: os.getpid())), signal.SIGKILL)
    deadline = time.monotonic() + 90
    while algo.evaluate()["env_runners"].get("num_episodes", 0) < 4:
        assert time.monotonic() < deadline, "the killed runner never came back"
        time.sleep(1)
    assert algo.train()["bars_sampled_lifetime"] == algo.bars_sampled
    algo.stop()
    return str(sorted(weights.items()))


STAGES = {stage.__name__: stage for stage in (goes_on, refused, in_several_processes)}


def main(words: list[str]) -> None:
    print("THREADS", torch.get_num_threads())
    for word in words:
        stage, trial = word.split(":")
        try:
            print("DONE", word, STAGES[stage](Path.cwd() / trial), flush=True)
        except Exception:
            traceback.print_exc()


if __name__ == "__main__":
    main(sys.argv[1:])
