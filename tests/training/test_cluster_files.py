"""The cluster files are what Ray, KubeRay and SkyPilot take, and name nothing that only the machine of their writer
has."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from mtquant_rllib.cli import build_parser
from mtquant_rllib.config.loader import configs_dir
from mtquant_rllib.training.placement.worker_types import worker_types

FOLDER = configs_dir() / "cluster"
CLOUDS = [FOLDER / f"{name}.yaml" for name in ("aws", "gcp", "azure")]
OF_RAY = [*CLOUDS, FOLDER / "on_premise.yaml"]
RAYJOB, SKYPILOT = FOLDER / "kuberay_rayjob.yaml", FOLDER / "skypilot.yaml"
ROOT = configs_dir().parent


def content_of(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def test_every_file_is_tested() -> None:
    assert sorted(FOLDER.iterdir()) == sorted([*OF_RAY, RAYJOB, SKYPILOT])


@pytest.mark.parametrize("path", OF_RAY, ids=lambda path: path.stem)
def test_ray_takes_the_file(path: Path) -> None:
    content = content_of(path)
    prepared = prepare_config(content)
    validate_config(prepared)
    commands = " ".join(word for key, words in content.items() if key.endswith("commands") for word in words)
    assert "${" not in commands, "a variable of the machine that calls `ray up` is none on the nodes"
    for kind, words in (("head", "--autoscaling-config=~/ray_bootstrap_config.yaml"), ("worker", "$RAY_HEAD_IP:6379")):
        assert words in " ".join(content[f"{kind}_start_ray_commands"])
    assert "-c ~/mtquant/constraints.txt" in commands, "the versions that were tested"


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_the_planner_reads_what_the_file_may_start(path: Path) -> None:
    found = worker_types(None, path)
    content = content_of(path)
    (kind,) = found
    assert (kind.gpus, kind.max_workers) == (1, content["max_workers"]), "spot and on demand stand in for each other"
    assert content["provider"]["cache_stopped_nodes"] is False, "a stopped machine costs"
    assert content["idle_timeout_minutes"] <= 10


def test_the_clouds_do_the_same() -> None:
    """But for what the clouds call their machines, and for the driver, which Amazon's image has."""
    aws, gcp, azure = (content_of(path) for path in CLOUDS)
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "initialization_commands"):
        assert aws[key] == gcp[key] == azure[key], key
    assert gcp["worker_setup_commands"] == azure["worker_setup_commands"]
    assert set(aws["worker_setup_commands"]) < set(gcp["worker_setup_commands"])
    for one in (aws, gcp, azure):
        assert sorted(one["available_node_types"]) == ["gpu_on_demand", "gpu_spot", "head"]


@pytest.mark.nightly
def test_amazon_starts_what_the_file_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own bootstrap and node provider, on a mocked cloud."""
    from moto import mock_aws
    from ray.autoscaler._private.commands import _bootstrap_config

    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        ready = _bootstrap_config(content_of(FOLDER / "aws.yaml"), no_config_cache=True)
        provider = _get_node_provider(ready["provider"], ready["cluster_name"], use_cache=False)
        for name, kind in ready["available_node_types"].items():
            assert kind["node_config"]["ImageId"].startswith(("ami-", "resolve:ssm:"))
            tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: name}
            config = {**kind["node_config"], "ImageId": "ami-12c6146b"}
            provider.create_node(config, {"ray-node-name": name, **tags}, 1)
        assert len(provider.non_terminated_nodes({})) == 3


def test_google_starts_what_the_file_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own bootstrap, with clients that answer as Google's do."""
    from ray.autoscaler._private.gcp import config as google

    monkeypatch.setenv("HOME", str(tmp_path))
    crm, iam, compute = mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
    project = {"projectId": "YOUR-PROJECT", "lifecycleState": "ACTIVE"}
    crm.projects().get().execute.return_value = project
    crm.projects().getIamPolicy().execute.return_value = {"bindings": []}
    email = "ray-autoscaler-sa-v1@YOUR-PROJECT.iam.gserviceaccount.com"
    iam.projects().serviceAccounts().get().execute.return_value = {"email": email, **project}
    metadata = {"items": [], "fingerprint": "f"}
    compute.projects().get().execute.return_value = {"name": "YOUR-PROJECT", "commonInstanceMetadata": metadata}
    compute.projects().setCommonInstanceMetadata().execute.return_value = {"name": "done"}
    compute.globalOperations().get().execute.return_value = {"status": "DONE"}
    compute.subnetworks().list().execute.return_value = {"items": [{"selfLink": "subnet"}]}
    clients = (crm, iam, compute, None)
    with mock.patch.object(google, "construct_clients_from_provider_config", return_value=clients):
        ready = google.bootstrap_gcp(prepare_config(content_of(FOLDER / "gcp.yaml")))
    assert Path(ready["auth"]["ssh_private_key"]).is_relative_to(tmp_path)
    spot, sure = (ready["available_node_types"][name]["node_config"] for name in ("gpu_spot", "gpu_on_demand"))
    assert spot["scheduling"][0]["provisioningModel"] == "SPOT"
    assert spot["machineType"] == sure["machineType"]
    assert "provisioningModel" not in sure["scheduling"][0]
    assert spot["networkInterfaces"][0]["subnetwork"] == "subnet"
    json.dumps(ready)


def test_machines_of_ones_own_are_all_used() -> None:
    from ray.autoscaler._private.local.config import bootstrap_local

    content = content_of(FOLDER / "on_premise.yaml")
    ready = bootstrap_local(prepare_config(content))
    assert ready["max_workers"] == ready["available_node_types"]["local.cluster.node"]["min_workers"] == 2
    assert len(content["provider"]["worker_ips"]) == content["max_workers"]


def entrypoint_of(words: list[str]) -> Any:
    """What this project's own command line makes of a command in a file; a variable of the shell is left as it is."""
    assert Path(words[0]).name == "mtquant"
    return build_parser().parse_args(words[1:])


def test_the_rayjob_carries_its_run_on() -> None:
    spec = content_of(RAYJOB)["spec"]
    asked = entrypoint_of(shlex.split(spec["entrypoint"]))
    assert asked.resume_existing
    assert asked.address == "auto"
    assert asked.run.startswith("s3://"), "where another cluster finds it"
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    (group,) = cluster["workerGroupSpecs"]
    (kind,) = yaml.safe_load(next(item for item in asked.overrides if "worker_types" in item).split("=", 1)[1])
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    told = {"cpus": int(limits["cpu"]), "gpus": int(limits["nvidia.com/gpu"]), "max_workers": group["maxReplicas"]}
    assert kind == told, "the planner knows what the autoscaler may start"
    assert cluster["rayVersion"] in (ROOT / "constraints.txt").read_text(), "the version that the image has"


def test_the_rayjob_is_one_by_kuberays_schema() -> None:
    """Its custom resource definition, which is not part of this project: ray.io_rayjobs.yaml of KubeRay's chart."""
    import jsonschema

    named = os.environ.get("MTQUANT_RAYJOB_CRD")
    if named is None:
        pytest.skip("MTQUANT_RAYJOB_CRD names no ray.io_rayjobs.yaml")
    versions = yaml.safe_load(Path(named).read_text())["spec"]["versions"]
    schema = next(one for one in versions if one["name"] == "v1")["schema"]["openAPIV3Schema"]
    _no_unknown_fields(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    assert not list(jsonschema.Draft7Validator(schema).iter_errors(content_of(RAYJOB)))


def _no_unknown_fields(schema: Any) -> None:
    """A cluster drops what it does not know; here it is an error."""
    if isinstance(schema, dict):
        open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
        if schema.get("type") == "object" and "properties" in schema and not open_ended:
            schema["additionalProperties"] = False
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _no_unknown_fields(part)


def test_skypilots_task_carries_its_run_on() -> None:
    content = content_of(SKYPILOT)
    asked = entrypoint_of(shlex.split(content["run"]))
    assert asked.resume_existing
    assert asked.run == "$RUN"
    assert content["envs"]["RUN"].startswith("s3://")
    assert content["resources"]["use_spot"]
    assert "-c constraints.txt" in content["setup"]


def test_the_image_is_built_as_the_readme_says() -> None:
    steps = re.findall(r"^RUN (.+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    made = [step for step in steps if step.startswith("make ")]
    assert made == ["make .venv/run.stamp"], "what `make train` installs"
    assert "train: $(VENV)/run.stamp" in (ROOT / "Makefile").read_text()
