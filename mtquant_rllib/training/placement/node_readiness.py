"""Which nodes can train this run, and the prepared market for those that lack it.

A cluster may have nodes without this package, in other versions, or that do not mount the run's folder: a trial that
Ray placed there would fail again and again. Each node is looked at once, before anything is placed on it; one that
cannot train is named with its cure and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtquant_rllib.env.prepared import source as market_source
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.session.node_checks import NodeReport, inspect_nodes
from mtquant_rllib.training.storage import mirror

Tell = Callable[[str], None]


class Readiness:
    """What is known of the nodes of one session.

    run: the folder that all of them should see. data: the prepared market's, which is sent to nodes that do not have
    it, once to each.
    """

    def __init__(self, run: Path, data: Path, tell: Tell) -> None:
        self._run, self._data, self._tell = run, data, tell
        self._seen = dict[str | None, NodeReport]()
        self._allowed: list[str] = []

    def usable(self, nodes: Sequence[Node]) -> list[Node]:
        """Those of these nodes that can train, in the same order; the others are told of once.

        Raises
        ------
        ConfigError
            When none can, with what is wrong with the first.
        """
        if len(nodes) == 1:
            # The driver's own: it runs on a node of the cluster.
            self._allowed = []
            return list(nodes)
        home = ray.get_runtime_context().get_node_id()
        new = [node for node in nodes if node.id not in self._seen and node.id != home and node.cpus]
        if new:
            address = mirror.address_of_run(self._run)
            folders = [self._run] if address is None else []
            found = inspect_nodes(new, folders, data=self._data, address=address)
            self._seen.update(found)
            for node in new:
                for fault in found[str(node.id)].faults:
                    self._tell(f"node {node} is not used: {fault.said}; to use it, {fault.cure}")
            self._send([node for node in new if found[str(node.id)].data is False and not found[str(node.id)].faults])
        left = [node for node in nodes if node.id not in self._seen or not self._seen[node.id].faults]
        out = [node for node in nodes if node not in left]
        if out and not any(node.cpus for node in left):
            node, fault = out[0], self._seen[out[0].id].faults[0]
            raise ConfigError(f"no node of the cluster can train this run; {node}: {fault.said}; {fault.cure}")
        self._allowed = [str(node.id) for node in left]
        return left

    def allowed(self) -> list[str]:
        """Ray's ids of the nodes that can train: others, which may join later, were not looked at. Empty where there is
        one node alone."""
        return self._allowed

    def _send(self, nodes: Sequence[Node]) -> None:
        if not nodes:
            return
        files: Any = ray.put(market_source.packed(self._data))
        unpack = ray.remote(num_cpus=0)(market_source.unpacked)
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(str(node.id), soft=False)
            ray.get(unpack.options(scheduling_strategy=there).remote(self._data.name, files))
            self._tell(f"node {node} did not have the prepared market, and has it now")
