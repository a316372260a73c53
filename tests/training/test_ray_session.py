"""A run's Ray session keeps to this machine, keeps secrets, leaves nothing behind, and says why it cannot begin."""

from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.log import PlainRayHandler
from ray_drivers import LOOPBACK, descendants, driver, listening, words_of
from started_runs import Started

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.session import processes, ray_start
from mtquant_rllib.training.session.ray_leftovers import FILE, end_leftovers
from mtquant_rllib.training.session.ray_warnings import ray_warnings

ray_session = pytest.mark.ray
slow = pytest.mark.slow

PLANTED = "x9planted"
"""How all secrets begin that the run's environment had."""


@pytest.mark.slow
@ray_session
@slow
def test_every_socket_of_a_session_listens_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    process = driver(tmp_path, "stay")
    try:
        _, worker, sees = words_of(process, "READY")
        assert sees == "True", "an actor inherits what its driver's environment holds, S3 keys too"
        found = {pid: listening(pid) for pid in [process.pid, *descendants(process.pid)]}
        ports = {port: address for own in found.values() for port, address in own.items()}
        # GCS, raylet and object manager, runtime-environment agent, driver, worker.
        assert len(ports) >= 6
        assert found[int(worker)], "the actor's own server is among them"
        assert {address for address in ports.values() if address not in LOOPBACK} == set()
    finally:
        process.kill()
        process.wait()
    end_leftovers(tmp_path)


@ray_session
@slow
def test_no_secret_of_the_environment_stands_in_the_sessions_logs_or_in_the_run(allocator_run: Started) -> None:
    """Of a run with a runner in a process of its own and with a second tracker."""
    files = [path for folder in (allocator_run.sessions, allocator_run.run) for path in folder.rglob("*")]
    texts = {path: path.read_bytes() for path in files if path.is_file()}
    agent = [text for path, text in texts.items() if path.name == "runtime_env_agent.log"]
    assert b"PYTHONHASHSEED" in agent[0], "Ray does log the runtime environments of trials"
    assert any(path.suffix == ".wandb" for path in texts)
    assert [str(path) for path, text in texts.items() if PLANTED.encode() in text] == []


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where something listens and never answers."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
@slow
def test_a_wrong_address_is_refused_in_seconds(silent: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    refused = "nothing answers there .Connection refused."
    said = {f"127.0.0.1:{free}": refused, f"ray://127.0.0.1:{free}": refused}
    for address, words in {**said, f"127.0.0.1:{silent}": "nothing answers within 5 seconds"}.items():
        began = time.monotonic()
        with pytest.raises(RunError, match=rf"{address}: {words}; `ray status"):
            ray_start.join_cluster(address)
        assert time.monotonic() - began < (1 if words == refused else 10)
    with pytest.raises(RunError, match="expected HOST:PORT"):
        ray_start.join_cluster("somewhere")


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what answers there is no Ray cluster"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is no Ray cluster"),
        (b"", "nothing answers there .Connection closed by what listens there."),
    ],
    ids=["ssh", "http", "hangs up"],
)
def test_what_listens_and_is_no_cluster_is_told_at_once(says: bytes, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(says)

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(RunError, match=told):
            ray_start.join_cluster(f"127.0.0.1:{server.getsockname()[1]}")
        answering.join()


def test_a_cluster_of_another_version_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Traceback:\n  File x\nRuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.1"
    answer = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(ray_start, "_expect_listener", lambda address: None)
    monkeypatch.setattr(subprocess, "run", lambda *words, **how: answer)
    with pytest.raises(RunError, match=r"started with:; install ray=="):
        ray_start.join_cluster("10.0.0.1:6379")


TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster of this machine that asks for a token, which this process has; its address."""
    temporary = Path("/tmp") / f"mtqc{os.getpid()}"
    for name, value in {"RAY_TMPDIR": temporary, "HOME": tmp_path, "RAY_AUTH_MODE": "token"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    words = "start --head --port=0 --num-cpus=2 --include-dashboard=false --object-store-memory=100000000"
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words.split()], check=True, capture_output=True)
    try:
        yield (temporary / "ray" / "ray_current_cluster").read_text().strip()
    finally:
        own = [
            one
            for one in processes.own_processes()
            if any(str(temporary) in word for word in processes.command_line(one.pid))
            or processes.holds_open(one.pid, temporary)
        ]
        processes.kill(own, 10)
        shutil.rmtree(temporary)


@pytest.mark.slow
@ray_session
@slow
def test_a_cluster_is_joined_with_its_token_and_named_with_the_cure_without(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    joined, said = driver(run, at=cluster).communicate(timeout=60)
    named, ready, *_ = joined.splitlines()
    assert named == f"joins the Ray cluster at {cluster}: 2 CPUs"
    assert ready.startswith("READY"), said
    assert not (run / FILE).exists()
    wanted = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    assert wanted in " ".join(words_of(driver(run, at=cluster), "REFUSED"))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    without = " ".join(words_of(driver(run, at=cluster), "REFUSED"))
    assert "RAY_AUTH_MODE=token is set here, and no token; " + wanted in without
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert wanted in " ".join(words_of(driver(run, at=cluster), "REFUSED"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert words_of(driver(run, at=cluster), "READY"), "as after `ray start` on this machine, with nothing set"


@pytest.mark.slow
@ray_session
@slow
def test_a_session_that_cannot_start_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    short = driver(tmp_path, first="overrides[1] = 'resources.object_store_mb=1'\n")
    said = " ".join(words_of(short, "REFUSED"))
    assert "minimum allowed" in said
    assert said.endswith("set resources.object_store_mb=75 or more")
    assert not (tmp_path / FILE).exists()
    short.wait(timeout=30)

    # A token cannot be written where home is no folder.
    os.environ["HOME"], before = str(tmp_path / "home"), os.environ["HOME"]
    try:
        (tmp_path / "home").write_text("a file")
        homeless = driver(tmp_path)
    finally:
        os.environ["HOME"] = before
    assert "Ray keeps a token in ~/.ray" in " ".join(words_of(homeless, "REFUSED"))
    homeless.wait(timeout=30)


@pytest.mark.slow
@ray_session
@slow
def test_ray_warns_the_person_of_too_little_shared_memory_and_of_nothing_else(tmp_path: Path) -> None:
    full = "import ray._private.utils as utils\nutils.get_shared_memory_bytes = lambda: 10 * 2**20\n"
    process = driver(tmp_path, first=full)
    out, _ = process.communicate(timeout=120)
    warned = [line for line in out.splitlines() if not line.startswith("READY")]
    assert len(warned) == 1, out
    assert "Ray: WARNING: The object store is using" in warned[0]
    assert (tmp_path / "run.log").read_text().strip() == warned[0]


def test_warnings_of_ray_go_to_the_runs_log_and_errors_to_the_console_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.StringIO()
    (rays,) = (handler for handler in logging.getLogger("ray").handlers if isinstance(handler, PlainRayHandler))
    monkeypatch.setattr(rays, "stream", console)
    log = logging.FileHandler(tmp_path / "run.log")
    ours = logging.getLogger("mtquant_rllib.training")
    ours.addHandler(log)
    try:
        with ray_warnings():
            logging.getLogger("ray.somewhere").warning("the disk\nis nearly full")
            logging.getLogger("ray.somewhere").info("all is well")
            logging.getLogger("ray.somewhere").error("the disk is full")
    finally:
        ours.removeHandler(log)
        log.close()
    assert (tmp_path / "run.log").read_text().splitlines() == [
        "Ray: the disk is nearly full",
        "Ray: the disk is full",
    ]
    assert console.getvalue().count("the disk is full") == 1
    assert "nearly" not in console.getvalue()
