"""Checks of every node, by a process there: whether it has this project in the same versions, sees the same folders,
has the prepared market and tells the same time."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtquant_rllib import version
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.records.manifest import versions

ANSWER_SECONDS = 60.0
"""How long a process on a node may take to start and answer."""
CURES = {
    "silent": "`ray logs` on the node says why; restart it",
    "package": "install this project in its Ray's environment",
    "code": "install the same checkout on every node (`ray up` again sends this one)",
    "versions": "install the versions of constraints.txt on every node",
    "store": "give the node an identity (an instance role), or credentials in the environment of its `ray start`",
    "folder": "mount one shared folder on every node (NFS, EFS, Filestore, Azure Files)",
    "gpu": "install a driver for this CUDA, or begin the node's Ray with --num-gpus=0",
}


@dataclass(frozen=True)
class Fault:
    """Something that keeps a node from training. kind: a key of CURES."""

    kind: str
    said: str

    @property
    def cure(self) -> str:
        return CURES[self.kind]


@dataclass(frozen=True)
class NodeReport:
    """The state of a node. clock_off_s: by how much its clock differs from this machine's, at least; data: whether the
    prepared market is there, None where it was not asked for; name_is_loopback: whether its own name stands for
    127.x.x.x there."""

    faults: list[Fault] = field(default_factory=list)
    clock_off_s: float = 0.0
    data: bool | None = None
    name_is_loopback: bool = False


_CUDA = "import torch; print(torch.version.cuda if torch.version.cuda and not torch.cuda.is_available() else '')"
"""Prints the CUDA of a torch that cannot use any GPU."""


def _looker() -> Callable[[list[str], str, str | None, str | None, bool], dict[str, Any]]:
    """The function that a process on a node runs. Defined here, it travels by value: a node may lack this package."""
    cuda = _CUDA

    def look(folders: list[str], word: str, data: str | None, address: str | None, gpus: bool) -> dict[str, Any]:
        import contextlib
        import os
        import socket
        import subprocess
        import sys
        import time

        seen: dict[str, Any] = {"time": time.time(), "folders": {}}
        for folder in folders:
            own = os.path.join(folder, f"{word}.{os.getpid()}")
            try:
                with open(os.path.join(folder, word)) as file:
                    found = file.read()
                with open(own, "w") as file:
                    file.write(found)
                os.remove(own)
            except OSError as error:
                seen["folders"][folder] = error.strerror
        with contextlib.suppress(OSError):
            seen["name_is_loopback"] = socket.gethostbyname(socket.gethostname()).startswith("127.")
        if gpus:
            # Ray hides GPUs from a task that asked for none.
            env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                asked = subprocess.run(
                    [sys.executable, "-c", cuda], env=env, capture_output=True, text=True, timeout=40
                )
                seen["cuda_unusable"] = asked.stdout.strip()
        try:
            from mtquant_rllib.training.records.manifest import versions
            from mtquant_rllib.training.session.node_checks import code_of_package

            seen["versions"] = versions()
            seen["code"] = code_of_package()
            if data is not None:
                from mtquant_rllib.env.prepared.source import lies_here

                seen["data"] = lies_here(data)
            if address is not None:
                from mtquant_rllib.object_store import Store

                try:
                    Store.at(address).probe()
                except Exception as error:
                    seen["store"] = getattr(error, "strerror", None) or str(error)
        except ImportError as error:
            seen["missing"] = str(error)
        return seen

    return look


def code_of_package() -> str:
    """A hash of this package's source files, by which two checkouts of one version are told apart."""
    package = Path(version.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def inspect_nodes(
    nodes: Sequence[Node], folders: Sequence[Path], *, data: Path | None = None, address: str | None = None
) -> dict[str, NodeReport]:
    """Node id -> report, of all nodes at the same time.

    Parameters
    ----------
    folders
        Which every node should see as this machine does; a file is written there meanwhile.
    data
        The folder of the prepared market.
    address
        The folder in an object store that every node should reach.
    """
    remote = ray.remote(num_cpus=0, max_retries=0)(_looker())
    word, found = f".mtquant-probe-{time.time_ns()}", dict[str, NodeReport]()
    with _probes(folders, word):
        began, asked = time.time(), {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(str(node.id), soft=False)
            asked[str(node.id)] = remote.options(scheduling_strategy=there).remote(
                [str(folder) for folder in folders],
                word,
                None if data is None else str(data),
                address,
                bool(node.gpus),
            )
        for node_id, answer in asked.items():
            try:
                left = max(began + ANSWER_SECONDS - time.time(), 0.0)
                found[node_id] = node_report(ray.get(answer, timeout=left), began, time.time())
            except Exception as error:
                found[node_id] = NodeReport([Fault("silent", f"no process answers there ({type(error).__name__})")])
    return found


@contextlib.contextmanager
def _probes(folders: Sequence[Path], word: str) -> Iterator[None]:
    """A file in each folder, which nodes look for. Folders that were not there are removed again.

    Raises
    ------
    RunError
        When one cannot be written here.
    """
    made = [folder for folder in folders if not folder.exists()]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / word).write_text(word)
    except OSError as error:
        raise RunError(
            f"{error.filename}: cannot be written here ({error.strerror}); mount it, or name another folder"
        ) from error
    try:
        yield
    finally:
        for folder in folders:
            (folder / word).unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def node_report(seen: dict[str, Any], began: float, ended: float) -> NodeReport:
    """The answer of a node's process, compared with this machine. began, ended: times here between which it was asked
    and had answered."""
    faults = []
    if "missing" in seen:
        faults.append(Fault("package", str(seen["missing"])))
    else:
        here, theirs = versions(), seen["versions"]
        others = [f"{name} {theirs.get(name)} (here {own})" for name, own in here.items() if theirs.get(name) != own]
        if others:
            faults.append(Fault("versions", ", ".join(others)))
        elif seen["code"] != code_of_package():
            faults.append(Fault("code", "this project's code there is not the code here, though of the same version"))
    for folder, why in seen["folders"].items():
        faults.append(Fault("folder", f"{folder} is not the folder of that name here ({why})"))
    if seen.get("cuda_unusable"):
        faults.append(Fault("gpu", f"torch for CUDA {seen['cuda_unusable']} cannot use the GPU there"))
    if "store" in seen:
        faults.append(Fault("store", f"the object store does not answer there ({seen['store']})"))
    behind = max(began - seen["time"], seen["time"] - ended, 0.0)
    return NodeReport(faults, behind, seen.get("data"), bool(seen.get("name_is_loopback")))
