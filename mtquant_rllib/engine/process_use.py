"""Resource use of a process of a trial: CPU time, memory, and the GPU that it learns on."""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch

logger = logging.getLogger(__name__)

READ_EVERY_S = 0.5
"""Between two readings of a GPU: a reading covers only the last fraction of a second."""
_GB = 1e9


@dataclass(frozen=True)
class GpuUse:
    """The use of one GPU by all processes since the last call.

    uuid: NVML's id. percent: of time with a kernel running, mean over readings. memory_gb: the most memory in use at a
    reading.
    """

    uuid: str
    percent: float
    memory_gb: float


@dataclass(frozen=True)
class ProcessUse:
    """cpu_s: CPU seconds of all threads since the process began. peak_memory_gb: the most resident memory so far. gpu:
    the GPU that it learns on, None without one."""

    cpu_s: float
    peak_memory_gb: float
    gpu: GpuUse | None = None


class GpuWatch:
    """Reads one GPU every half second, in a thread of its own, as long as the process lives.

    device: CUDA's number of it in this process; None for the current one. Raises pynvml.NVMLError where the driver does
    not answer.
    """

    def __init__(self, device: int | None = None) -> None:
        import pynvml

        self._nvml: Any = pynvml
        pynvml.nvmlInit()
        # By UUID, because CUDA numbers only the devices visible to the process.
        self.uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
        self._lock, self._readings = threading.Lock(), list[tuple[float, float]]()
        self._read()
        threading.Thread(target=self._watch, name="gpu_watch", daemon=True).start()

    def _read(self) -> None:
        percent = float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        memory_gb = self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used / _GB
        with self._lock:
            self._readings.append((percent, memory_gb))

    def _watch(self) -> None:
        while True:
            time.sleep(READ_EVERY_S)
            try:
                self._read()
            except self._nvml.NVMLError as error:
                logger.warning("the use of %s is read no more: %s", self.uuid, error)
                return

    def take(self) -> GpuUse | None:
        """The use since the last call; None where nothing was read."""
        with self._lock:
            readings, self._readings = self._readings, []
        if not readings:
            return None
        percent, memory_gb = zip(*readings)
        return GpuUse(self.uuid, sum(percent) / len(percent), max(memory_gb))


_watches: dict[int | None, GpuWatch | None] = {}
"""By device of this process; None for one that cannot be read."""


def process_use(device: torch.device | str = "cpu") -> ProcessUse:
    """What this process has used until now. device: the one that it learns on."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return ProcessUse(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / _GB, _gpu_use(torch.device(device)))


def _gpu_use(device: torch.device) -> GpuUse | None:
    if device.type != "cuda":
        return None
    if device.index not in _watches:
        try:
            _watches[device.index] = GpuWatch(device.index)
        except Exception as error:
            # NVML has a dozen errors, and is missing from some machines that have CUDA.
            logger.warning("the use of %s is not measured: %s", device, error)
            _watches[device.index] = None
    watch = _watches[device.index]
    return None if watch is None else watch.take()
