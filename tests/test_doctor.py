"""`mtquant doctor`: what is wrong is found, named with its cure, and told by the exit code; nothing is left behind."""

from __future__ import annotations

import importlib.metadata
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.doctor import cluster_checks, local_checks
from mtquant_rllib.doctor.findings import CheckResult
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.records.manifest import versions
from mtquant_rllib.training.session.node_checks import code_of_package, node_report

SMALL = ["embedded.train={paths: 1, years: 3}", "embedded.validation={paths: 1, years: 3}"]
SMALL += ["embedded.test={paths: 1, years: 3}"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    # Nothing answers there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


def doctor(*words: str) -> int:
    return main(["doctor", *(word for override in SMALL for word in ("--set", override)), *words])


def only(findings: Iterable[CheckResult]) -> CheckResult:
    (finding,) = findings
    return finding


def settings(*overrides: str) -> Settings:
    return Settings.load(overrides=[*SMALL, *overrides])


@pytest.mark.slow
def test_a_sound_machine_passes_and_keeps_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("--set", "resources.cpus=2") == 0
    said = capsys.readouterr().out
    checks = ("config", "packages", "runs", "cache", "gpus", "wandb", "memory", "plan", "market")
    assert all(any(line.startswith(f"ok       {check}") for line in said.splitlines()) for check in checks), said
    assert "phase 1 on 127.0.0.1: 1.98 of 2 CPU: forex (trial 0.66 CPU)" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--set", "resources.runners=50", "--set", "resources.cpus=2", "--set", "recipe.environments=50"],
            "resources.cpus = 2 may be used: set resources.runners=19",
        ),
        (["--set", "resources.cpus=1", "--set", "resources.learners=12"], "set resources.learners=9 or fewer"),
        (["--set", "resources.runners=3"], "recipe.environments = 16: expected a multiple of resources.runners = 3"),
        (["--set", "resources.runers=1"], "resources.runers"),
        (["--config", "nowhere.yaml"], "no config file 'nowhere.yaml'"),
        (["--market", "nowhere.parquet"], "nowhere.parquet"),
        (["--market", "https://bucket/x.parquet"], "has to lie on a disk"),
        (["--run", "hdfs://bucket/x"], "name a folder, or an address of s3, gs"),
        (["--market", "s3://bucket/x.parquet"], "s3://bucket/x.parquet: "),
        (["--run", "s3://bucket/x"], "see to the bucket, its credentials and the way there"),
        (["--address", "127.0.0.1:9"], "nothing answers"),
        (["--address", "127.0.0.1:99999"], "there is no port 99999; expected HOST:PORT"),
        (["--set", "resources.object_store_mb=1"], "set resources.object_store_mb=75 or more"),
        (["--set", "networks.names.meta=attenton"], "no network 'attenton'"),
        (["--set", "resources.object_store_mb=99999999"], "--shm-size"),
        (["--run", "taken/x"], "cannot be written"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_set_ups_that_cannot_train_are_found(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    assert doctor(*words) != 0
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert not (tmp_path / "runs").exists()


def test_more_cpus_than_there_are_is_a_warning() -> None:
    found = only(cluster_checks.cpus(settings("resources.cpus=500")))
    assert found.level == "warning"
    assert f"resources.cpus = 500 on a machine of {os.cpu_count()}" in found.said
    assert not list(cluster_checks.cpus(settings(f"resources.cpus={os.cpu_count()}")))


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["numpy<1", "no-such-package>=1", "x; extra == 'd'"]
    )
    found = only(local_checks.packages())
    assert found.level == "failed"
    assert f"numpy {importlib.metadata.version('numpy')} is not <1; no-such-package is missing" in found.said


def test_a_gpu_that_torch_cannot_use_is_named_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch can use the GPUs here")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = only(local_checks.gpus(settings()))
    assert found.level == "failed"
    assert "GPU 0: NVIDIA H100: torch" in found.said
    assert "pip install torch" in found.cure
    assert only(local_checks.gpus(settings("resources.gpus=none"))).level == "ok"


def test_a_tracker_out_of_reach_is_told_of_where_it_is_to_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()
    asked = settings("tracking.trackers=[wandb]")
    monkeypatch.setattr(local_checks, "usual_mode", lambda: "offline")
    assert "offline" in only(local_checks.tracker(asked)).said
    monkeypatch.setattr(local_checks, "usual_mode", lambda: "online")
    monkeypatch.setattr(local_checks, "service_address", lambda: (host, port))
    found = only(local_checks.tracker(asked))
    assert (found.level, found.check) == ("failed", "wandb")
    assert "WANDB_MODE=offline" in found.cure


def test_a_tracker_that_is_not_there_is_told_of() -> None:
    found = only(local_checks.tracker(settings("tracking.trackers=[no_such:Tracker]")))
    assert (found.level, found.check) == ("failed", "trackers")


def test_a_node_is_judged_by_what_it_says() -> None:
    node, same = Node("10.0.0.2", 4, id="n"), versions()

    def findings(**said: Any) -> list[CheckResult]:
        return list(
            cluster_checks.node_findings(
                node, node_report({"time": 100.0, "folders": {}, "code": code_of_package(), **said}, 99.0, 101.0)
            )
        )

    assert only(findings(versions=same)).level == "ok"
    found = findings(time=200.0, versions={**same, "ray": "2.1"})
    assert [finding.level for finding in found] == ["failed", "warning"]
    assert f"ray 2.1 (here {same['ray']})" in found[0].said
    assert "99 s off" in found[1].said
    lost = findings(folders={"/runs": "No such file"}, missing="no x")
    assert [finding.level for finding in lost] == ["failed", "failed"]
    assert "mount one shared folder" in lost[1].cure
