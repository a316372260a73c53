"""Processes of this machine, from /proc; on other systems than Linux the lists are empty.

A process id is given out again once its process is gone; with the time its process started it names one process for as
long as the machine is up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessId:
    """pid: its number; start: clock ticks from the machine's boot to its start."""

    pid: int
    start: int


def machine_id() -> str:
    """Identifies a machine, its boot and its table of process ids; empty where the kernel does not tell."""
    try:
        return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def process(pid: int) -> ProcessId | None:
    """The live process of this number; one that is dead and only waits for its parent to notice is none."""
    stat = _stat(pid)
    return None if stat is None else ProcessId(pid, stat[1])


def alive(process_: ProcessId) -> bool:
    return process(process_.pid) == process_


def command_line(pid: int) -> list[str]:
    """Its arguments; empty where it has ended or is another user's."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def own_processes() -> list[ProcessId]:
    """Every live process of this machine that this user owns."""
    found = []
    for entry in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == os.getuid() and (one := process(int(entry.name))) is not None:
                found.append(one)
    return found


def descendants(pid: int) -> set[ProcessId]:
    """The live descendants of a process."""
    children: dict[int, list[ProcessId]] = {}
    for one in own_processes():
        stat = _stat(one.pid)
        if stat is not None:
            children.setdefault(stat[0], []).append(one)
    found: set[ProcessId] = set()
    ahead = [pid]
    while ahead:
        for child in children.get(ahead.pop(), []):
            if child not in found:
                found.add(child)
                ahead.append(child.pid)
    return found


def holds_open(pid: int, folder: Path) -> bool:
    """Whether a process has a file under this folder open."""
    inside = f"{folder}{os.sep}"
    with contextlib.suppress(OSError):
        for handle in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(handle).startswith(inside):
                    return True
    return False


def kill(processes: Iterable[ProcessId], seconds: float) -> list[ProcessId]:
    """SIGKILL these very processes and wait up to `seconds` until they are gone; those that are not."""
    left = []
    for one in processes:
        # The descriptor goes on naming the process that it was opened for, so none that got the number since is hit.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            handle = os.pidfd_open(one.pid)
            try:
                if alive(one):
                    left.append(one)
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
    deadline = time.monotonic() + seconds
    while (left := [one for one in left if alive(one)]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return left


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and start of a live process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may hold anything, brackets too.
    fields = text.rpartition(")")[2].split()
    state, parent, start = fields[0], int(fields[1]), int(fields[19])
    return None if state in "ZX" else (parent, start)
