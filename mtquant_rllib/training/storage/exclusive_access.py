"""Exclusive access to a run: by a file lock on its folder, and for a run in an object store by a lease there too. Its
holder has the newest state of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.storage import lease, mirror, run_lock


@contextlib.contextmanager
def held(run: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a run exclusively. The working copy of one in an object store is pulled first, and other processes of this
    machine do not pull meanwhile.

    Raises
    ------
    RunError
        When another process holds it, which is named, or the object store does not answer.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_lock.held(run))
        remote = mirror.copy_of(run)
        if remote is not None:
            try:
                stack.enter_context(lease.held(remote, tell))
                remote.take()
            except OSError as error:
                raise RunError(f"{remote.address}: {error.strerror or error}; try again once it answers") from error
            stack.enter_context(mirror.in_use(run))
        yield
