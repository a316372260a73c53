"""Clusters of several nodes: trials are placed as it was said, and where a node is lost they go on elsewhere."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import runs
from ray._private import state
from table import TABLE, Row

from mtquant_rllib.config import Settings
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import placed

STORE_MB = 100
PROCESSES = {"PhaseTrial": "trial", "BatchedEnvRunner": "runner", "_WrappedExecutable": "learner"}
"""Ray's names of the processes of a trial, and the planner's."""
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

    def nodes(self) -> list[Node]:
        alive = sorted((node for node in ray.nodes() if node["Alive"]), key=_head_first)
        return [
            Node(node["NodeID"], node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0), id=node["NodeID"])
            for node in alive
        ]

    def placed(self) -> Counter[tuple[str, str]]:
        """(node, kind) of the processes of trials that are alive."""
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


@pytest.mark.parametrize("loses", [0, 1, 2, 3], ids=lambda phase: f"a node lost in phase {phase}" if phase else "whole")
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
    there = machines.nodes()
    for phase, trials in TRIALS.items():
        assert driver.says(f"phase {phase} {trials[0]}  "), driver.text[-3000:]
        if phase == 1 and not loses:
            plan = placed(asked, phase, trials, there)
            expected = Counter((node.id, process.kind) for process, node in plan.seats)
            assert machines.placed() <= expected, "Ray placed what was planned, as far as it is still running"
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
