"""A cloud of Ray's fake nodes that takes a node away when its raylet dies, as a cloud does with a machine that it takes
back: Ray's own goes on naming it."""

from __future__ import annotations

from typing import Any

from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class SpotCloud(FakeMultiNodeProvider):
    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        for node_id, node in list(self._nodes.items()):
            if "node" in node and PROCESS_TYPE_RAYLET not in dict(node["node"].live_processes()):
                self.terminate_node(node_id)
        there: Any = super().non_terminated_nodes(tag_filters)
        return list(there)
