"""CPU, GPU and memory utilisation of a trial: `system/...` of its results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mtquant_rllib.engine.process_use import ProcessUse, process_use
from mtquant_rllib.training.result_keys import SYSTEM

Uses = Mapping[str, ProcessUse]
"""By process of the trial: `trial`, `runner 1`, `learner 0` and so on."""


class Utilization:
    """Figures of the processes of one trial, from one result to the next.

    cpus: that the trial holds. uses: of the processes that are there now; others count from their own beginning.
    """

    def __init__(self, cpus: float, uses: Uses) -> None:
        self._cpus = cpus
        self._cpu_s = {name: use.cpu_s for name, use in uses.items()}
        self._since = time.monotonic()

    def take(self, uses: Uses) -> dict[str, float]:
        """The figures since the last call.

        cpu_percent: CPU time of all processes, of the time that the CPUs held have had. More than 100 is possible: Ray
        shares CPUs out and does not fence them off. memory_gb: sum of the peaks of the processes' resident memory.
        gpu_percent: mean over the GPUs that its learners use of the time in which each ran a kernel, of whichever
        process. gpu_memory_gb: the most memory taken on one of them. The last two only where there is a GPU.
        """
        now = time.monotonic()
        # A process that was started again counts from its own beginning.
        busy = sum(
            use.cpu_s - before if use.cpu_s >= (before := self._cpu_s.get(name, 0.0)) else use.cpu_s
            for name, use in uses.items()
        )
        figures = {
            "cpu_percent": 100 * busy / max((now - self._since) * self._cpus, 1e-9),
            "memory_gb": sum(use.peak_memory_gb for use in uses.values()),
        }
        # Several learners may share one.
        gpus = {use.gpu.uuid: use.gpu for use in uses.values() if use.gpu is not None}
        if gpus:
            figures["gpu_percent"] = sum(gpu.percent for gpu in gpus.values()) / len(gpus)
            figures["gpu_memory_gb"] = max(gpu.memory_gb for gpu in gpus.values())
        self._cpu_s |= {name: use.cpu_s for name, use in uses.items()}
        self._since = now
        return figures


def cpus_held(config: Any) -> float:
    """CPUs that the processes of an algorithm ask Ray for, by its configuration."""
    learners = config.num_learners or 0
    per_learner = config.num_cpus_per_learner
    of_learners = learners * (1.0 if per_learner == "auto" else float(per_learner)) if learners else 0.0
    own = config.num_cpus_for_main_process
    if not learners and per_learner != "auto":
        # A local learner works in the algorithm's own process.
        own = max(own, per_learner)
    return float(own + config.num_env_runners * config.num_cpus_per_env_runner + of_learners)


def columns(result: Mapping[str, Any]) -> dict[str, float]:
    """`system/NAME` -> figure of a result."""
    return {f"{SYSTEM}/{name}": value for name, value in result.get(SYSTEM, {}).items()}


def learner_use(learner: Any) -> ProcessUse:
    """Use of an RLlib learner's process, and of the device that its modules are on."""
    parameter = next(one for _, module in learner.module.items() for one in module.parameters())
    return process_use(parameter.device)
