"""Drivers of a Ray session in processes of their own, and what the kernel says of such processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_DRIVER = """
import logging, os, sys, time
from pathlib import Path
import ray
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.training.session.ray_session import session

run = Path(sys.argv[1])
overrides = ["resources.cpus=2", "resources.object_store_mb=100"]

@ray.remote
class Worker:
    def number(self):
        return os.getpid()
    def sees(self, name):
        return name in os.environ
    def compute(self):
        import hashlib
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 200_000_000)

run.mkdir(exist_ok=True)
logging.getLogger("mtquant_rllib").addHandler(logging.FileHandler(run / "run.log"))
"""
_SESSION = """
try:
    with session(Settings.load(overrides=overrides), run, at):
        folder = ray._private.worker.global_worker.node.get_session_dir_path()
        worker = Worker.remote()
        number = ray.get(worker.number.remote())
        sees = ray.get(worker.sees.remote("AWS_SECRET_ACCESS_KEY"))
        if "compute" in sys.argv:
            worker.compute.remote()
        print("READY", folder, number, sees, flush=True)
        if "stay" in sys.argv:
            time.sleep(120)
except MtquantError as error:
    print("REFUSED", error, flush=True)
"""


def driver(run: Path, *words: str, first: str = "", at: str | None = None) -> subprocess.Popen[str]:
    """A session of this run with one actor, which with `compute` computes without looking up; `stay` keeps it open.

    first: Python that runs before. at: a cluster to join.
    """
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER + f"at = {at!r}\n{first}" + _SESSION, str(run), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def words_of(process: subprocess.Popen[str], word: str) -> list[str]:
    """What the driver's line that begins with this word goes on to say."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(word):
            return line.split()[1:]
    raise AssertionError(f"never said {word}: {''.join(said)[-3000:]}")


def descendants(pid: int) -> list[int]:
    """Numbers of a process's children, their children, and so on."""
    found: list[int] = []
    ahead = [pid]
    while ahead:
        for task in Path(f"/proc/{ahead.pop()}/task").glob("*"):
            children = [int(number) for number in (task / "children").read_text().split()]
            found += children
            ahead += children
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def listening(pid: int) -> dict[int, str]:
    """TCP ports on which a process listens, and the address of each, as the kernel's tables write it."""
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(handle)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found[int(port, 16)] = address
    return found


LOOPBACK = {
    "0100007F": "127.0.0.1",
    "0000000000000000FFFF00000100007F": "127.0.0.1 in IPv6's clothes",
    "00000000000000000000000001000000": "::1",
}
"""As the kernel of a little-endian machine writes them."""
