"""Starts a Ray session on this machine or joins a cluster; a failure is one sentence with its cause."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.session import processes
from mtquant_rllib.training.session.ray_internals import loopback, use_own_token
from mtquant_rllib.training.session.ray_leftovers import END_SECONDS, ray_processes

ANSWER_SECONDS = 10
"""How long a cluster may take to answer. `ray.init` itself would try an address where nothing listens for a quarter of
an hour: 20 times 40 seconds."""
LISTENER_SECONDS = 5
"""How long a machine may take to accept a connection, and what listens there to say a first word."""
SETTINGS_FRAME = 4
"""Type of the frame with which both sides of an HTTP/2 connection begin, as gRPC's do; the fourth byte of its head."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS_FRAME, 0, 0, 0, 0, 0])
"""What a client says first: a fixed line and a SETTINGS frame without settings (RFC 9113, sections 3.4, 4.1, 6.5)."""
LEAST_STORE_MB = math.ceil(ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES / 2**20)
"""Of a session's object store, by Ray's own rule."""
CLIENT = "ray://"
AUTH_MODE = "RAY_AUTH_MODE"


def start_local(cpus: int, object_store_mb: int, **common: Any) -> Path:
    """Start a session of this process alone, on the loopback interface; its folder.

    Raises
    ------
    RunError
        When Ray does not start.
    """
    before = ray_processes()
    try:
        with loopback():
            # "local": never the session that a killed driver left behind.
            context: Any = ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=object_store_mb * 2**20,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except Exception as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        processes.kill(ray_processes() - before, END_SECONDS)
        raise RunError(f"Ray does not start: {_sentence(str(error))}; {_cure(error, object_store_mb)}") from error
    return Path(context.address_info["session_dir"])


def join_cluster(address: str, **common: Any) -> None:
    """Connect to a cluster.

    Raises
    ------
    RunError
        When nothing answers at the address within `ANSWER_SECONDS`, or what answers is no cluster that this process
        can join: another version of Ray, another token.
    """
    _expect_listener(address)
    if not address.startswith(CLIENT) and _expect_cluster(address):
        use_own_token()
    try:
        ray.init(address=address, **common)
    except Exception as error:
        raise _no_cluster(address, str(error) or type(error).__name__) from error


def _expect_listener(address: str) -> None:
    """Where nothing listens at HOST:PORT, say so at once. Other forms of an address are Ray's to judge."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        return
    if int(port) > 65535:
        raise _no_cluster(address, f"Invalid address format: there is no port {port}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_SECONDS) as connection:
            first = b"" if os.environ.get("RAY_USE_TLS", "0") not in ("", "0") else _first_frame(connection)
    except TimeoutError as error:
        raise _no_cluster(address, f"nothing answers within {LISTENER_SECONDS} seconds") from error
    except OSError as error:
        raise _no_cluster(address, f"nothing answers there ({error.strerror or error})") from error
    if first and first[3] != SETTINGS_FRAME:
        raise _no_cluster(address, "what answers there is no Ray cluster")


def _first_frame(connection: socket.socket) -> bytes:
    """Head of the first frame that a server of HTTP/2 sends. Raises ConnectionError when it hangs up instead."""
    connection.sendall(PREFACE)
    head = b""
    while len(head) < 9:
        if not (more := connection.recv(9 - len(head))):
            raise ConnectionResetError(errno.ECONNRESET, "Connection closed by what listens there")
        head += more
    return head


def _expect_cluster(address: str) -> bool:
    """Let Ray's own health check ask, in a process of its own, which can be given up on: `ray.init` cannot.

    Returns whether the cluster takes this user's token alone, though nothing here says to send it: `ray start` makes a
    cluster that wants one wherever the user has one.
    """
    said = _asked(address, {})
    if said is None:
        return False
    if "uthentication" in said and AUTH_MODE not in os.environ and _asked(address, {AUTH_MODE: "token"}) is None:
        return True
    raise _no_cluster(address, said)


def _asked(address: str, env: dict[str, str]) -> str | None:
    """The error of Ray's health check; None where it passes."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        asked = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, env={**os.environ, **env}
        )
    except subprocess.TimeoutExpired:
        return f"nothing answers within {ANSWER_SECONDS} seconds"
    return asked.stderr if asked.returncode else None


def _no_cluster(address: str, said: str) -> RunError:
    if "authentication_token_loader" in said:
        # Ray ends a process that is to use a token and has none.
        said = "AuthenticationError: RAY_AUTH_MODE=token is set here, and no token"
    cure = f"`ray status --address {address}` on one of its nodes shows whether it runs; `ray start --head` starts one"
    if "uthentication" in said:
        cure = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` says on the cluster's head"
    elif "ersion mismatch" in said:
        cure = f"install ray=={ray.__version__} and the same Python on its nodes, or theirs here"
    elif "Invalid address format" in said:
        cure = "expected HOST:PORT, as `ray start --head` names it, or auto for the one on this machine"
    return RunError(f"no Ray cluster can be joined at {address}: {_sentence(said)}; {cure}")


def _cure(error: Exception, object_store_mb: int) -> str:
    text = str(error)
    if "minimum allowed" in text:
        return f"set resources.object_store_mb={LEAST_STORE_MB} or more"
    if "/dev/shm" in text or "object store" in text or "No space left" in text:
        return f"free /dev/shm and /tmp, or ask for less than {object_store_mb} MB with --set resources.object_store_mb"
    if "AF_UNIX" in text:
        return "name a shorter folder in RAY_TMPDIR"
    if isinstance(error, OSError):
        return "Ray keeps a token in ~/.ray and its sessions in /tmp/ray: let both be writable (HOME, RAY_TMPDIR)"
    logs = os.path.join(ray._common.utils.get_default_ray_temp_dir(), "session_latest", "logs")
    return f"its logs are in {logs}"


def _sentence(said: str) -> str:
    """The first sentence of what Ray said last: of a traceback its exception, without the exception's name."""
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()] or ["no reason given"]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Timeout): ", line)]
    text = re.sub(r"^[\w.]+(Error|Exception|Timeout): ", "", raised[-1]) if raised else lines[0]
    return re.split(r"(?<=[^.])\.(?: |$)", text)[0]
