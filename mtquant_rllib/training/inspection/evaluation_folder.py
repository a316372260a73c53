"""Where an evaluation is written: a folder of its own in the run, which no other evaluation overwrites unsaid.

    RUN/evaluation/test                   the whole split, by the policies of the last phase, under the run's settings
    RUN/evaluation/test_phase_1           by those of an earlier phase
    RUN/evaluation/test_200_episodes      200 episodes from random starts
    RUN/evaluation/test_changed_1f3a9c2b  under other settings: a hash of what differs
    RUN/earlier_evaluations/test-2        one that came out otherwise when it was made again

The same evaluation made again replaces its files. One that comes out otherwise (the run was trained on, the code is
another) takes the folder's name, and the folder that was there is moved.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtquant_rllib import durable, strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation.report.output import REPORT
from mtquant_rllib.training.records.ownership import within

FOLDER, EARLIER = "evaluation", "earlier_evaluations"


def evaluation_name(
    what: str, *, phase: int, last_phase: int, episodes: int | None, settings: Settings, own: Settings
) -> str:
    """Name of the folder of an evaluation.

    Parameters
    ----------
    what
        The split, or the name of bars that the run has never seen.
    last_phase
        Of the run's curriculum.
    settings, own
        Those of the evaluation, and the run's.
    """
    name = what
    if phase != last_phase:
        name += f"_phase_{phase}"
    if episodes is not None:
        name += f"_{episodes}_episode{'' if episodes == 1 else 's'}"
    tree, own_tree = settings.model_dump(mode="json"), own.model_dump(mode="json")
    if tree != own_tree:
        changed = strict_json.dumps(tree, sort_keys=True)
        name += f"_changed_{hashlib.sha256(changed.encode()).hexdigest()[:8]}"
    return name


class EvaluationFolder:
    """The folder of one evaluation, being written.

    Attributes
    ----------
    path
        Where it will stand.
    writing
        The folder to write into, beside it.
    kept
        Where what stood there before has been moved; None where nothing had to be.
    """

    def __init__(self, run: Path, name: str) -> None:
        self._run = run
        self.path = within(run, run / FOLDER / name)
        self.writing = durable.temporary_path(self.path)
        self.kept: Path | None = None

    def put_in_place(self) -> None:
        """Give the written folder its name."""
        if not os.path.lexists(self.path):
            os.rename(self.writing, self.path)
            return
        if _bytes(self.path / REPORT) == _bytes(self.writing / REPORT):
            for file in sorted(self.writing.iterdir()):
                os.replace(file, self.path / file.name)
            self.writing.rmdir()
            return
        self.kept = durable.unused(within(self._run, self._run / EARLIER / self.path.name))
        self.kept.parent.mkdir(exist_ok=True)
        os.rename(self.path, self.kept)
        os.rename(self.writing, self.path)


@contextmanager
def evaluation_folder(run: Path, name: str) -> Iterator[EvaluationFolder]:
    """Write an evaluation in this block; it is put in place at its end, whole or not at all.

    Raises
    ------
    RunError
        When the storage is full, read-only or away; what stood there stands then.
    """
    folder = EvaluationFolder(run, name)
    with durable.named_errors(folder.path):
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        folder.writing.mkdir()
    try:
        with durable.named_errors(folder.path):
            yield folder
            folder.put_in_place()
    finally:
        # Nothing is left of it where it is in place.
        if folder.writing.is_dir():
            for file in folder.writing.iterdir():
                file.unlink()
            folder.writing.rmdir()


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
