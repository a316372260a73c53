"""What a person installs to launch a cluster, installed as the cluster files say: Azure's clients, which Ray drives,
and SkyPilot. They are not among this project's own dependencies, so each has a virtual environment here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import yaml

from mtquant_rllib.config.loader import configs_dir

ROOT = configs_dir().parent
FOLDER = configs_dir() / "cluster"


def python_with(folder: Path, *packages: str) -> Path:
    """The interpreter of a new virtual environment with these packages, in which Ray can be imported too."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    (place,) = folder.glob("lib/*/site-packages")
    (place / "ray_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def answered(python: Path, program: str, home: Path) -> str:
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    said = subprocess.run([python, "-c", program], capture_output=True, text=True, env=env, timeout=300)
    assert said.returncode == 0, said.stderr[-3000:]
    return said.stdout


AZURE = """
import json
from unittest import mock
import yaml
from ray.autoscaler._private._azure import config as azure, node_provider
from ray.autoscaler._private.util import prepare_config
from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.resource import ResourceManagementClient

# Clients that have what Azure's have, and answer as a subscription without this cluster.
real = ResourceManagementClient(mock.Mock(), "subscription")
resources = mock.Mock()
for name in ("resource_groups", "resources", "deployments", "providers"):
    setattr(resources, name, mock.create_autospec(getattr(real, name), instance=True))
resources.resources.list_by_resource_group.return_value = []
resources.resources.get_by_id.side_effect = ResourceNotFoundError("none")
outputs = {name: {"value": f"/{name}"} for name in ("msi", "nsg", "subnet")}
resources.deployments.begin_create_or_update.return_value.result.return_value.properties.outputs = outputs
compute = mock.MagicMock()
compute.resource_skus.list.return_value = []
profile = mock.Mock()
profile.get_subscription_id.return_value = "subscription"
for module in (azure, node_provider):
    module.get_cli_profile = lambda: profile
    module.ResourceManagementClient = lambda *words: resources
node_provider.ComputeManagementClient = lambda *words: compute
node_provider.NetworkManagementClient = mock.Mock()
node_provider.get_cloud_from_metadata_requests = lambda: "none"

ready = azure.bootstrap_azure(prepare_config(yaml.safe_load(open(FILE))))
provider = node_provider.AzureNodeProvider(ready["provider"], ready["cluster_name"])
asked = {}
for name, kind in ready["available_node_types"].items():
    resources.deployments.begin_create_or_update.reset_mock()
    tags = {"ray-node-type": "worker", "ray-node-name": name, "ray-user-node-type": name}
    provider.create_node(kind["node_config"], tags, 1)
    sent = resources.deployments.begin_create_or_update.call_args.kwargs["parameters"]["properties"]
    asked[name] = {key: value["value"] for key, value in sent["parameters"].items()}
    asked[name]["unknown"] = sorted(set(sent["parameters"]) - set(sent["template"]["parameters"]))
    needed = {key for key, own in sent["template"]["parameters"].items() if "defaultValue" not in own}
    asked[name]["missing"] = sorted(needed - set(sent["parameters"]))
print(json.dumps(asked))
"""


def test_azure_starts_what_the_file_describes(tmp_path: Path) -> None:
    """Ray's own bootstrap and node provider, on clients that the file's own command installs."""
    path = FOLDER / "azure.yaml"
    lines = yaml.safe_load(path.read_text())["head_setup_commands"]
    (line,) = [line for line in lines if "pip install" in line]
    words = shlex.split(line.replace("~/mtquant", str(ROOT)))
    python = python_with(tmp_path / "venv", *words[words.index("install") + 1 :])
    asked = json.loads(answered(python, AZURE.replace("FILE", repr(str(path))), tmp_path))
    assert sorted(asked) == ["gpu_on_demand", "gpu_spot", "head"]
    for machine in asked.values():
        assert not machine["unknown"], "Azure refuses a deployment with a parameter that its template lacks"
        assert not machine["missing"]
        assert machine["publicKey"].startswith("ssh-rsa")
    spot, sure = asked["gpu_spot"], asked["gpu_on_demand"]
    assert (spot["priority"], sure.get("priority", "Regular")) == ("Spot", "Regular")
    assert spot["vmSize"] == sure["vmSize"]
    told = re.search(r"`(pip install azure[^`]+)`", (ROOT / "docs" / "cluster.md").read_text())
    assert told is not None
    named = words[words.index("install") + 1 :]
    assert shlex.split(told[1])[2:] == [word for word in named if word not in ("-q", "-c", f"{ROOT}/constraints.txt")]


SKY = """
import jsonschema, sky, yaml
from sky.utils import schemas
task = yaml.safe_load(open(FILE))
for schema, part in ((schemas.get_task_schema(), task), (schemas.get_resources_schema(), task["resources"])):
    jsonschema.Draft202012Validator(schema).validate(part)
for resources in sky.Task.from_yaml(FILE).resources:
    print(resources.use_spot, sorted(resources.accelerators))
"""


def test_skypilot_takes_its_task(tmp_path: Path) -> None:
    python = python_with(tmp_path / "venv", "skypilot")
    said = answered(python, SKY.replace("FILE", repr(str(FOLDER / "skypilot.yaml"))), tmp_path)
    assert sorted(said.splitlines()) == ["True ['A10G']", "True ['L4']", "True ['T4']"]
