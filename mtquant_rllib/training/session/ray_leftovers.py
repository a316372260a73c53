"""What a killed driver leaves of its Ray session, and how the run's next start ends it.

While a run trains in a session of its own, `.ray_session.json` in its folder says which processes are that session's.
A driver that ends takes the record back. One that is killed cannot: its daemons die with it, but Ray's agents, and
workers in the middle of a computation, go on for a minute or more, with their memory. The next start of the run ends
those, and removes the session's folder under Ray's temporary one.

A process is ended if it is Ray's by its command line and either stands in the record, by number and start, or has a
file in the recorded session's folder open, which only that session's processes do: workers start later than the record
is written. Anything else is left alone, also all of a record that was written on another machine or before a reboot.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import signatures
from mtquant_rllib.training.session import processes
from mtquant_rllib.training.session.processes import ProcessId

logger = logging.getLogger("mtquant_rllib.training")

FILE = ".ray_session.json"
SIGNATURE = "hmac_sha256"
"""Key of the record's signature: a run that came from elsewhere must not name processes that are to be ended."""
END_SECONDS = 10.0
"""How long a start waits until what it killed is gone."""
_SESSION = r"session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{6}_{pid}"
"""Ray's name of a session: when it began, and its driver."""
_RAY = Path(ray.__file__).parent


def record_session(run: Path, folder: Path) -> None:
    """Write down this process's Ray session, whose folder is given: after `ray.init`."""
    driver = processes.process(os.getpid())
    if driver is None:
        return
    tree = {
        "machine": processes.machine_id(),
        "driver": asdict(driver),
        "folder": str(folder),
        "processes": [asdict(one) for one in sorted(ray_processes(), key=lambda one: one.pid)],
    }
    write_record(run, tree)


def write_record(run: Path, tree: dict[str, Any]) -> None:
    """Write a record, with this user's signature."""
    run.mkdir(parents=True, exist_ok=True)
    signed = {**tree, SIGNATURE: _signature(tree, signatures.user_key())}
    durable.replace_file(run / FILE, strict_json.dumps(signed, indent=1).encode())


def _signature(tree: dict[str, Any], key: bytes) -> str:
    return signatures.code_of(strict_json.dumps(tree, sort_keys=True).encode(), key)


def forget_session(run: Path) -> None:
    """Take the record back: the session has ended as it should."""
    (run / FILE).unlink(missing_ok=True)


def end_leftovers(run: Path) -> list[ProcessId]:
    """End what a killed driver of this run left, and remove its record; the processes that were ended.

    Raises
    ------
    RunError
        When the recorded driver is alive: another process is training this run.
    """
    record = _read(run / FILE)
    if record is None:
        return []
    place, driver, folder, recorded = record
    if place != processes.machine_id():
        # Numbers of another machine's processes say nothing here.
        forget_session(run)
        return []
    if driver.pid != os.getpid() and processes.alive(driver):
        raise RunError(f"{run}: process {driver.pid} is training this run; wait for its end, or stop it first")
    session = _session_folder(folder, driver)
    found = [
        one
        for one in processes.own_processes()
        if is_ray(one.pid) and (one in recorded or (session is not None and processes.holds_open(one.pid, session)))
    ]
    left = processes.kill(found, END_SECONDS)
    if left:
        numbers = ", ".join(str(one.pid) for one in left)
        raise RunError(f"{run}: processes {numbers} of its last, killed session do not end; end them and start again")
    if session is not None:
        shutil.rmtree(session, ignore_errors=True)
    if found:
        logger.info("ended %d processes that the killed driver %d of this run had left", len(found), driver.pid)
    forget_session(run)
    return found


def ray_processes() -> set[ProcessId]:
    """Processes below this one that are Ray's."""
    return {one for one in processes.descendants(os.getpid()) if is_ray(one.pid)}


def is_ray(pid: int) -> bool:
    """Whether a process runs a program of the installed Ray, by its command line; workers put `ray::` there."""
    words = processes.command_line(pid)
    if not words:
        return False
    return words[0].startswith("ray::") or any(Path(word).is_relative_to(_RAY) for word in words[:3])


def _session_folder(folder: Path, driver: ProcessId) -> Path | None:
    """The recorded folder, if it is that driver's session's by its name, by where it lies and by who owns it."""
    named = re.fullmatch(_SESSION.replace("{pid}", str(driver.pid)), folder.name)
    temporary = Path(ray._common.utils.get_default_ray_temp_dir())
    if not named or folder.parent != temporary or folder.is_symlink() or not folder.is_dir():
        return None
    return folder if folder.stat().st_uid == os.getuid() else None


def _read(path: Path) -> tuple[str, ProcessId, Path, set[ProcessId]] | None:
    """A record; None where there is none, or none that can be read: it only ever serves to clean up."""
    try:
        if path.is_symlink():
            raise ValueError("it is a symbolic link")
        tree: Any = json.loads(path.read_text())
        if not hmac.compare_digest(str(tree.pop(SIGNATURE, "")), _signature(tree, signatures.user_key())):
            raise ValueError("it was not written by you")
        recorded = {ProcessId(int(one["pid"]), int(one["start"])) for one in tree["processes"]}
        driver = ProcessId(int(tree["driver"]["pid"]), int(tree["driver"]["start"]))
        return str(tree["machine"]), driver, Path(tree["folder"]), recorded
    except FileNotFoundError:
        return None
    except (RunError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read, so nothing is known of the run's last session: %s", path, error)
        return None
