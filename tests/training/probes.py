"""Scripts that hold a trial in a fresh interpreter, as a user would start it: string hashes salted anew, own Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TINY = [
    "embedded.train={paths: 2, years: 3}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
    "desk.episode.bars=20",
    "recipe.environments=4",
    "recipe.min_updates=1",
    "recipe.validations=2",
]

_OPENING = """
import hashlib, os, pickle, signal, sys, threading, time
from pathlib import Path
from mtquant_rllib.training.session.process_variables import reexec_with_variables
reexec_with_variables()
import numpy as np, ray, tree
from mtquant_rllib.config import Settings
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest, TrialRecord
from mtquant_rllib.training.records.manifest_file import is_run
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.session.process_variables import PROCESS_VARIABLES
from mtquant_rllib.training.curriculum.trial import PhaseTrial

run, what, overrides = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
settings = Settings.load(overrides=overrides)
ray.init(address="local", num_cpus=settings.resources.cpus, include_dashboard=False, log_to_driver=False,
         object_store_memory=100 * 2**20, runtime_env={"env_vars": PROCESS_VARIABLES})

def begin(phase, name, budget, start=None):
    if is_run(run):
        manifest = Manifest.read(run)
    else:
        manifest = Manifest.begin("probe", settings, prepare(settings, None, None), 1.0, [phase])
    manifest.phase(phase).trials[name] = TrialRecord(budget_bars=budget)
    manifest.phase(phase).start = start
    manifest.write(run)

def trial(phase, name, cpus):
    resources = {"cpus": cpus, "runner_cpus": cpus / 3, "gpus": 0.0, "learner_cpus": cpus / 3}
    config = {"run": str(run), "phase": phase, "trial": name, "nodes": {}, "resources": resources}
    return PhaseTrial(config).algorithm
"""


def started(folder: Path, script: str, what: str, *overrides: str) -> subprocess.Popen[str]:
    """The script, which finds `run`, `what`, `settings`, `begin` and `trial`, and prints a line that says RESULT."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}
    env |= {"MTQUANT_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", _OPENING + script, str(folder), what, *TINY, *overrides],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=400)
    lines = [line for line in out.splitlines() if line.startswith("RESULT")]
    assert lines, f"{out[-2000:]}\n{err[-4000:]}"
    return lines[0]
