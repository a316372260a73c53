"""What a trial says of the machine that it holds: CPU time against the CPUs held, and GPUs as NVML reads them."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.tune.result import TIME_THIS_ITER_S

from mtquant_rllib.config import Settings
from mtquant_rllib.engine import process_use as uses
from mtquant_rllib.engine.process_use import GpuUse, ProcessUse, process_use
from mtquant_rllib.training.algorithm.utilization import Utilization, cpus_held
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import placed
from mtquant_rllib.training.reporting.utilization_line import UtilizationLine


@pytest.mark.slow
def test_a_process_that_computes_uses_a_cpu_and_one_that_sleeps_none() -> None:
    program = (
        "import time\nfrom mtquant_rllib.engine.process_use import process_use\n"
        "before = process_use().cpu_s; time.sleep(0.5); slept = process_use().cpu_s\n"
        "until = time.process_time() + 0.5\nwhile time.process_time() < until: pass\n"
        "computed = process_use().cpu_s\n"
        # Memory after the time: a machine short of it may take long to give it.
        "held = bytearray(300_000_000)\nfor place in range(0, len(held), 4096): held[place] = 1\n"
        "print(slept - before, computed - slept, process_use().peak_memory_gb)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    sleeping, computing, memory_gb = map(float, said.split())
    assert sleeping < 0.1
    assert computing == pytest.approx(0.5, abs=0.3)
    # A process begins with the peak of the one that it came from, here all that the tests have loaded.
    assert 0.3 < memory_gb < 16.0


def test_cpu_time_is_set_against_the_cpus_held(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    trial = Utilization(4.0, {"trial": ProcessUse(50.0, 1.0)})
    now[0] += 10.0
    figures = trial.take({"trial": ProcessUse(55.0, 1.5), "runner 1": ProcessUse(9.0, 0.5)})
    assert figures == {"cpu_percent": 100 * (5 + 9) / 40, "memory_gb": 2.0}
    now[0] += 10.0
    figures = trial.take({"trial": ProcessUse(65.0, 1.5), "runner 1": ProcessUse(2.0, 0.4)})
    assert figures["cpu_percent"] == 100 * (10 + 2) / 40, "a runner that was started again counts from its beginning"


def test_a_gpu_that_learners_share_counts_once() -> None:
    first, second = GpuUse("GPU-a", 80.0, 10.0), GpuUse("GPU-b", 20.0, 30.0)
    learners = {
        "learner 0": ProcessUse(0.0, 1.0, first),
        "learner 1": ProcessUse(0.0, 1.0, first),
        "learner 2": ProcessUse(0.0, 1.0, second),
    }
    figures = Utilization(3.0, {}).take(learners)
    assert (figures["gpu_percent"], figures["gpu_memory_gb"]) == (50.0, 30.0)


def test_what_is_held_is_what_ray_is_asked_for() -> None:
    def held(**changes: Any) -> float:
        asked = {"num_cpus_for_main_process": 0.5, "num_cpus_per_env_runner": 0.75, "num_env_runners": 0}
        return cpus_held(SimpleNamespace(**{**asked, "num_learners": 0, "num_cpus_per_learner": "auto", **changes}))

    assert held() == 0.5
    assert held(num_env_runners=2) == 2.0
    assert held(num_env_runners=2, num_learners=2, num_cpus_per_learner=1.25) == 4.5


class Driver:
    """NVML as far as it is read, telling of one GPU what it is told to."""

    class NVMLError(Exception):
        pass

    def __init__(self, percents: list[int]) -> None:
        self.percents, self.asked = percents, list[str]()

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        if not self.percents:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(gpu=self.percents.pop(0))

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=3 * 10**9)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver([10, 20, 60])
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"of-{device}"))
    monkeypatch.setattr(uses, "READ_EVERY_S", 0.01)
    monkeypatch.setattr(uses, "_watches", {})
    return driver


def test_a_gpu_is_read_all_along_until_its_driver_is_gone(one_gpu: Driver) -> None:
    first = process_use("cuda:0").gpu
    assert first is not None
    assert one_gpu.asked == ["GPU-of-0"], "by its own name: CUDA numbers those that it is let see"
    deadline = time.monotonic() + 10
    while one_gpu.percents and time.monotonic() < deadline:
        time.sleep(0.01)
    second = process_use("cuda:0").gpu
    readings = [first.percent] if second is None else [first.percent, second.percent]
    assert 10 <= min(readings) <= max(readings) <= 60
    assert first.memory_gb == 3.0
    assert process_use("cuda:0").gpu is None, "nothing was read since"


def test_without_a_driver_training_goes_on_without_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses, "_watches", {})
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert process_use("cuda:0").gpu is None
    assert process_use("cpu").gpu is None


def line_of(*results: dict[str, Any]) -> str:
    resources = Settings.load(overrides=["resources.cpus=2"]).resources
    told: list[str] = []
    line = UtilizationLine(2, placed(resources, 2, ["desk"], [Node("here", 2.0, 1.0, id="x")]), 80.0, told.append)
    for number, result in enumerate(results):
        line.on_trial_result(number, [], None, result)
    line.on_experiment_end([])
    return told[0] if told else ""


def result_of(seconds: float, sampling: float, learning: float, validation: float, **system: float) -> dict[str, Any]:
    parts = {"sampling_s": sampling, "learning_s": learning, "validation_s": validation}
    return {TIME_THIS_ITER_S: seconds, **parts, "system": {"cpu_percent": 50.0, **system}}


def test_a_phase_says_how_busy_it_was_weighted_by_time() -> None:
    said = line_of(
        result_of(10, 5, 4, 1), {**result_of(30, 15, 12, 3), "system": {"cpu_percent": 90.0}}, result_of(0, 0, 0, 0)
    )
    assert said == "phase 2 kept 1.6 of 2 CPUs busy (80%): of the time sampling 50%, learning 40%, validation 10%"
    assert line_of() == "", "nothing was trained"
    assert "sampling 0%" in line_of(result_of(1, float("nan"), float("nan"), 0)), "a trial that failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "cure"),
    [((7, 2, 1), "resources.runners"), ((1, 8, 1), "processes_per_gpu"), ((1, 1, 8), "recipe.validations")],
)
def test_an_idle_gpu_has_its_reason_named(parts: tuple[float, float, float], cure: str) -> None:
    said = line_of(result_of(10, *parts, gpu_percent=35.0))
    assert "GPUs 35%, less than 80%" in said
    assert cure in said
    assert line_of(result_of(10, *parts, gpu_percent=85.0)).endswith("GPUs 85%")
