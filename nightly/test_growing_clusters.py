"""Clusters whose autoscaler starts the nodes that a phase was placed on, and starts them again where one is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import runs
from clusters import LOSSES, STORE_MB, TRIALS, nodes_alive, processes_placed
from processes import below, kill
from table import TABLE, Row

from mtquant_rllib.training.session.ray_start import join_cluster

WORKER_CPUS, WORKERS = 4, 2
PORT = 6391


def fake_cloud(address: str, head_cpus: int) -> dict[str, Any]:
    """A cluster file whose provider starts nodes as processes of this machine; Ray's wheel lacks its own example."""
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    worker = {"CPU": WORKER_CPUS, "object_store_memory": STORE_MB * 2**20}
    return {
        "cluster_name": "fake",
        "max_workers": WORKERS,
        "idle_timeout_minutes": 1,
        "provider": {
            "type": "external",
            "module": "spot_cloud.SpotCloud",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        # The provider's own name of its head.
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": WORKERS},
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{kind}_commands": [] for kind in commands},
    }


@dataclass
class Cloud:
    """A head whose autoscaler may start workers, and that this process has joined."""

    address: str
    head: int

    def lose_a_worker(self) -> None:
        """SIGKILL the raylet of a worker, of one with processes of trials where there is one."""
        workers = {str(node.id) for node in nodes_alive()[1:]}
        busy = sorted(workers & {node for node, _ in processes_placed()})
        node = (busy or sorted(workers))[0]
        (raylet,) = [pid for pid, args in below(self.head) if "raylet/raylet" in args.split()[0] and node in args]
        kill(raylet, signal.SIGKILL)


@pytest.fixture
def cloud(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """Its head has two CPUs, or as many as a test asks for."""
    head_cpus = getattr(request, "param", 2)
    address = f"{ray.util.get_node_ip_address()}:{PORT}"
    (tmp_path / "cloud.json").write_text(json.dumps(fake_cloud(address, head_cpus)))
    temporary = Path(f"/tmp/mtqa{os.getpid()}")
    words = [
        "start",
        "--head",
        f"--port={PORT}",
        f"--num-cpus={head_cpus}",
        f"--object-store-memory={STORE_MB * 2**20}",
    ]
    words += ["--include-dashboard=false", "--block", f"--autoscaling-config={tmp_path / 'cloud.json'}"]
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONPATH": str(Path(__file__).parent)}
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        env={**os.environ, "RAY_TMPDIR": str(temporary), **fake},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = runs.listening(head)
    try:
        assert said.says("command will now block"), said.text
        join_cluster(address, log_to_driver=False)
        yield Cloud(address, head.pid)
    finally:
        ray.shutdown()
        for pid, _ in [*below(head.pid), (head.pid, "")]:
            kill(pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize("loses", LOSSES, ids=LOSSES.get)
def test_an_autoscaler_starts_the_nodes_that_the_phase_was_placed_on(
    tmp_path: Path, reference: Callable[..., Path], cloud: Cloud, loses: int
) -> None:
    """Nine processes would share the head's two CPUs; they get one CPU each on workers that come, and come again."""
    kinds = f"resources.worker_types=[{{cpus: {WORKER_CPUS}, max_workers: {WORKERS}}}]"
    words = runs.settings("resources.runners=2", kinds, small=runs.ON_CLUSTER)
    where = ("--address", cloud.address)
    driver = runs.command(tmp_path, "train", "--run", "x", "--budget-scale", runs.SCALE, *where, *words)
    assert driver.says("waits for 2 nodes with 4 CPU to be started"), driver.text
    for phase, trials in TRIALS.items():
        assert driver.says(f"phase {phase} {trials[0]}  "), driver.text[-3000:]
        if phase == loses:
            time.sleep(random.Random(phase).uniform(0.0, 1.0))
            cloud.lose_a_worker()
    code = driver.end()
    placed = [line.strip() for line in driver.lines if line.startswith("phase 1 on")]
    differing = len(runs.differences(reference("resources.runners=2"), tmp_path / "runs" / "x")) if code == 0 else None
    said = (line.strip() for line in driver.lines if "a node is lost" in line)
    seen, lost = next(said, "its trials were elsewhere") if loses else " | ".join(placed), runs.bars_lost(tmp_path)
    name = f"cluster of a head of 2 CPUs that grows, {LOSSES[loses]}"
    TABLE.add(Row(name, code == 0, code, seen, differing, lost if loses else None))
    assert code == 0, driver.text[-4000:]
    assert len(placed) >= 1 + WORKERS, placed
    assert sum("2 runners of 1 CPU" in line for line in placed[: 1 + WORKERS]) == 2, placed
    assert not differing


@pytest.mark.parametrize("cloud", [0], indirect=True, ids=["head of 0"])
def test_a_head_without_cpus_drives_and_its_workers_train(
    tmp_path: Path, reference: Callable[..., Path], cloud: Cloud
) -> None:
    """As the shipped cluster files have it: no worker is there when the run begins."""
    kinds = f"resources.worker_types=[{{cpus: {WORKER_CPUS}, max_workers: {WORKERS}}}]"
    words = runs.settings("resources.runners=2", kinds, small=runs.ON_CLUSTER)
    where = ("--address", cloud.address)
    doctor = runs.command(tmp_path, "doctor", *where, *words)
    assert doctor.end() == 0, doctor.text
    driver = runs.command(tmp_path, "train", "--run", "x", "--budget-scale", runs.SCALE, *where, *words)
    code = driver.end()
    differing = len(runs.differences(reference("resources.runners=2"), tmp_path / "runs" / "x")) if code == 0 else None
    seen = next((line.strip() for line in driver.lines if "to be started by the autoscaler" in line), "")
    TABLE.add(Row("cluster of a head of 0 CPUs that grows", code == 0, code, seen, differing))
    assert code == 0, driver.text[-4000:]
    assert not differing
    assert not any(line.startswith("phase 1 on") and " of 0 CPU" in line for line in driver.lines), driver.text
