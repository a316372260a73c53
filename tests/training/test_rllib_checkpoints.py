"""A checkpoint of a run is one of RLlib's: copied alone into an empty folder, opened there by a plain script.

The scripts are what a user would write: no variable is set, string hashes are salted anew, torch has as many threads as
it likes. What they learn has to be what the run itself learned.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OVERRIDES = [
    "embedded.train={paths: 2, years: 3}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
    "desk.episode.bars=30",
    "recipe.environments=4",
    "recipe.validations=4",
    "recipe.min_updates=4",
    "resources.cpus=2",
    "tracking.progress_seconds=0",
    "recipe.algorithms=[sac, ppo, ppo]",
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=16",
    "sac.bars_per_update=4",
    "sac.bars_per_round=20",
    "sac.learning_starts_bars=40",
]

OPENING = """
import os, pickle, signal, sys, time
from pathlib import Path

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module import MultiRLModule, RLModule

MODULES = "learner_group/learner/rl_module"
first, second, last = (Path.cwd() / name for name in ("first", "second", "last"))


def there(algo, checkpoint):
    "Whether an algorithm's modules are those of a checkpoint, bit for bit."
    files = sorted((checkpoint / MODULES).glob("*/module_state.pkl"))
    states = {file.parent.name: pickle.loads(file.read_bytes()) for file in files}
    own = algo.module_states()
    assert own.keys() == states.keys()
    return all(np.array_equal(own[name][key], states[name][key]) for name in own for key in own[name])


def changeable(algo):
    return algo.config.copy(copy_frozen=False)


"""

GOES_ON = """
if __name__ == "__main__":
    assert torch.get_num_threads() == int(sys.argv[1]), "a plain script"
    algo = Algorithm.from_checkpoint(first)
    assert there(algo, first)
    result = algo.train()
    assert there(algo, second) and not result["done"], "the run's own next iteration"
    saved = [Path(algo.save_to_path(Path.cwd() / name)) for name in ("again", "and_again")]
    result = algo.train()
    assert there(algo, last) and result["done"], "and the one after, which is the last"
    try:
        algo.train()
        raise SystemExit("a used budget was trained on")
    except Exception as error:
        assert type(error).__name__ == "RunError" and "training(budget_bars=...)" in str(error), error
    assert (Path(algo.logdir) / "modules" / "last").is_dir()

    for path in saved:
        other = changeable(algo).build_algo()
        other.restore_from_path(path)
        other.train()
        assert there(other, last), "what a plain script saved goes on alike"
        other.stop()

    name = "EURUSD"
    module = RLModule.from_checkpoint(last / MODULES / name)
    seen = {"obs": torch.from_numpy(module.observation_space.sample()[None]).nan_to_num(0.0)}
    decided = module.forward_inference(seen)["action_dist_inputs"]
    several = MultiRLModule.from_checkpoint(last / MODULES)
    assert torch.equal(several[name].forward_inference(seen)["action_dist_inputs"], decided)
    assert torch.equal(algo.get_module(name).forward_inference(seen)["action_dist_inputs"], decided)

    config = changeable(algo)
    config.training(budget_bars=config.trial.budget_bars + 50)
    longer = Algorithm.from_checkpoint(last, config=config)
    result = longer.train()
    assert result["bars_sampled_lifetime"] > algo.bars_sampled and result["bars_budget"] == algo.bars_sampled + 50
    longer.stop()

    config = changeable(algo)
    for setting in config.rate_names:
        config.training(**{setting: 3 * getattr(config, setting)})
    faster = Algorithm.from_checkpoint(first, config=config)
    result = faster.train()
    assert not there(faster, second), "another rate, other weights"
    told = {key: rate for key, rate in result["learners"][name].items() if key.endswith("learning_rate")}
    slower = Algorithm.from_checkpoint(first)
    for key, rate in slower.train()["learners"][name].items():
        if key in told:
            assert abs(told[key] / rate - 3.0) < 1e-6, (key, rate, told[key])
    assert told
    faster.stop()
    slower.stop()
    algo.stop()
    print("RESULT")
"""

IN_SEVERAL_PROCESSES = """
if __name__ == "__main__":
    started = Algorithm.from_checkpoint(first)
    config = changeable(started)
    started.stop()
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=2, num_cpus_per_env_runner=0.25).evaluation(
        evaluation_num_env_runners=1,
        evaluation_duration=4,
        evaluation_config={"explore": False, "env_config": {**config.env_config, "split": "validation"}},
    )
    algo = Algorithm.from_checkpoint(first, config=config)
    algo.train()
    states = algo.module_states()
    weights = {name: sum(float(np.abs(part).sum()) for part in own.values()) for name, own in states.items()}
    played = algo.evaluate()["env_runners"]
    assert played["num_episodes"] >= 4 and played["episode_len_mean"] == 30, played
    (actor,) = algo.eval_env_runner_group._worker_manager.actors().values()
    os.kill(ray.get(actor.__ray_call__.remote(lambda runner: os.getpid())), signal.SIGKILL)
    deadline = time.monotonic() + 90
    while True:
        again = algo.evaluate()["env_runners"]
        if again.get("num_episodes", 0) >= 4:
            break
        assert time.monotonic() < deadline, "the killed runner never came back"
        time.sleep(1)
    assert algo.train()["bars_sampled_lifetime"] == algo.bars_sampled
    print("RESULT", sorted(weights.items()))
    algo.stop()
"""

REFUSED = """
if __name__ == "__main__":
    started = Algorithm.from_checkpoint(first)
    for changes, word in (({"use_gae": False}, "lambda_"), ({"train_batch_size": 7}, "train_batch_size_per_learner")):
        try:
            Algorithm.from_checkpoint(first, config=changeable(started).training(**changes))
            raise SystemExit(f"{changes} was taken")
        except Exception as error:
            assert type(error).__name__ == "ConfigError" and word in str(error), error

    config = changeable(started).training(train_batch_size_per_learner=10, minibatch_size=10, gamma=0.5)
    other = Algorithm.from_checkpoint(first, config=config)
    before = other.bars_sampled
    other.train()
    assert other.bars_sampled == before + 10

    config = changeable(started).multi_agent(policies_to_train=["EURUSD"])
    config.rl_module(algorithm_config_overrides_per_module={"EURUSD": {"lr": 1e-6}})
    alone = Algorithm.from_checkpoint(first, config=config)
    begun = alone.module_states()
    result = alone.train()
    ended = alone.module_states()
    same = {name: [np.array_equal(own[key], ended[name][key]) for key in own] for name, own in begun.items()}
    changed = {name for name, parts in same.items() if not all(parts)}
    assert changed == {"EURUSD"}, changed
    rate = result["learners"]["EURUSD"]["default_optimizer_learning_rate"]
    assert 0 < rate <= 1e-6, rate
    print("RESULT")
"""


def plain(folder: Path, script: str, *arguments: str, hash_seed: str | None = None) -> str:
    """What a script prints, run in a folder that holds nothing but checkpoints."""
    (folder / "script.py").write_text(OPENING + script)
    dropped = ("PYTHONHASHSEED", "MTQUANT_CACHE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    env = {key: value for key, value in os.environ.items() if key not in dropped}
    # Ray joins whatever cluster it finds on the machine otherwise.
    env["RAY_ADDRESS"] = "local"
    env |= {"HOME": str(folder)} | ({} if hash_seed is None else {"PYTHONHASHSEED": hash_seed})
    done = subprocess.run(
        [sys.executable, "script.py", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-5000:]}"
    assert lines, done.stdout[-2000:]
    for told in ("new API stack", "DeprecationWarning"):
        assert told not in done.stdout + done.stderr
    return lines[0]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run: SAC in phase 1, PPO afterwards."""
    folder = tmp_path_factory.mktemp("trained")
    words = [word for override in OVERRIDES for word in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "mtquant_rllib.cli", "train", "--run", "run", "--budget-scale", "0.0004", *words],
        cwd=folder,
        env={**os.environ, "MTQUANT_CACHE": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "runs" / "run"


def copied(trained: Path, trial: str, folder: Path) -> Path:
    """The last three checkpoints of a trial, and nothing else."""
    folder.mkdir()
    for name, source in zip(
        ("first", "second", "last"), sorted((trained / trial).glob("checkpoint_*"))[-3:], strict=True
    ):
        shutil.copytree(source, folder / name)
    return folder


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("trial", ["phase_1/forex", "phase_3/desk"])
def test_a_copied_checkpoint_trains_on_as_the_run_did(trained: Path, tmp_path: Path, trial: str) -> None:
    folder, before = copied(trained, trial, tmp_path / "alone"), files(trained)
    checkpoints = {name: files(folder / name) for name in ("first", "second", "last")}
    plain(folder, GOES_ON, str(os.cpu_count()))
    assert files(trained) == before, "the run that it came from is left alone"
    assert {name: files(folder / name) for name in checkpoints} == checkpoints


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("trial", ["phase_1/forex", "phase_3/desk"])
def test_runners_in_other_processes_sample_and_evaluate_the_same_whatever_the_hashes(
    trained: Path, tmp_path: Path, trial: str
) -> None:
    folder, before = copied(trained, trial, tmp_path / "alone"), files(trained)
    results = [plain(folder, IN_SEVERAL_PROCESSES, hash_seed=seed) for seed in ("1", "2")]
    assert results[0] == results[1]
    assert files(trained) == before


@pytest.mark.ray
@pytest.mark.slow
def test_a_changed_configuration_takes_effect_or_is_refused(trained: Path, tmp_path: Path) -> None:
    plain(copied(trained, "phase_3/desk", tmp_path / "alone"), REFUSED)
