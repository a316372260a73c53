"""`ray job submit`, as docs/cluster.md has it: stopped half way, the same command carries the run on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runs
from clusters import STORE_MB
from processes import below, kill
from table import TABLE, Row


@pytest.fixture
def head_with_a_dashboard(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head that takes jobs; the variables of whoever submits one."""
    temporary, port, jobs, agent = Path(f"/tmp/mtqj{os.getpid()}"), 6392, 8392, 8393
    words = ["start", "--head", f"--port={port}", "--num-cpus=2", f"--object-store-memory={STORE_MB * 2**20}"]
    # The agent's usual port is that of any other session's on this machine.
    words += [f"--dashboard-port={jobs}", f"--dashboard-agent-listen-port={agent}", "--block"]
    env = {**os.environ, "RAY_TMPDIR": str(temporary), "MTQUANT_CACHE": str(tmp_path / "cache")}
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = runs.listening(head)
    assert said.says("command will now block"), said.text
    # Where this user has a token the head wants it.
    token = {"RAY_AUTH_MODE": "token"} if "uthentication" in said.text else {}
    yield {**env, **token, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{jobs}"}
    for pid, _ in [*below(head.pid), (head.pid, "")]:
        kill(pid, signal.SIGKILL)
    head.wait()
    shutil.rmtree(temporary, ignore_errors=True)


def test_a_job_is_submitted_and_submitted_again(
    tmp_path: Path, reference: Callable[..., Path], head_with_a_dashboard: dict[str, str]
) -> None:
    """`ray job submit`, as in docs/cluster.md; stopped half way, the same command carries the run on."""
    whole, run = reference(), tmp_path / "runs" / "x"
    program = str(Path(sys.executable).with_name("mtquant"))
    train = [program, "train", "--resume", "--address", "auto", "--run", str(run), "--budget-scale", runs.SCALE]
    words = [*train, *runs.settings(small=runs.ON_CLUSTER)]

    def job(*command: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "ray.scripts.scripts", "job", *command]
        return subprocess.run(call, env=head_with_a_dashboard, capture_output=True, text=True, timeout=400)

    deadline = time.monotonic() + 60
    while True:
        first = job("submit", "--no-wait", "--submission-id", "first", "--", *words)
        # A head takes jobs a moment after it says that it is there.
        if "No available agent" not in first.stderr + first.stdout or time.monotonic() > deadline:
            break
        time.sleep(1.0)
    assert first.returncode == 0, first.stdout + first.stderr
    deadline = time.monotonic() + 200
    while not list(run.glob("phase_2/desk/checkpoint_*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert job("stop", "first").returncode == 0
    second = job("submit", "--submission-id", "second", "--", *words)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-2000:]
    assert "goes on from" in second.stdout
    differing = runs.differences(whole, run)
    seen = next(line.strip() for line in second.stdout.splitlines() if "goes on from" in line)
    TABLE.add(Row("ray job submit, stopped, submitted again", True, 0, seen, len(differing)))
    assert not differing
