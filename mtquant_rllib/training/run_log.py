"""What a run says while it is trained: on the console, and with times in `run.log` in its folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from mtquant_rllib import durable
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.training.records import ownership
from mtquant_rllib.training.storage import mirror

logger = logging.getLogger("mtquant_rllib.training")

LOG = "run.log"


def log_to(run: Path) -> None:
    """Write what is told from now on into the run's log, in the place of any other's."""
    path = ownership.within(run, run / LOG)
    with durable.named_errors(path):
        file = logging.FileHandler(path)
    root = logging.getLogger("mtquant_rllib")
    root.setLevel(logging.INFO)
    root.propagate = False
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.addHandler(file)


def tell(text: str) -> None:
    """Say it on the console and in the log."""
    logger.info(text)
    print(text, flush=True)


@contextlib.contextmanager
def ends_in_the_log(go_on: str) -> Iterator[None]:
    """Write an error into the log, once, where the way on has to be found later; whoever prints it says it too.

    go_on: how the run is carried on.
    """
    try:
        yield
    except Exception as error:
        if not getattr(error, "logged", False):
            if isinstance(error, MtquantError):
                logger.error("ended: %s", error)
            else:
                logger.exception("ended by an error that was not foreseen; carry it on with `%s`", go_on)
            with contextlib.suppress(AttributeError):
                error.logged = True  # type: ignore[attr-defined]
        raise


def resume_command(run: Path) -> str:
    return f"mtquant resume {mirror.named(run)}"
