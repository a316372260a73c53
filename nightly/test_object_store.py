"""A run that lies in an object store: killed and carried on by one machine after another, on nodes that share no disk,
with a store that is away; and one driver at a time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import runs
from attempts import TRIES, Reference
from processes import Node, below, kill, may_hide
from table import TABLE, Row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))
from object_store_server import Server, running

ADDRESS = "s3://desk/runs/x"
KILLS = 5


@pytest.fixture
def store() -> Iterator[Server]:
    with running() as server:
        yield server


def machine(folder: Path, number: int, store: Server) -> dict[str, str]:
    """Variables of one of several machines of a user: the same key, another disk."""
    return {**store.variables, "MTQUANT_CACHE": str(folder / f"machine_{number}")}


def copy_of(folder: Path, number: int) -> Path:
    (found,) = (folder / f"machine_{number}").glob("remote/*/x")
    return found


TRAIN = ["train", "--run", ADDRESS, "--budget-scale", runs.SCALE]


@pytest.mark.parametrize("number", TRIES)
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_run_goes_from_machine_to_machine(
    tmp_path: Path, reference: Reference, store: Server, algorithm: str, number: int
) -> None:
    overrides = runs.SMALL_SAC if algorithm == "sac" else ()
    whole, rng = reference(*overrides), random.Random(number)
    words = [*TRAIN, *runs.settings(*overrides)]
    for place in range(KILLS):
        driver = runs.command(tmp_path, *words, env=machine(tmp_path, place, store))
        driver.says("bars/s")
        time.sleep(rng.uniform(0.0, 12.0))
        for pid, _ in [*below(driver.process.pid), (driver.process.pid, "")]:
            kill(pid, signal.SIGKILL)
        driver.end()
        shutil.rmtree(tmp_path / f"machine_{place}")
        # Without the machine that held it, the note of who trains the run is believed for a while.
        words = ["resume", ADDRESS]
    last = runs.command(tmp_path, *words, env=machine(tmp_path, KILLS, store))
    code = last.end()
    differing = runs.differences(whole, copy_of(tmp_path, KILLS)) if code == 0 else None
    lost, seen = runs.bars_lost(tmp_path), next((line.strip() for line in last.lines if "goes on from" in line), "")
    fault = f"{KILLS} machines lost one after another, {algorithm}, run in an object store"
    TABLE.add(Row(fault, code == 0, code, seen, None if differing is None else len(differing), lost))
    assert code == 0, last.text[-4000:]
    assert not differing, differing


@pytest.mark.parametrize("number", TRIES)
def test_the_store_is_away_for_a_minute(tmp_path: Path, reference: Reference, store: Server, number: int) -> None:
    whole = reference()
    driver = runs.command(tmp_path, *TRAIN, *runs.settings(), env=machine(tmp_path, 0, store))
    assert driver.says(f"phase {2 + number} desk"), driver.text
    with store.away():
        time.sleep(60)
    code = driver.end()
    differing = runs.differences(whole, copy_of(tmp_path, 0)) if code == 0 else None
    said = next((line.strip() for line in driver.lines if "waiting for storage" in line), "")
    count = None if differing is None else len(differing)
    TABLE.add(Row("the object store is away for a minute", code == 0, code, said, count, runs.bars_lost(tmp_path)))
    assert code == 0, driver.text[-4000:]
    assert not differing, differing


@pytest.mark.parametrize("number", TRIES)
def test_a_second_driver_on_another_machine_is_refused(tmp_path: Path, store: Server, number: int) -> None:
    driver = runs.command(tmp_path, *TRAIN, *runs.settings(), env=machine(tmp_path, 0, store))
    assert driver.says("phase 1 forex"), driver.text
    second = runs.command(tmp_path, "resume", ADDRESS, env=machine(tmp_path, 1, store))
    refused = second.end()
    code = driver.end()
    said = next((line.strip() for line in second.lines if "at this moment" in line), "")
    TABLE.add(Row("two drivers on one run in an object store", code == 0, refused, said))
    assert refused == 2, second.text
    assert f"process {driver.process.pid}" in said, second.text
    assert code == 0, driver.text[-3000:]


@pytest.fixture
def cluster(tmp_path: Path, store: Server) -> Iterator[str]:
    """Two nodes that share neither a disk nor a cache; the head's address."""
    from ray.cluster_utils import Cluster

    if not may_hide():
        pytest.skip("a node that does not see a folder can be started by root alone")
    before = dict(os.environ)
    os.environ.update(machine(tmp_path, 0, store))
    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
    os.environ.clear()
    os.environ.update(before)
    for folder in (tmp_path / "machine_0", tmp_path / "machine_1"):
        folder.mkdir()
    other = Node(there.address, cpus=2, hidden=[tmp_path / "machine_0"], env=machine(tmp_path, 1, store))
    there.connect()
    deadline = time.monotonic() + 60
    while len(ray.nodes()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    yield there.address
    ray.shutdown()
    other.stop()
    there.shutdown()


def test_nodes_that_share_no_disk(tmp_path: Path, reference: Reference, store: Server, cluster: str) -> None:
    whole = reference()
    words = [*TRAIN, "--address", cluster, *runs.settings(small=runs.ON_CLUSTER)]
    driver = runs.command(tmp_path, *words, env=machine(tmp_path, 0, store))
    code = driver.end()
    assert code == 0, driver.text[-4000:]
    assert "did not have the prepared market, and has it now" in driver.text
    assert list((tmp_path / "machine_1").glob("remote/*/x/phase_1/*/checkpoint_*")), "the other node trained"
    differing = runs.differences(whole, copy_of(tmp_path, 0))
    TABLE.add(Row("two nodes that share no disk, run in an object store", True, code, "", len(differing)))
    assert not differing, differing
    again = subprocess.run(
        [sys.executable, "-m", "mtquant_rllib.cli", "evaluate", ADDRESS],
        env={**os.environ, **machine(tmp_path, 2, store)},
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
