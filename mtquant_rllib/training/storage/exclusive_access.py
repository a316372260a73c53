"""Holding a run, so that one process at a time changes it: by the operating system's lock on its folder, and for a run
in an object store by a note there too. Whoever holds it has the newest state of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.storage import lease, mirror, run_lock


@contextlib.contextmanager
def held(run: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a run. Of one in an object store, the working copy is brought to the state of the store once it is held, and
    stays as it is for whoever else looks at it on this machine.

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
