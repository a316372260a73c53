"""Nodes that come, go or cannot train while a phase is placed and runs; no Ray session is needed to say so."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.training.curriculum import node_callbacks
from mtquant_rllib.training.curriculum.node_callbacks import LostNodes
from mtquant_rllib.training.placement import node_readiness
from mtquant_rllib.training.placement.node_readiness import Readiness
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.placement_group import NODE_ID, placement_group
from mtquant_rllib.training.placement.planner import TrialResources, placed
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.session import autoscaling, node_checks
from mtquant_rllib.training.session.node_checks import Fault, NodeReport, node_report

HEAD, ONE, TWO = Node("head", 0, id="h"), Node("one", 8, 1, id="1"), Node("two", 8, 1, id="2")


def test_a_head_without_cpus_is_no_part_of_the_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped cluster files have one, and Ray refuses an empty bundle."""
    asked: list[Any] = []
    monkeypatch.setattr(autoscaling, "placement_group", asked.append)
    monkeypatch.setattr(autoscaling, "remove_placement_group", lambda group: None)
    there = [HEAD]

    def started() -> list[Node]:
        found = list(there)
        there.append(Node("new", 8, 1, id="new"))
        return found

    missing = Node("worker 1 of 4 with 8 CPU + 1 GPU", 8, 1)
    assert autoscaling.wait_for_nodes(started, [HEAD, Node("busy", 0.5, id="b"), missing], 60, lambda text: None)
    assert asked == [[{"CPU": 0.5}, {"CPU": 8, "GPU": 1}]]


def test_the_node_of_a_trial_that_is_over_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autoscaler ends a node that has had no work for a while: the others are not placed anew for that."""
    monkeypatch.setattr(node_callbacks, "LOOK_EVERY_S", -1.0)
    placement = placed(Settings.load().resources, 1, ("a", "b"), [ONE, TWO])
    assert [placement.nodes_of(name) for name in "ab"] == [["1"], ["2"]]
    there, said, lost = [ONE, TWO], [], []
    stop = SimpleNamespace(node_lost=False, lose_node=lambda: lost.append(True))
    watch = LostNodes(1, placement, SimpleNamespace(nodes=lambda: there), stop, said.append)  # type: ignore[arg-type]
    watch.on_trial_complete(1, [], SimpleNamespace(config={TRIAL: "b"}))
    there.remove(TWO)
    watch.on_step_begin(1, [])
    assert (said, lost) == ([], [])
    there.remove(ONE)
    there.append(TWO)
    watch.on_step_begin(1, [])
    assert "phase 1 a: a node is lost" in said[0]


def readiness(monkeypatch: pytest.MonkeyPatch, faulty: set[str]) -> Readiness:
    def inspected(nodes: list[Node], folders: list[Path], **named: Any) -> dict[str, NodeReport]:
        faults = [Fault("package", "no module named mtquant_rllib")]
        return {str(node.id): NodeReport(faults if node.id in faulty else []) for node in nodes}

    monkeypatch.setattr(node_readiness, "inspect_nodes", inspected)
    context = SimpleNamespace(get_node_id=lambda: "h")
    monkeypatch.setattr(node_readiness.ray, "get_runtime_context", lambda: context)
    return Readiness(Path("/run"), Path("/data"), lambda text: None)


def test_nodes_without_cpus_and_no_worker_yet_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = readiness(monkeypatch, set())
    driver = Node("driver", 0, id="d")
    assert ready.usable([HEAD, driver]) == [HEAD, driver]


def test_trials_run_on_nodes_that_were_looked_at_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that joins later may lack the package or the market."""
    ready = readiness(monkeypatch, {"2"})
    assert ready.usable([HEAD, ONE, TWO]) == [HEAD, ONE]
    group = placement_group(TrialResources(1.0, 1.0, 0.0), [], ready.allowed(), 1, 0)
    assert group.bundles == [{"CPU": 1.0}, {"CPU": 1.0}]
    assert group._kwargs["bundle_label_selector"] == [{NODE_ID: "in(h,1)"}] * 2
    assert ready.usable([HEAD]) == [HEAD]
    assert (
        "bundle_label_selector" not in placement_group(TrialResources(1.0, 1.0, 0.0), [], ready.allowed(), 0, 0)._kwargs
    )
    with pytest.raises(ConfigError, match=r"no node of the cluster can train this run; two .*install this project"):
        readiness(monkeypatch, {"2"}).usable([HEAD, TWO])


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="needs a folder that is read-only")
def test_a_folder_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run: cannot be written here \(Not a directory\)"):
        node_checks.inspect_nodes([], [tmp_path / "file" / "run"])
    with node_checks._probes([tmp_path / "new"], "word"):
        assert (tmp_path / "new" / "word").read_text() == "word"
    assert not (tmp_path / "new").exists()


def test_a_gpu_that_torch_cannot_use_keeps_a_node_from_training() -> None:
    seen = {
        "time": 1.0, "folders": {}, "versions": node_checks.versions(), "code": node_checks.code_of_package()
    }  # fmt: skip
    assert node_report({**seen, "cuda_unusable": ""}, 0.0, 2.0).faults == []
    (fault,) = node_report({**seen, "cuda_unusable": "13.0"}, 0.0, 2.0).faults
    assert fault.said == "torch for CUDA 13.0 cannot use the GPU there"
    assert "driver" in fault.cure
    assert node_report({**seen, "name_is_loopback": True}, 0.0, 2.0).name_is_loopback


def test_another_checkout_of_the_same_version_keeps_a_node_from_training() -> None:
    seen = {"time": 1.0, "folders": {}, "versions": node_checks.versions(), "code": "0123456789abcdef"}
    (fault,) = node_report(seen, 0.0, 2.0).faults
    assert "this project's code there is not the code here" in fault.said
    assert "same checkout" in fault.cure
