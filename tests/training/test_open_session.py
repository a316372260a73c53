"""Training in a Ray session that is open already, as in a notebook or a Tune function: it stays open, and the result is
that of a session of the run's own, to the byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import ray
from ray import tune
from mtquant_rllib import HierarchicalTradingSystem, Settings
from mtquant_rllib.errors import RunError

SMALL = ["embedded.train={paths: 1, years: 3}", "embedded.validation={paths: 1, years: 3}"]
SMALL += ["embedded.test={paths: 1, years: 3}", "desk.episode.bars=30", "recipe.environments=4"]
SMALL += ["recipe.validations=1", "recipe.min_updates=2", "resources.object_store_mb=100"]

def train(name, **how):
    system = HierarchicalTradingSystem(Settings.load(overrides=SMALL))
    system.train(run=sys.argv[1] + "/" + name, budget_scale=0.0002, phase=1, **how)

def inside(config):
    sys.argv = config["words"]
    train("function")
    tune.report({"done": 1})

train("own")
ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100_000_000)
train("notebook")
try:
    train("refused", address="auto")
except RunError as error:
    print("REFUSED", error)
assert ray.is_initialized(), "it is not this run's to end"
config = tune.RunConfig(storage_path=sys.argv[1] + "/outer", verbose=0)
function = tune.with_resources(inside, {"CPU": 1})
grid = tune.Tuner(function, param_space={"words": sys.argv}, run_config=config).fit()
assert not grid.errors, grid.errors
"""


@pytest.mark.ray
@pytest.mark.nightly
def test_a_session_that_is_open_is_trained_in_and_left_open(tmp_path: Path) -> None:
    env = {**os.environ, "MTQUANT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, env=env, timeout=400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("trains in the Ray session that is open in this process") == 2
    assert "REFUSED --address auto: a Ray session is open in this process" in done.stdout
    assert done.stdout.count("3 of 3 CPU: forex (trial 1 CPU)") == 1
    assert done.stdout.count("1.98 of 2 CPU: forex (trial 0.66 CPU)") == 2, "the function keeps the CPU that it holds"
    own, *others = (hashes(tmp_path / name) for name in ("own", "notebook", "function"))
    assert own
    assert others == [own, own]


def hashes(run: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("policies/phase_1/*.npz")}
