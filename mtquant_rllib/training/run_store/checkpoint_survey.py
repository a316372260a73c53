"""Which checkpoints a trial has, which of them are whole, and whose: for whoever looks at a run without training it.

Files are compared with their checksums newest first and only as far as the caller goes on, so that finding the newest
whole checkpoint reads no more than that one, and the damaged ones before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import checkpoints, signatures
from mtquant_rllib.training.records.checkpoints import Checkpoint, DamagedCheckpoint
from mtquant_rllib.training.records.manifest import Manifest


@dataclass(frozen=True)
class Surveyed:
    """One checkpoint folder.

    index
        None where the folder is damaged, and `fault` says how.
    own
        The run and trial that it lies in wrote it. Others are never resumed from.
    signed
        It bears this user's signature; without it, a resume wants `--trust`.
    """

    path: Path
    index: Checkpoint | None
    fault: str | None
    own: bool
    signed: bool


def trial_folder(run: Path, manifest: Manifest, phase: int, trial: str) -> Path:
    return run / manifest.phase(phase).experiment / trial


def surveyed(
    run: Path, manifest: Manifest, phase: int, trial: str, *, indexes_alone: bool = False
) -> Iterator[Surveyed]:
    """A trial's checkpoints, newest first.

    indexes_alone: believe the indexes and do not read the files; for overviews of many runs.
    """
    key = _key()
    for path in checkpoints.listed(trial_folder(run, manifest, phase, trial)):
        try:
            index = checkpoints.read_index(path) if indexes_alone else checkpoints.verify(path)
        except DamagedCheckpoint as damage:
            if not path.exists():
                # The run is being trained, and has just removed it.
                continue
            yield Surveyed(path, None, str(damage).removeprefix(f"{path}").lstrip("/: "), False, False)
            continue
        own = (index.run, index.phase, index.trial) == (manifest.id, phase, trial)
        yield Surveyed(path, index, None, own, key is not None and signatures.is_ours(path, key))


def newest_whole(
    run: Path, manifest: Manifest, phase: int, trial: str, *, indexes_alone: bool = False
) -> Surveyed | None:
    """The newest checkpoint that the trial can go on from; None where there is none."""
    found = surveyed(run, manifest, phase, trial, indexes_alone=indexes_alone)
    return next((one for one in found if one.index is not None and one.own), None)


def _key() -> bytes | None:
    """This user's key; None where there is none yet. Looking at a run makes none."""
    try:
        return signatures.user_key() if signatures.key_file().exists() else None
    except (RunError, OSError):
        return None
