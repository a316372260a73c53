"""The machines of a session, node by node: those that are there, and those that an autoscaler may start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One machine. cpus, gpus: what Ray may hand out of it. id: Ray's, None for one that the autoscaler would start."""

    name: str
    cpus: float
    gpus: float = 0.0
    id: str | None = None

    def __str__(self) -> str:
        gpus = f" + {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.name} ({self.cpus:g} CPU{gpus}{'' if self.id else ', to be started'})"


def listed(nodes: Iterable[Node]) -> str:
    """`2 + 2 CPUs, 1 GPU`: the CPUs node by node, and all GPUs."""
    nodes = list(nodes)
    gpus = sum(node.gpus for node in nodes)
    cpus = " + ".join(f"{node.cpus:g}" for node in nodes) or "0"
    return f"{cpus} CPU{'s' if cpus != '1' else ''}" + (f", {gpus:g} GPU{'s' if gpus != 1 else ''}" if gpus else "")
