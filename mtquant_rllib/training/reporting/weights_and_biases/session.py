"""W&B in this process: its mode, as its own settings, environment and netrc have it, and how runs are begun."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mtquant_rllib.config.sections.training import WandBConfig
from mtquant_rllib.training.reporting.weights_and_biases.identity import Identity
from mtquant_rllib.training.reporting.weights_and_biases.transaction_log import FOLDER
from mtquant_rllib.training.session import processes

Mode = Literal["online", "offline", "shared", "disabled"]
OFFLINE: Mode = "offline"
KEPT_OFFLINE = "kept offline from here"
"""How a line ends that says that the service is not used any more."""
DISABLED: Mode = "disabled"


class Unreachable(Exception):
    """Why W&B's service cannot be used, in a few words."""


def usual_mode() -> Mode:
    """`online`, `offline`, `shared` or `disabled`: W&B's own setting; offline where it is online and there is no key.

    Raises
    ------
    Unreachable
        When there is a key and it has no form of one.
    """
    import wandb

    settings = _settings()
    if settings._noop:
        return DISABLED
    if settings._offline:
        return OFFLINE
    try:
        if not wandb.login(prompt=False, verify=False):
            return OFFLINE
        return "shared" if settings._shared else "online"
    except wandb.Error as error:
        raise Unreachable(first_line(error)) from error


def service_address() -> tuple[str, int]:
    """Host and port of the service that W&B's settings name."""
    place = urlsplit(_settings().base_url)
    return str(place.hostname), place.port or (80 if place.scheme == "http" else 443)


def _settings() -> Any:
    """W&B's own, from its environment variables and files, without starting its service."""
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings


def begin(run: Path, identity: Identity, config: WandBConfig, mode: Mode, patience_s: float) -> Any:
    """Begin or carry on a W&B run whose files lie in `run`.

    Raises
    ------
    Unreachable
        When the service does not answer within `patience_s`, or refuses.
    """
    import wandb

    # What artifacts are made of waits there until it is sent.
    os.environ.setdefault("WANDB_DATA_DIR", str(run / FOLDER))
    try:
        begun = wandb.init(
            id=identity.id,
            resume="allow",
            project=config.project,
            entity=config.entity,
            group=identity.group,
            job_type=identity.job_type,
            name=identity.name,
            tags=list(identity.tags),
            config=dict(identity.config),
            allow_val_change=True,
            dir=str(run),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                symlink=False,
                # Of this process alone: those of the training are `system/`.
                x_disable_stats=True,
                init_timeout=patience_s,
                x_transaction_log_flush_interval=config.poll_seconds,
            ),
        )
    except (wandb.Error, OSError) as error:
        raise Unreachable(first_line(error)) from error
    if identity.axis is not None:
        begun.define_metric(identity.axis)
        begun.define_metric("*", step_metric=identity.axis)
    return begun


def newest_iteration(begun: Any) -> int:
    """Of the rows that the service has of a W&B run that was begun online; 0 for none."""
    found = begun.summary.get("iteration")
    return int(found) if begun.resumed and isinstance(found, int | float) else 0


def service_processes() -> list[int]:
    """Processes that this one started and that live: W&B's service."""
    try:
        found = map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    except OSError:
        return []
    return [pid for pid in found if processes.process(pid) is not None]


def end_service() -> None:
    """End W&B's service, so that it writes nothing more into files that are read now; another is begun when asked."""
    import wandb

    for pid in service_processes():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    with contextlib.suppress(Exception):
        # It complains of the connection that is lost.
        wandb.teardown()


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
