"""The Ray session that a run trains in: its own on this machine, a cluster's, or the one that is open in this process
already (a notebook's, a Tune function's), which it leaves open.

Its own listens on the loopback interface alone, and is on record in the run's folder while it lasts, so that what a
killed driver leaves of it is ended by the run's next start (`ray_leftovers`).

Secrets in the environment (credentials of a storage, a tracker's key) reach the processes of a session on this machine
because they inherit the driver's environment; on a cluster, its nodes have their own. They are never put into Ray's
runtime environments, which stand in Ray's logs (`ray_internals`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util import placement_group_table

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.training import WorkerType
from mtquant_rllib.env.prepared.data import CACHE_VARIABLE, cache_folder
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.placement.local_cpus import local_cpus
from mtquant_rllib.training.placement.nodes import Node, listed
from mtquant_rllib.training.placement.worker_types import startable, worker_types
from mtquant_rllib.training.session.process_variables import PROCESS_VARIABLES
from mtquant_rllib.training.session.ray_internals import free_by_node, secrets_unsent, sent_to_trials
from mtquant_rllib.training.session.ray_leftovers import end_leftovers, forget_session, record_session
from mtquant_rllib.training.session.ray_start import join_cluster, start_local
from mtquant_rllib.training.session.ray_warnings import ray_warnings

ON_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""What keeps several learners' sums on this machine: gloo binds to whatever the host's name stands for otherwise."""


@dataclass(frozen=True)
class SessionNodes:
    """What the session has, asked for anew each time: nodes come and go.

    gpus: whether theirs can be used. kinds: what an autoscaler may start.
    """

    gpus: bool
    kinds: tuple[WorkerType, ...] = ()

    def startable(self) -> list[Node]:
        """Nodes that the autoscaler may start now."""
        return startable(self.kinds, self.nodes())

    def free(self) -> dict[str, dict[str, float]]:
        """By node: what of its CPUs and GPUs is not handed out."""
        return free_by_node()

    def held_places(self) -> list[list[Mapping[str, float]]]:
        """The bundles of each placement group of this program whose resources Ray has handed out."""
        job = ray.get_runtime_context().get_job_id()
        return [
            [group["bundles"][number] for number in sorted(group["bundles"])]
            for group in placement_group_table().values()
            # The id of a placement group ends with the id of the job that asked for it.
            if group["state"] == "CREATED" and group["placement_group_id"].endswith(job)
        ]

    def nodes(self) -> list[Node]:
        """Those that are alive, the head first, without what a Tune function that trains in them holds itself."""
        context = ray.get_runtime_context()
        held = context.get_assigned_resources() if context.get_actor_id() is not None else {}
        home = context.get_node_id()
        alive = [node for node in ray.nodes() if node["Alive"]]
        alive.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeID"]))
        addresses = [node["NodeManagerAddress"] for node in alive]
        return [
            Node(
                name=address if addresses.count(address) == 1 else f"{address}#{node['NodeID'][-4:]}",
                cpus=node["Resources"].get("CPU", 0.0) - (held.get("CPU", 0.0) if node["NodeID"] == home else 0.0),
                gpus=node["Resources"].get("GPU", 0.0) if self.gpus else 0.0,
                id=node["NodeID"],
            )
            for node, address in zip(alive, addresses)
        ]


def local_node(settings: Settings) -> Node:
    """This machine as the only node of a local session."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Node("127.0.0.1", settings.resources.cpus or local_cpus(), gpus, id="local")


def overcommitted(settings: Settings) -> str | None:
    """A warning where a local session would hand out more CPUs than the machine has; None otherwise."""
    asked, there = settings.resources.cpus, local_cpus()
    if asked is None or asked <= there:
        return None
    return f"resources.cpus = {asked} on a machine of {there}: its processes share the {there}"


@contextlib.contextmanager
def joined(settings: Settings, address: str) -> Iterator[SessionNodes]:
    """Connect to a cluster for as long as the block lasts.

    Raises
    ------
    RunError
        When none answers there.
    """
    kinds = worker_types(settings.resources.worker_types)
    with ray_warnings():
        join_cluster(address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            yield SessionNodes(gpus=True, kinds=kinds)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def session(
    settings: Settings, run: Path, address: str | None, tell: Callable[[str], None] = print
) -> Iterator[SessionNodes]:
    """A Ray session whose processes compute reproducibly.

    Raises
    ------
    RunError
        When another process is training this run, Ray does not start, no cluster answers at `address`, or there is an
        address and a session is open already.
    """
    opened = ray.is_initialized()
    if opened and address is not None:
        raise RunError(
            f"--address {address}: a Ray session is open in this process; leave the address out to train in it, or end "
            "it with ray.shutdown()"
        )
    own = address is None and not opened
    kinds = () if own else worker_types(settings.resources.worker_types)
    end_leftovers(run)
    # Tune's own table and banners would stand between our lines.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    # Processes of a session on this machine share its cache, wherever Ray starts them; other nodes have their own.
    actors = {**PROCESS_VARIABLES, **({**ON_LOOPBACK, CACHE_VARIABLE: str(cache_folder().resolve())} if own else {})}
    common: dict[str, Any] = {
        "runtime_env": {"env_vars": actors},
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    with ray_warnings() as warnings, secrets_unsent(), sent_to_trials(PROCESS_VARIABLES if opened else {}):
        warnings.beginning = True
        if opened:
            tell("trains in the Ray session that is open in this process")
        elif address is None:
            if (said := overcommitted(settings)) is not None:
                tell(said)
            folder = start_local(int(local_node(settings).cpus), settings.resources.object_store_mb, **common)
            record_session(run, folder)
        else:
            join_cluster(address, **common)
        warnings.beginning = False
        machines = SessionNodes(gpus=not own or torch.cuda.is_available(), kinds=kinds)
        if address is not None:
            tell(f"joins the Ray cluster at {ray.get_runtime_context().gcs_address}: {listed(machines.nodes())}")
        try:
            yield machines
        finally:
            if not opened:
                ray.shutdown()
            if own:
                forget_session(run)
