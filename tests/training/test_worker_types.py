"""Nodes that an autoscaler may start, from the settings and from the file that `ray up` leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mtquant_rllib.config.sections.training import WorkerType
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.worker_types import startable, worker_types

CLUSTER_FILE = {
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}},
        "cpu": {"resources": {"CPU": 8}, "max_workers": 9},
        "gpu": {"resources": {"CPU": 16, "GPU": 2}, "max_workers": 1},
        "off": {"resources": {"CPU": 64}, "max_workers": 0},
        "unknown": {},
    },
}
HEAD = Node("head", 4, id="h")


def test_the_file_that_ray_up_leaves_is_read_where_the_settings_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.yaml"
    assert worker_types(None, path) == ()
    path.write_text(yaml.safe_dump(CLUSTER_FILE))
    found = worker_types(None, path)
    assert [(kind.cpus, kind.gpus, kind.max_workers) for kind in found] == [(8, 0, 3), (16, 2, 1)]
    own = (WorkerType(cpus=1, max_workers=1),)
    assert worker_types(own, path) == own
    assert worker_types((), path) == (), "an empty list is an answer"


@pytest.mark.parametrize(
    "text", ["[1, 2]", "available_node_types: {a: {resources: {CPU: x}}}\nhead_node_type: b", "a: ["]
)
def test_a_file_that_is_none_is_refused_with_the_way_round(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bootstrap.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"no cluster file .*resources\.worker_types="):
        worker_types(None, path)


def test_types_of_one_size_share_the_clusters_limit(tmp_path: Path) -> None:
    """Spot and on demand, as the shipped cluster files have them: four workers in all, not eight."""
    kinds = {"head": {"resources": {"CPU": 0}}, **{
        name: {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4} for name in ("spot", "on_demand")
    }}  # fmt: skip
    path = tmp_path / "bootstrap.yaml"
    path.write_text(yaml.safe_dump({"max_workers": 4, "head_node_type": "head", "available_node_types": kinds}))
    (found,) = worker_types(None, path)
    assert found.max_workers == 4
    there = [HEAD, *(Node(f"w{number}", 8, 1, id=f"w{number}") for number in range(4))]
    assert startable([found], there[:3]) == [
        Node(f"worker {number} of 4 with 8 CPU + 1 GPU", 8, 1) for number in (3, 4)
    ]
    assert startable([found], there) == []


@pytest.mark.slow
def test_what_runs_counts_as_started() -> None:
    kinds = (WorkerType(cpus=4, max_workers=2), WorkerType(cpus=8, gpus=1, max_workers=1))
    assert [node.cpus for node in startable(kinds, [HEAD])] == [4, 4, 8], "the head is none of them"
    assert [node.cpus for node in startable(kinds, [HEAD, Node("a", 4, id="a"), Node("b", 8, 1, id="b")])] == [4]
    assert [node.name for node in startable(kinds, [HEAD, Node("a", 4, id="a")])] == [
        "worker 2 of 2 with 4 CPU",
        "worker 1 of 1 with 8 CPU + 1 GPU",
    ]
