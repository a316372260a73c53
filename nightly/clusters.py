"""What the tests of clusters look at: the nodes of a Ray cluster of this machine, and which processes are on them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
from ray._private import state

from mtquant_rllib.training.placement.nodes import Node

STORE_MB = 100
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
PROCESSES = {"PhaseTrial": "trial", "BatchedEnvRunner": "runner", "_WrappedExecutable": "learner"}
"""Ray's names of the processes of a trial, and the planner's."""
LOSSES = {0: "whole", **{phase: f"a node lost in phase {phase}" for phase in (1, 2, 3)}}
TRIALS = {1: ("forex", "commodities", "equity"), 2: ("desk",), 3: ("desk",)}


class LocalCluster:
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
