"""The nodes that a cluster's autoscaler may start beside those that are there.

Ray's autoscalers do not say what they may start. The settings do, or the file that `ray up` leaves on the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mtquant_rllib.config.sections.training import WorkerType
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.placement.nodes import Node

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts the cluster file on the head, with what it found out about the node types filled in."""


def worker_types(asked: Sequence[WorkerType] | None, bootstrap: Path = BOOTSTRAP) -> tuple[WorkerType, ...]:
    """What the settings say, or where they say nothing, the cluster file on this machine.

    Raises
    ------
    ConfigError
        When that file is none.
    """
    path = bootstrap.expanduser()
    if asked is not None:
        return tuple(asked)
    if not path.exists():
        return ()
    try:
        content = yaml.safe_load(path.read_text())
        return tuple(_of_cluster_file(content))
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: this is no cluster file of `ray up` ({' '.join(str(error).split())}); say what may be started "
            "with --set 'resources.worker_types=[{cpus: 16, gpus: 1, max_workers: 4}]', or [] for nothing"
        ) from error


def _of_cluster_file(content: Mapping[str, Any]) -> Iterator[WorkerType]:
    most = int(content.get("max_workers", 2))
    workers: dict[tuple[float, float], int] = {}
    for name, kind in content["available_node_types"].items():
        has = kind.get("resources") or {}
        if name != content["head_node_type"] and has.get("CPU"):
            # Types of one size stand in for each other (spot, on demand), and the cluster has a limit for all.
            size = float(has["CPU"]), float(has.get("GPU", 0))
            workers[size] = min(workers.get(size, 0) + int(kind.get("max_workers", most)), most)
    for (cpus, gpus), number in workers.items():
        if number:
            yield WorkerType(cpus=cpus, gpus=gpus, max_workers=number)


def startable(kinds: Sequence[WorkerType], there: Sequence[Node]) -> list[Node]:
    """A node for each that may still be started. there: those that are, the head first; one of a kind's size counts as
    of this kind."""
    left = list(there[1:])
    found = []
    for kind in kinds:
        own = [node for node in left if (node.cpus, node.gpus) == (kind.cpus, kind.gpus)][: kind.max_workers]
        left = [node for node in left if node not in own]
        size = f"{kind.cpus:g} CPU" + (f" + {kind.gpus:g} GPU" if kind.gpus else "")
        found += [
            Node(f"worker {number + 1} of {kind.max_workers} with {size}", kind.cpus, kind.gpus)
            for number in range(len(own), kind.max_workers)
        ]
    return found
