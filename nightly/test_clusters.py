"""Clusters of several nodes: trials are placed as it was said, and where a node is lost they go on elsewhere."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import ray
import runs
from attempts import TRIES, patched
from clusters import LOSSES, TRIALS, LocalCluster, nodes_alive, processes_placed
from processes import Node as OtherNode
from processes import may_hide
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from table import TABLE, Row

from mtquant_rllib.config import Settings
from mtquant_rllib.training.placement.planner import placed


@pytest.fixture
def machines(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    there = LocalCluster(request.param)
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
    machines: LocalCluster,
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
            expected = Counter((node.id, process.kind) for process, node in plan.assignments)
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
        there = LocalCluster(sizes)
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


@ray.remote(num_cpus=2)
class Other:
    """Somebody else's work."""

    def begun(self) -> bool:
        return True


@pytest.mark.parametrize("machines", [CPUS], indirect=True, ids=["2+2"])
def test_a_trial_that_waits_for_its_place_says_what_for(tmp_path: Path, machines: LocalCluster) -> None:
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
    tmp_path: Path, reference: Callable[..., Path], machines: LocalCluster, lacks: str
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
