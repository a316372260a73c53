"""Waiting for storage that went away under Tune itself, for as long as a run is patient."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from mtquant_rllib.errors import TrainingFailed
from mtquant_rllib.training.curriculum.attempt import Attempt
from mtquant_rllib.training.storage import mirror, retries

AGAIN_S = 2.0
"""Before an experiment begins anew on storage that was away."""


class StorageAway(Exception):
    """What the operating system said of it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(retries.reason(error))
        named = Path(str(error.filename)).parent if error.filename else None
        self.folders = {named} if named is not None and named.is_dir() else set[Path]()


class StorageWait:
    """Knows since when an experiment gets no further. what: `phase 1`, for messages."""

    def __init__(self, attempt: Attempt, what: str, patience_s: float) -> None:
        self._attempt, self._what, self._patience_s = attempt, what, patience_s
        self._reached = 0
        self._since: float | None = None

    def reached(self, bars: int) -> None:
        """Take note of how far the experiment is."""
        if bars > self._reached:
            self._reached, self._since = bars, None

    def wait(self, away: StorageAway) -> None:
        """Return once the storage is back.

        Raises
        ------
        TrainingFailed
            When the experiment got no further for longer than the run is patient.
        """
        attempt = self._attempt
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > self._patience_s:
            raise TrainingFailed(
                f"{self._what} got no further for {self._patience_s:g} seconds: {away}; carry it on with "
                f"`mtquant resume {attempt.name}`"
            ) from away
        attempt.tell(f"storage: {away}; waiting for it")
        for folder in {attempt.run, *away.folders}:
            retries.with_retries(partial(retries.probe, folder), str(folder), self._patience_s)
        retries.with_retries(partial(mirror.probe_store, attempt.run), attempt.name, self._patience_s)
        time.sleep(AGAIN_S)


def storage_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind an exception, if that is what it comes from."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
            return error
        error = error.__cause__ or error.__context__
    return None
