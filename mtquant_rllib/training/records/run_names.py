"""Where a run lies, from the name that a person gave it.

A bare name stands under `runs/` and cannot leave it. A path is taken as it is, wherever it lies, but not through `..`,
and what is new in it must be a name that a person can see and type.
"""

from __future__ import annotations

import os
from pathlib import Path

from mtquant_rllib.errors import RunError
from mtquant_rllib.paths import is_address, on_disk
from mtquant_rllib.training.records.manifest_file import is_run
from mtquant_rllib.training.records.ownership import REMOTE, claim
from mtquant_rllib.training.records.path_names import hidden_character, name_fault, shown

RUNS = Path("runs")
_EXAMPLE = "name it with letters, digits, - and _, such as runs/first"


def run_path(name: str | Path) -> Path:
    """The folder of a run of this name, whether it is there or not.

    A `Path` does not remember a leading `./`; a text that has one is a path. Of a run in an object store it is the
    working copy on this machine (`training.storage.mirror`), brought to the state of the store.

    Raises
    ------
    RunError
        When it is no name for a run, or the store does not answer. Nothing has been written then.
    """
    text = os.fspath(name)
    if not text.strip():
        raise RunError(f"run {shown(text)}: the run's name is empty; {_EXAMPLE}")
    if (found := hidden_character(text, ("Cc", "Cs", "Zl", "Zp"))) is not None:
        raise RunError(f"run {shown(text)}: the run's name contains {found}; {_EXAMPLE}")
    if text.startswith("~"):
        raise RunError(f"run {shown(text)}: ~ is not read as a home folder here; write the path out")
    parts = text.rstrip("/").split("/")
    if ".." in parts:
        raise RunError(f"run {shown(text)}: a run is not named through ..; write the path out")
    if is_address(text):
        from mtquant_rllib.training.storage import mirror

        return mirror.pulled(text)
    path = on_disk(text, "a run")
    if (fault := name_fault(path.name or text)) is not None:
        raise RunError(f"run {shown(text)}: the run's name {fault}; {_EXAMPLE}")
    if (path.resolve().parent / REMOTE).is_file():
        from mtquant_rllib.training.storage import mirror

        return mirror.pulled_by_its_copy(path.resolve())
    if len(parts) == 1:
        return _under_runs(text, path)
    for folder in path.parents:
        # Folders that are there already are the user's business.
        if folder.name and (fault := name_fault(folder.name)) is not None and not _there(folder):
            raise RunError(f"run {shown(text)}: the folder {shown(folder.name)} {fault}; {_EXAMPLE}")
    return path


def _under_runs(text: str, path: Path) -> Path:
    run = RUNS / path
    try:
        stays = run.resolve() == RUNS.resolve() / path
    except (OSError, RuntimeError):
        stays = False
    if not stays:
        raise RunError(
            f"run {shown(text)}: {run} is a link that leaves {RUNS}/; name the folder that it leads to by its path"
        )
    return run


def _there(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError:
        return False


def existing_run(name: str | Path) -> Path:
    """The folder of a run that is to be looked at or carried on.

    Raises
    ------
    RunError
        When it is no name for a run, or none of `runs/` while a run of that name lies in the current folder.
    """
    run = run_path(name)
    if is_address(name):
        return run
    here = Path(name)
    if len(here.parts) == 1 and run != here and not run.exists() and is_run(here):
        raise RunError(f"run {here}: there is no run of this name under {RUNS}/; the one here is {here.absolute()}")
    return run


def claim_free() -> Path:
    """Claim the next free `runs/run_NNN`, which no other process gets then; returns its full path."""
    number = 1
    while True:
        run = RUNS / f"run_{number:03d}"
        try:
            RUNS.mkdir(parents=True, exist_ok=True)
            run.mkdir()
        except FileExistsError:
            if not RUNS.is_dir():
                raise RunError(
                    f"{RUNS.absolute()}: this is no folder; move it away, or name a path with --run"
                ) from None
            number += 1
            continue
        except OSError as error:
            raise RunError(f"{run.absolute()}: cannot be made ({error.strerror}); name another with --run") from error
        claim(run)
        return run.resolve()
