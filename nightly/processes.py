"""Processes below another, what they are called and what they hold."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def below(root: int) -> list[tuple[int, str]]:
    """Processes below this one, however deep, and their command lines."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[tuple[int, str]]] = {}
    for pid, parent, args in (line.split(None, 2) for line in listed.splitlines()[1:]):
        children.setdefault(int(parent), []).append((int(pid), args))
    found, waiting = [], [root]
    while waiting:
        for pid, args in children.get(waiting.pop(), []):
            found.append((pid, args))
            waiting.append(pid)
    return found


class Node:
    """A node of a Ray cluster, started as on another machine: `ray start`, with folders that it does not see."""

    def __init__(self, address: str, *, cpus: int, hidden: Sequence[Path], env: Mapping[str, str]) -> None:
        start = f"{sys.executable} -m ray.scripts.scripts start --address={address} --num-cpus={cpus} --block"
        start += f" --object-store-memory={100 * 2**20}"
        mounts = " && ".join(["true", *(f"mount -t tmpfs tmpfs {folder}" for folder in hidden)])
        self.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{mounts} && exec {start}"],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def stop(self) -> None:
        for pid, _ in [*below(self.process.pid), (self.process.pid, "")]:
            kill(pid, signal.SIGKILL)
        self.process.wait()


def may_hide() -> bool:
    """Whether this user may start processes that do not see a folder: root alone."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


def kill(pid: int, number: int) -> None:
    """Send a signal, to nobody where the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def memory_mb(pid: int) -> float:
    """Memory of its own, not that of files it shares with others; NaN where the kernel does not say, as it does now and
    then while a process changes its mappings or ends."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return math.nan


def open_files(pid: int) -> float:
    """NaN for a process that is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return math.nan


def shared_memory_mb(pid: int) -> float:
    """What a process holds of files in shared memory, those without a name included, as an object store's are."""
    inodes = {}
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            file = f"/proc/{pid}/fd/{number}"
            with contextlib.suppress(OSError):
                if os.readlink(file).startswith("/dev/shm"):
                    stat = os.stat(file)
                    inodes[stat.st_ino] = stat.st_blocks * 512 / 2**20
    except OSError:
        return math.nan
    return sum(inodes.values())
