"""Clusters of several nodes: trials are placed as it was said, and where a node is lost they go on elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import runs
from attempts import TRIES, patched
from processes import Node as OtherNode
from processes import below, kill, may_hide
from ray._private import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from table import TABLE, Row

from mtquant_rllib.config import Settings
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import placed
from mtquant_rllib.training.session.ray_start import join_cluster

STORE_MB = 100
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
PROCESSES = {"PhaseTrial": "trial", "BatchedEnvRunner": "runner", "_WrappedExecutable": "learner"}
"""Ray's names of the processes of a trial, and the planner's."""
LOSSES = {0: "whole", **{phase: f"a node lost in phase {phase}" for phase in (1, 2, 3)}}
TRIALS = {1: ("forex", "commodities", "equity"), 2: ("desk",), 3: ("desk",)}


class Machines:
    """A Ray cluster of nodes with (CPUs, GPUs) on this machine."""

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        from ray.cluster_utils import Cluster

        asked: list[dict[str, Any]] = [
            {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": STORE_MB * 2**20} for cpus, gpus in sizes
        ]
        self.cluster = Cluster(initialize_head=True, head_node_args=asked[0], connect=True)
        self.others = [self.cluster.add_node(**one) for one in asked[1:]]
        self.cluster.wait_for_nodes()


def nodes_alive() -> list[Node]:
    """Those of the cluster that this process has joined, the head first."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=_head_first)
    return [
        Node(node["NodeID"], node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0), id=node["NodeID"])
        for node in alive
    ]


def processes_placed() -> Counter[tuple[str, str]]:
    """(node, kind) of the processes of trials that are alive on it."""
    found: Counter[tuple[str, str]] = Counter()
    for actor in state.actors().values():
        kind = PROCESSES.get(actor["ActorClassName"].rsplit(".", 1)[-1])
        if kind is not None and actor["State"] == "ALIVE":
            found[actor["Address"]["NodeID"], kind] += 1
    return found


def _head_first(node: dict[str, Any]) -> tuple[bool, str]:
    return "node:__internal_head__" not in node["Resources"], node["NodeID"]


@pytest.fixture
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    there = Machines(request.param)
    yield there
    ray.shutdown()
    there.cluster.shutdown()


CPUS = ((2, 0), (2, 0))
SHAPES = {
    "2+2": (CPUS, ()),
    "2+2+2, two runners": (((2, 0),) * 3, ("resources.runners=2",)),
    "1+8": (((1, 0), (8, 0)), ()),
    "2 GPUs": (((4, 2),), ()),
    "2+2 GPUs, two learners": (((2, 2), (2, 2)), ("resources.learners=2",)),
}


@pytest.mark.parametrize("loses", LOSSES, ids=LOSSES.get)
@pytest.mark.parametrize(("machines", "overrides"), SHAPES.values(), ids=SHAPES.keys(), indirect=["machines"])
def test_the_curriculum_finishes(
    tmp_path: Path,
    reference: Callable[..., Path],
    machines: Machines,
    overrides: Sequence[str],
    loses: int,
    request: pytest.FixtureRequest,
) -> None:
    if loses and not machines.others:
        pytest.skip("it has one node")
    asked = Settings.load(overrides=[*runs.ON_CLUSTER, *overrides]).resources
    words = runs.settings(*overrides, small=runs.ON_CLUSTER)
    address = machines.cluster.address
    driver = runs.command(tmp_path, "train", "--run", "x", "--budget-scale", runs.SCALE, "--address", address, *words)
    there = nodes_alive()
    for phase, trials in TRIALS.items():
        assert driver.says(f"phase {phase} {trials[0]}  "), driver.text[-3000:]
        if phase == 1 and not loses:
            plan = placed(asked, phase, trials, there)
            expected = Counter((node.id, process.kind) for process, node in plan.seats)
            assert processes_placed() <= expected, "Ray placed what was planned, as far as it is still running"
        if phase == loses:
            time.sleep(random.Random(phase).uniform(0.0, 1.0))
            machines.cluster.remove_node(machines.others[-1], allow_graceful=False)
    code = driver.end()
    name = request.node.callspec.id
    # Another number of learners rounds otherwise.
    comparable = not asked.learners
    whole = reference(*overrides) if comparable and code == 0 else None
    differing = None if whole is None else len(runs.differences(whole, tmp_path / "runs" / "x"))
    seen = next((line.strip() for line in driver.lines if "a node is lost" in line), "its trials were elsewhere")
    lost = runs.bars_lost(tmp_path)
    TABLE.add(Row(f"cluster {name}", code == 0, code, seen if loses else "", differing, lost if loses else None))
    assert code == 0, driver.text[-4000:]
    assert not differing


@pytest.mark.parametrize("number", TRIES)
def test_a_run_goes_on_on_other_shapes_of_machine(tmp_path: Path, reference: Callable[..., Path], number: int) -> None:
    """Begun here, carried on on two nodes and then on three, evaluated from one of them; bit for bit."""
    whole, words = reference(), ["train", "--run", "x", "--budget-scale", runs.SCALE]
    begun = runs.command(tmp_path, *words, *runs.settings(small=runs.ON_CLUSTER))
    assert begun.says("phase 1 equity  "), begun.text
    time.sleep(2.0 * number)
    begun.process.send_signal(signal.SIGKILL)
    begun.end()
    told = []
    for sizes, until in ((((2, 0), (2, 0)), "phase 2 desk  "), (((1, 0), (4, 0), (2, 0)), None)):
        there = Machines(sizes)
        try:
            driver = runs.command(tmp_path, "resume", "x", "--address", there.cluster.address)
            if until is not None:
                assert driver.says(until), driver.text
                driver.process.send_signal(signal.SIGKILL)
                driver.end()
            else:
                assert driver.end() == 0, driver.text[-3000:]
                judged = runs.command(tmp_path, "evaluate", "x", "--address", there.cluster.address)
                assert judged.end() == 0, judged.text[-3000:]
                assert "of the cluster at" in judged.text
            told += [line.strip() for line in driver.lines if line.startswith("joins")]
        finally:
            ray.shutdown()
            there.cluster.shutdown()
    differing = runs.differences(whole, tmp_path / "runs" / "x")
    seen = f"here, then {'; '.join(told)}"
    TABLE.add(Row("a run on three shapes of machine", True, 0, seen, len(differing), runs.bars_lost(tmp_path)))
    assert not differing


@pytest.fixture
def head_with_a_dashboard(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head that takes jobs; the variables of whoever submits one."""
    temporary, port, jobs = Path(f"/tmp/mtqj{os.getpid()}"), 6392, 8392
    words = ["start", "--head", f"--port={port}", "--num-cpus=2", f"--object-store-memory={STORE_MB * 2**20}"]
    words += [f"--dashboard-port={jobs}", "--block"]
    env = {**os.environ, "RAY_TMPDIR": str(temporary), "MTQUANT_CACHE": str(tmp_path / "cache")}
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = runs.listening(head)
    assert said.says("command will now block"), said.text
    # Where this user has a token the head wants it.
    token = {"RAY_AUTH_MODE": "token"} if "uthentication" in said.text else {}
    yield {**env, **token, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{jobs}"}
    for pid, _ in [*below(head.pid), (head.pid, "")]:
        kill(pid, signal.SIGKILL)
    head.wait()
    shutil.rmtree(temporary, ignore_errors=True)


def test_a_job_is_submitted_and_submitted_again(
    tmp_path: Path, reference: Callable[..., Path], head_with_a_dashboard: dict[str, str]
) -> None:
    """`ray job submit`, as in docs/cluster.md; stopped half way, the same command carries the run on."""
    whole, run = reference(), tmp_path / "runs" / "x"
    program = str(Path(sys.executable).with_name("mtquant"))
    train = [program, "train", "--resume", "--address", "auto", "--run", str(run), "--budget-scale", runs.SCALE]
    words = [*train, *runs.settings(small=runs.ON_CLUSTER)]

    def job(*command: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "ray.scripts.scripts", "job", *command]
        return subprocess.run(call, env=head_with_a_dashboard, capture_output=True, text=True, timeout=400)

    deadline = time.monotonic() + 60
    while True:
        first = job("submit", "--no-wait", "--submission-id", "first", "--", *words)
        # A head takes jobs a moment after it says that it is there.
        if "No available agent" not in first.stderr + first.stdout or time.monotonic() > deadline:
            break
        time.sleep(1.0)
    assert first.returncode == 0, first.stdout + first.stderr
    deadline = time.monotonic() + 200
    while not list(run.glob("phase_2/desk/checkpoint_*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert job("stop", "first").returncode == 0
    second = job("submit", "--submission-id", "second", "--", *words)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-2000:]
    assert "goes on from" in second.stdout
    differing = runs.differences(whole, run)
    seen = next(line.strip() for line in second.stdout.splitlines() if "goes on from" in line)
    TABLE.add(Row("ray job submit, stopped, submitted again", True, 0, seen, len(differing)))
    assert not differing


@ray.remote(num_cpus=2)
class Other:
    """Somebody else's work."""

    def begun(self) -> bool:
        return True


@pytest.mark.parametrize("machines", [CPUS], indirect=True, ids=["2+2"])
def test_a_trial_that_waits_for_its_place_says_what_for(tmp_path: Path, machines: Machines) -> None:
    taken = nodes_alive()[1]
    other = Other.options(scheduling_strategy=NodeAffinitySchedulingStrategy(str(taken.id), soft=False)).remote()
    assert ray.get(other.begun.remote())
    words = runs.settings(small=runs.ON_CLUSTER)
    where = ("--address", machines.cluster.address, "--phase", "1")
    driver = runs.command(tmp_path, "train", "--run", "x", "--budget-scale", runs.SCALE, *where, *words)
    assert driver.says("where 0 of 2 are free (something else uses the cluster: `ray status`)", 120), driver.text
    said = driver.lines[-1].strip()
    ray.kill(other)
    code = driver.end()
    TABLE.add(Row("a node that somebody else uses", code == 0, code, said))
    assert code == 0, driver.text[-3000:]


@pytest.mark.parametrize("lacks", ["the run's folder", "this package"])
@pytest.mark.parametrize("machines", [((2, 0),)], indirect=True, ids=["2"])
def test_a_node_that_cannot_train_is_named_and_left_out(
    tmp_path: Path, reference: Callable[..., Path], machines: Machines, lacks: str
) -> None:
    if not may_hide():
        pytest.skip("a node that does not see a folder can be started by root alone")
    hides = lacks == "the run's folder"
    (tmp_path / "runs").mkdir()
    env = {} if hides else patched("no_package")
    other = OtherNode(machines.cluster.address, cpus=8, hidden=[tmp_path / "runs"] if hides else [], env=env)
    try:
        deadline = time.monotonic() + 60
        while len(nodes_alive()) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(nodes_alive()) == 2
        where = ("--address", machines.cluster.address)
        words = runs.settings(small=runs.ON_CLUSTER)
        doctor = runs.command(tmp_path, "doctor", *where, *words)
        assert doctor.end() == 1, doctor.text
        driver = runs.command(tmp_path, "train", "--run", "x", "--budget-scale", runs.SCALE, *where, *words)
        code = driver.end()
    finally:
        other.stop()
    (said,) = {line.strip() for line in driver.lines if "is not used" in line}
    differing = len(runs.differences(reference(), tmp_path / "runs" / "x")) if code == 0 else None
    TABLE.add(Row(f"a node without {lacks}", code == 0, code, said, differing))
    assert code == 0, driver.text[-3000:]
    assert not differing
    cure = "mount one shared folder" if hides else "install this project"
    assert cure in said
    assert sum(line.startswith("ok       node") for line in doctor.lines) == 1, f"the head: {doctor.text}"
    (found,) = [line for line in doctor.lines if line.startswith("failed")]
    assert cure in doctor.text[doctor.text.index(found) :]


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
