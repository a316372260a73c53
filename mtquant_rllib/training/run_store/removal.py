"""Removal of a whole run: only of one that this project made, that nobody trains, and that holds nothing else."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from mtquant_rllib import durable
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import ownership
from mtquant_rllib.training.records.manifest_file import BACKUP, FILE, is_run
from mtquant_rllib.training.reporting.learning_curves import PICTURE
from mtquant_rllib.training.reporting.weights_and_biases import sending
from mtquant_rllib.training.run_log import LOG
from mtquant_rllib.training.run_store import tags
from mtquant_rllib.training.run_store.overview import size_of
from mtquant_rllib.training.search import lineage
from mtquant_rllib.training.search.record import SELECTION
from mtquant_rllib.training.session import ray_leftovers
from mtquant_rllib.training.storage import exclusive_access, mirror, run_lock

_OWN = (
    FILE, BACKUP, ownership.MARKER, LOG, PICTURE, run_lock.FILE, tags.FILE, SELECTION, lineage.FILE,
    ray_leftovers.FILE, "phase_[123]", "policies", "curves", "evaluation", "earlier_evaluations", "explain", "messages",
    "wandb", sending.FILE,
    f"{durable.HALF}*",
)  # fmt: skip
"""Patterns of what a run has at the top of its folder."""


def remove_run(run: Path, *, remove: bool = False) -> int:
    """Remove a run, if asked to, and return its size in bytes. What the ledger says of it stays.

    Raises
    ------
    RunError
        When the folder is no run of this project, lies in an object store, is being trained, or holds files that are
        not the run's. Nothing has been removed then.
    """
    if ownership.identity(run) is None or not is_run(run):
        raise RunError(f"{run}: no run of this project is there, so nothing is removed")
    if run.is_symlink():
        raise RunError(f"{run}: a symbolic link to a run is not removed; name the folder that it leads to")
    if mirror.copy_of(run.resolve()) is not None:
        raise RunError(f"{mirror.named(run)}: remove a run in an object store with the store's own tools")
    strange = sorted(path.name for path in run.iterdir() if not any(fnmatch(path.name, own) for own in _OWN))
    if strange:
        raise RunError(f"{run}: {', '.join(strange[:3])} is not of the run's making; move it away first")
    size = size_of(run)
    if remove:
        with exclusive_access.held(run, print):
            gone = ownership.set_aside(run)
        ownership.remove_set_aside(gone)
    return size
