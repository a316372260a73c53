"""What the many processes of a training do not load: each library costs every one of them a second and tens of MB."""

from __future__ import annotations

import subprocess
import sys

import pytest

JUDGING = ("matplotlib", "optuna", "plotly", "scipy.optimize", "scipy.signal", "scipy.stats", "wandb")
"""Libraries of statistics, pictures, searches and tracking."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "mtquant_rllib.engine.sampling.runner",  # of a runner
        "mtquant_rllib.training.algorithm.building",  # of a learner, and of a runner once its configuration is read
        "mtquant_rllib.training.curriculum.trial",  # of a trial
        "mtquant_rllib.training.curriculum.driver",  # of the command
    ],
)
def test_a_process_that_trains_loads_no_library_of_what_judges(module: str) -> None:
    check = f"import sys; import {module}; print(*sorted(set({JUDGING}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_orders_at_brokers_need_neither_ray_nor_torch_nor_pandas() -> None:
    modules = ("commands.journal", "serving.execution.brokers.file_drop", "serving.execution.fault_simulation")
    imports = "; ".join(f"import mtquant_rllib.{module}" for module in modules)
    check = f"import sys; {imports}; print(*sorted({{'ray', 'torch', 'pandas', 'scipy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
