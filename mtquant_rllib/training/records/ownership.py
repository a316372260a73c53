"""Which folders are a run's own: the marker that says so, and the one place that removes any.

A run's folder holds `.mtquant-run`, which says that this project made it. A folder without it is somebody else's:
nothing is written into it and nothing in it is removed. What is removed inside a run must lie there really, with no
symbolic link on the way, and bear the marks of what this project writes.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records.manifest_file import BACKUP, FILE
from mtquant_rllib.training.records.path_names import name_fault

REMOTE = "remote.json"
"""Beside the working copy of a run in an object store (`training.storage.mirror`): which store it is a copy of."""
MARKER = ".mtquant-run"
SWEEP = "sweep.json"
"""In the folder of a sweep, which holds runs."""
STATES_INDEX = "index.json"
CHECKPOINT_INDEX = "checkpoint.json"
OLD = f"{durable.PREFIX}old."
"""Prefix of a folder of module states that is being replaced."""
FORMAT = 1
"""Of the marker and of the index of module states."""
_TRACES = ("phase_*", "policies", "curves", "evaluation", "explain")
"""What a run leaves in its folder besides its manifest."""


def claim(run: Path) -> None:
    """Make the run's folder, with its marker; a folder that was claimed and not used yet is claimed again.

    Raises
    ------
    RunError
        When there is anything in the folder, or it is none. Nothing has been written then.
    """
    if run.is_dir():
        _refuse_used(run)
    elif os.path.lexists(run):
        raise RunError(f"{run}: this is no folder; name another for the run")
    with durable.named_errors(run):
        run.mkdir(parents=True, exist_ok=True)
    if identity(run) is None:
        mark(run, None)


def _refuse_used(run: Path) -> None:
    if (run / SWEEP).exists():
        raise RunError(f"{run}: this is a sweep; carry it on with `mtquant resume {run}` or name another")
    if (run / FILE).exists():
        raise RunError(f"{run}: this run exists; carry it on with `mtquant resume {run}` or name another")
    if (run / BACKUP).exists():
        raise RunError(
            f"{run}: the {FILE} of this run is lost and {BACKUP} is there; carry the run on from it with "
            f"`mtquant resume {run}`, or name another"
        )
    with durable.named_errors(run):
        found = sorted(path.name for path in run.iterdir())
    traces = [trace for trace in _TRACES if any(run.glob(trace))]
    if not found or (identity(run) is not None and not traces):
        return
    if MARKER in found or len(traces) > 1:
        raise RunError(
            f"{run}: this is a run that has lost both {FILE} and {BACKUP}, and cannot be trained into or carried on; "
            "put one of them back from a copy and `mtquant resume` it, or name another"
        )
    raise RunError(
        f"{run}: this folder is not empty and no run of this project, so nothing is written into it; name a new one"
    )


def identity(run: Path) -> str | None:
    """The random id in the run's marker; None where there is no marker, or none that can be read."""
    path = run / MARKER
    try:
        tree = json.loads(path.read_bytes()) if path.is_file() and not path.is_symlink() else None
    except (OSError, ValueError):
        return None
    found = tree.get("id") if isinstance(tree, dict) and tree.get("format") == FORMAT else None
    return found if isinstance(found, str) and name_fault(found) is None else None


def mark(run: Path, known: str | None) -> str:
    """See to it that the run has a marker, with this id where one is known; returns the id."""
    there = identity(run)
    wanted = known or there or secrets.token_hex(16)
    if there != wanted:
        durable.replace_file(run / MARKER, strict_json.dumps({"format": FORMAT, "id": wanted}).encode())
    return wanted


def expect_there(run: Path) -> None:
    """See to it that the run's folder is there before anything is made in it: where its storage is away, a folder made
    at its place would be out of sight, with all that is in it, once the storage is back.

    Raises
    ------
    FileNotFoundError
        When no run bears its marker there.
    """
    if not (run / MARKER).is_file():
        raise FileNotFoundError(errno.ENOENT, "the run's folder is away", str(run))


def run_of(path: Path) -> Path:
    """The nearest folder above with a run's marker; the folder above where there is none."""
    above = path.absolute().parents
    return next((folder for folder in above if (folder / MARKER).is_file()), path.absolute().parent)


def within(inside: Path, path: Path) -> Path:
    """`path`, once it is certain that it lies below `inside`: for what is about to be written or removed.

    Raises
    ------
    RunError
        When it does not, or a symbolic link stands on the way.
    """
    base = inside.resolve()
    relative = next((path.relative_to(top) for top in (inside, base) if path.is_relative_to(top)), None)
    if relative is None or not relative.parts or ".." in path.parts:
        raise RunError(f"{path}: this does not lie inside {inside}, so it is left alone")
    here = base
    for part in relative.parts:
        here = here / part
        if here.is_symlink():
            raise RunError(
                f"{here}: a symbolic link stands where the run keeps files of its own; nothing is written or removed "
                "through it. Put a folder in its place"
            )
    return here


def refuse_links(run: Path, folder: str) -> None:
    """Raises RunError for a symbolic link in a folder of the run or in the folders inside it: Tune would write through
    it, into whatever it leads to."""
    top = within(run, run / folder)
    for path in (*top.glob("*"), *top.glob("*/*")):
        if path.is_symlink():
            within(run, path)


def stays_inside(run: Path, relative: str) -> bool:
    """Whether a path of a record, links followed, lies in the run's folder."""
    try:
        return (run / relative).resolve().is_relative_to(run.resolve())
    except (OSError, RuntimeError, ValueError):
        # A circle of links, or no path.
        return False


def is_states(folder: Path) -> bool:
    """Whether this is a folder of module states and holds nothing else."""
    tree = _json(folder / STATES_INDEX)
    modules = tree.get("modules")
    if tree.get("format") != FORMAT or not isinstance(modules, dict):
        return False
    own = {STATES_INDEX, *(f"{module}.npz" for module in modules)}
    return all(path.name in own and path.is_file() and not path.is_symlink() for path in folder.iterdir())


def is_checkpoint(folder: Path) -> bool:
    """Whether this is a checkpoint of this project's."""
    return "format" in _json(folder / CHECKPOINT_INDEX)


def is_checkpoint_or_empty(folder: Path) -> bool:
    """Whether this is a checkpoint of this project's, one whose index is damaged, or an empty folder."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or CHECKPOINT_INDEX in names


def is_own(folder: Path) -> bool:
    """Whether a folder bears one of the known marks, or is what a process that is gone left half-written."""
    return is_states(folder) or is_checkpoint(folder) or durable.left_behind(folder)


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes()) if path.is_file() and not path.is_symlink() else {}
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def remove_own(path: Path, inside: Path, mine: Callable[[Path], bool] = is_own) -> None:
    """Remove a folder of this project's own. The only place that removes folders of runs.

    It is renamed first, so that a process killed meanwhile leaves no half folder under the old name.

    Parameters
    ----------
    inside
        The run's folder.
    mine
        Tells whether the folder bears our mark.

    Raises
    ------
    RunError
        When it does not lie in the run, or bears no mark of ours. Nothing has been touched then.
    """
    place = within(inside, path)
    if not place.exists():
        return
    if not place.is_dir() or not mine(place):
        raise RunError(f"{place}: this is not, or not only, what this project wrote, and is not removed; move it away")
    with durable.named_errors(place):
        gone = place
        if not place.name.startswith(durable.HALF):
            gone = durable.temporary_path(place.with_name(place.name.removeprefix(OLD)))
            os.rename(place, gone)
        shutil.rmtree(gone)


def set_aside(run: Path) -> Path:
    """Rename a whole run that bears its marker to the name of something that is being removed, and return it: whoever
    is killed meanwhile leaves no half run under the old name.

    Raises
    ------
    RunError
        When the folder is no run of this project.
    """
    if identity(run) is None or run.is_symlink():
        raise RunError(f"{run}: no run of this project is there, so nothing is removed")
    gone = durable.temporary_path(run.resolve())
    with durable.named_errors(run):
        os.rename(run, gone)
    return gone


def remove_set_aside(gone: Path) -> None:
    """Remove a run that was set aside."""
    if not gone.name.startswith(durable.HALF) or identity(gone) is None:
        raise RunError(f"{gone}: no run was set aside there, so nothing is removed")
    with durable.named_errors(gone):
        shutil.rmtree(gone)


def sweep(folder: Path, inside: Path, target: str) -> None:
    """Remove what processes that are gone left half-written for `folder/target`."""
    for path in folder.glob(f"{durable.HALF}*"):
        if not durable.left_behind(path, target):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            remove_own(path, inside)
