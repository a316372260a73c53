"""A run's Ray session keeps to this machine, keeps secrets, leaves nothing behind, and says why it cannot begin."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray._private.log import PlainRayHandler
from ray_drivers import LOOPBACK, alive, descendants, driver, gone, listening, words_of

from mtquant_rllib.errors import RunError
from mtquant_rllib.training import processes, ray_leftovers, ray_start
from mtquant_rllib.training.ray_leftovers import FILE, end_leftovers
from mtquant_rllib.training.ray_seams import secrets_unsent
from mtquant_rllib.training.ray_warnings import ray_warnings

ray_session = pytest.mark.ray
slow = pytest.mark.slow

SECRETS = {
    "AWS_ACCESS_KEY_ID": "x9planted-aws-id-5c1e",
    "AWS_SECRET_ACCESS_KEY": "x9planted-aws-key-5c1e",
    "AWS_SESSION_TOKEN": "x9planted-aws-token-5c1e",
    "AZURE_STORAGE_KEY": "x9planted-azure-5c1e",
    "GOOGLE_APPLICATION_CREDENTIALS": "/x9planted-google-5c1e.json",
    "DATABASE_PASSWORD": "x9planted-password-5c1e",
    "HF_TOKEN": "x9planted-hub-5c1e",
}


@ray_session
@slow
def test_every_socket_of_a_session_listens_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
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
def test_what_a_killed_driver_leaves_is_ended_by_the_next_start_and_nothing_else_is(tmp_path: Path) -> None:
    first = driver(tmp_path, "stay")
    folder, worker, _ = words_of(first, "READY")
    family = descendants(first.pid)
    stranger = driver(tmp_path / "other", "stay")
    words_of(stranger, "READY")
    others = descendants(stranger.pid)

    refused = driver(tmp_path)
    assert f"process {first.pid} is training this run" in " ".join(words_of(refused, "REFUSED"))

    first.kill()
    first.wait()
    assert alive(int(worker)), "it computes on, its driver dead"
    second = driver(tmp_path)
    own, *_ = words_of(second, "READY")
    assert not [pid for pid in family if alive(pid)]
    assert not Path(folder).exists()
    assert [pid for pid in others if alive(pid)] == others, "another run's session goes on"

    second.wait(timeout=60)
    assert Path(own).is_dir(), "a session that ended as it should keeps its logs"
    assert not (tmp_path / FILE).exists()
    stranger.kill()
    stranger.wait()
    end_leftovers(tmp_path / "other")
    assert gone(others, 1)


def record(run: Path, one: processes.Process, folder: Path, **changed: object) -> None:
    dead = {"pid": 2**22 + 1, "start": 1}
    own = {"pid": one.pid, "start": one.start}
    tree = {"here": processes.here(), "driver": dead, "folder": str(folder), "processes": [own]}
    (run / FILE).write_text(json.dumps({**tree, **changed}))


@pytest.fixture
def like_ray(tmp_path: Path) -> object:
    """A process whose command line is like a Ray worker's, and its number and start."""
    name = tmp_path / "ray::Like"
    name.symlink_to("/bin/sleep")
    process = subprocess.Popen(["ray::Like", "60"], executable="/bin/sleep")
    found = None
    while found is None or not ray_leftovers.is_ray(process.pid):
        found = processes.process(process.pid)
    yield found
    process.kill()
    process.wait()


def test_a_number_that_another_process_has_by_now_is_left_alone(tmp_path: Path, like_ray: processes.Process) -> None:
    earlier = processes.Process(like_ray.pid, like_ray.start - 1)
    record(tmp_path, earlier, tmp_path)
    assert end_leftovers(tmp_path) == []
    assert processes.alive(like_ray)
    record(tmp_path, like_ray, tmp_path, here="another boot")
    assert end_leftovers(tmp_path) == []
    assert processes.alive(like_ray)
    record(tmp_path, like_ray, tmp_path)
    assert end_leftovers(tmp_path) == [like_ray]
    assert not processes.alive(like_ray)
    assert not (tmp_path / FILE).exists()


def test_a_recorded_process_that_is_not_rays_is_left_alone(tmp_path: Path) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        one = processes.process(innocent.pid)
        assert one is not None
        record(tmp_path, one, tmp_path)
        assert end_leftovers(tmp_path) == []
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize("name", ["mine", "session_2026-01-01_00-00-00_000000_1", "session_latest"])
def test_a_folder_that_is_not_the_dead_drivers_session_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ray._common.utils.get_default_ray_temp_dir", lambda: str(tmp_path))
    ended = tmp_path / "session_2026-01-01_00-00-00_000000_4194305"
    for folder in (tmp_path / name, ended, tmp_path / "inner" / ended.name):
        folder.mkdir(parents=True, exist_ok=True)
    nobody = processes.Process(2**22 + 1, 1)
    for folder in (tmp_path / name, tmp_path / "inner" / ended.name, ended / ".." / name):
        record(tmp_path, nobody, folder)
        end_leftovers(tmp_path)
        assert folder.is_dir()
    record(tmp_path, nobody, ended)
    end_leftovers(tmp_path)
    assert not ended.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": [{"pid": "x"}]}'])
def test_a_broken_record_does_not_keep_a_run_from_starting(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert end_leftovers(tmp_path) == []


@ray_session
@slow
def test_no_secret_of_the_environment_stands_in_the_sessions_logs_or_in_the_run(tmp_path: Path) -> None:
    run, temporary = tmp_path / "run", Path("/tmp") / f"mtq{os.getpid()}"
    small = ["embedded.train={paths: 1, years: 3}", "embedded.validation={paths: 1, years: 3}"]
    small += ["embedded.test={paths: 1, years: 3}", "desk.episode.bars=20", "recipe.environments=4"]
    small += ["recipe.validations=1", "resources.cpus=2", "resources.runners=1", "tracking.wandb=true"]
    command = [sys.executable, "-m", "mtquant_rllib.cli", "train", "--phase", "1", "--run", str(run)]
    command += ["--budget-scale", "0.0005", *(word for override in small for word in ("--set", override))]
    env = {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"} | SECRETS
    env |= {"RAY_TMPDIR": str(temporary), "MTQUANT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]

    files = [path for folder in (temporary, run) for path in folder.rglob("*") if path.is_file()]
    texts = {path: path.read_bytes() for path in files}
    shutil.rmtree(temporary)
    agent = [text for path, text in texts.items() if path.name == "runtime_env_agent.log"]
    assert b"MTQUANT_RUN" in agent[0], "Ray does log the runtime environments of trials"
    assert any(path.suffix == ".wandb" for path in files)
    assert [str(path) for path, text in texts.items() if b"x9planted" in text] == []


def test_tune_sends_no_secret_and_what_it_sends_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution.class_cache import _ActorClassCache

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")

    class Trainable:
        pass

    def sent() -> dict[str, str]:
        return dict(_ActorClassCache().get(Trainable)._default_options["runtime_env"]["env_vars"])

    assert "AWS_SECRET_ACCESS_KEY" in sent(), "Tune no longer sends them by itself: ray_seams may go"
    with secrets_unsent():
        assert set(sent()) & set(SECRETS) == set()
        assert sent()["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert "AWS_SECRET_ACCESS_KEY" in sent()


@pytest.fixture
def silent() -> object:
    """A port where something listens and never answers."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


def test_a_wrong_address_is_refused_in_seconds(silent: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    for address, said in ((f"127.0.0.1:{free}", "nothing answers"), (f"127.0.0.1:{silent}", "nothing answers")):
        began = time.monotonic()
        with pytest.raises(RunError, match=rf"{address}: {said} within 10 seconds; `ray status"):
            ray_start.join_cluster(address)
        assert time.monotonic() - began < 15
    with pytest.raises(RunError, match="expected HOST:PORT"):
        ray_start.join_cluster("somewhere")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: missing. More",
            r"missing; set RAY_AUTH_MODE",
        ),
        (
            "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.1",
            r"started with:; install ray==",
        ),
    ],
)
def test_a_cluster_that_refuses_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch, said: str, told: str) -> None:
    answer = subprocess.CompletedProcess([], 1, "", f"Traceback (most recent call last):\n  File x\n{said}")
    monkeypatch.setattr(subprocess, "run", lambda *words, **how: answer)
    with pytest.raises(RunError, match=told):
        ray_start.join_cluster("10.0.0.1:6379")


@ray_session
@slow
def test_a_session_that_cannot_start_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    short = driver(tmp_path, first="overrides[1] = 'resources.object_store_mb=1'\n")
    said = " ".join(words_of(short, "REFUSED"))
    assert "minimum allowed" in said
    assert said.endswith("ask for more than 1 MB with --set resources.object_store_mb")
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
