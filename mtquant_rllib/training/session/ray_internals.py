"""Private parts of Ray that this project patches or reads, because no public setting does the same.

tests/training/test_ray_internals.py would notice if one were gone or did no more what it does here; of the first,
test_ray_session.py.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ray._private.ray_constants as ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.state import available_resources_per_node
from ray.air.execution._internal import RayActorManager
from ray.rllib.core.learner import learner_group
from ray.train._internal.checkpoint_manager import _CheckpointManager
from ray.tune.execution import class_cache
from ray.tune.utils import serialization

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
"""Names of environment variables whose values are nobody's business."""


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """Make a session that begins meanwhile listen on this machine's loopback interface alone.

    Every process of a session binds to the loopback interface if the node's address is 127.0.0.1, and to all
    interfaces otherwise. `ray.init(_node_ip_address="127.0.0.1")` is turned into the machine's outward address, unless
    this constant is false. Its setting, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, is read when Ray is imported: too late
    for a library, and wrong for a program that joins a cluster.

    What it cannot confine: with several learners a trial, the first of them opens torch's own meeting place (TCPStore),
    which listens on all interfaces and has no setting for it.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def secrets_unsent() -> Iterator[None]:
    """Keep secrets out of the runtime environment that Tune gives its trials.

    Tune copies the driver's AWS credentials into it, and Ray's runtime-environment agent writes every runtime
    environment into a log that every user of the machine may read. Trials do not need the copy: processes of a session
    on this machine inherit the driver's environment, and a cluster's nodes have an identity (an instance role) or the
    environment they were started in.
    """
    names = class_cache.ENV_VARS_TO_PROPAGATE
    secret = {name for name in names if SECRET.search(name)}
    names -= secret
    try:
        yield
    finally:
        names |= secret


@contextlib.contextmanager
def sent_to_trials(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in the processes of trials, and in those that these start, of a session that began
    without them. Tune passes on variables of its driver by a fixed list of names."""
    names, before = class_cache.ENV_VARS_TO_PROPAGATE, {name: os.environ.get(name) for name in variables}
    new = set(variables) - names
    names |= new
    os.environ.update(variables)
    try:
        yield
    finally:
        names -= new
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def learners_reducing_by(backend: str) -> Iterator[None]:
    """Let learners that are built meanwhile reduce their gradients by `nccl` or `gloo`.

    RLlib takes NCCL wherever a learner asks for a GPU, if only for a part of one: NCCL refuses two processes on one
    GPU, and a torch without CUDA has none. It has no setting for it.
    """
    before: Any = learner_group._get_backend_config

    def chosen(learner_class: type) -> Any:
        config = before(learner_class)
        config.backend = backend
        return config

    learner_group._get_backend_config = chosen
    try:
        yield
    finally:
        learner_group._get_backend_config = before


@contextlib.contextmanager
def bounded_tune_memory() -> Iterator[None]:
    """Let Tune drop handled results and all checkpoint records of a trial but the newest: it would keep every one.

    Tune's manager of actors notes the future of every call in a set that it empties only when the actor ends, and a
    future keeps its result. Its manager of checkpoints remembers them all unless it is the one that removes them. And
    each time it writes its records it notes the text of every object that JSON does not know, so as to log it once:
    together some 40 kB with every update.
    """
    actors: Any = RayActorManager
    checkpoints: Any = _CheckpointManager
    handle, register = actors.next, checkpoints.register_checkpoint

    def handled(manager: Any, timeout: Any = None) -> bool:
        happened: bool = handle(manager, timeout)
        open_calls = manager._actor_task_events.get_futures()
        for calls in manager._tracked_actors_to_task_futures.values():
            calls &= open_calls
        return happened

    def registered(manager: Any, checkpoint_result: Any) -> None:
        register(manager, checkpoint_result)
        del manager._checkpoint_results[:-1]

    encoder: Any = serialization
    log_once = encoder.log_once
    actors.next, checkpoints.register_checkpoint, encoder.log_once = handled, registered, lambda text: False
    try:
        yield
    finally:
        actors.next, checkpoints.register_checkpoint, encoder.log_once = handle, register, log_once


def free_by_node() -> dict[str, dict[str, float]]:
    """Node id -> resources that are free there. Ray's public sum over all nodes does not say where
    something is free, and its state API asks a dashboard, which a session need not have."""
    free: dict[str, dict[str, float]] = available_resources_per_node()
    return free


def use_own_token() -> None:
    """Send this user's token to the cluster that is joined next. Ray does so by itself for the address `auto` alone;
    for any other it wants RAY_AUTH_MODE in the environment before it is imported."""
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
