"""The cluster files are what Ray takes, and name nothing that only the machine of their writer has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mtquant_rllib.config.loader import configs_dir
from mtquant_rllib.training.placement.worker_types import worker_types

FILES = sorted((configs_dir() / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_takes_the_file(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    prepared = prepare_config(content)
    validate_config(prepared)
    commands = " ".join(word for key, words in content.items() if key.endswith("commands") for word in words)
    assert "${" not in commands, "a variable of the machine that calls `ray up` is none on the nodes"
    for kind, words in (("head", "--autoscaling-config=~/ray_bootstrap_config.yaml"), ("worker", "$RAY_HEAD_IP:6379")):
        assert words in " ".join(content[f"{kind}_start_ray_commands"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_planner_reads_what_the_file_may_start(path: Path) -> None:
    found = worker_types(None, path)
    content = yaml.safe_load(path.read_text())
    assert len(found) == len(content["available_node_types"]) - 1
    assert all(kind.gpus >= 1 and kind.max_workers <= content["max_workers"] for kind in found)
