"""`mtquant wandb sync`: what W&B lacks of a run is written from the run's own files, then sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.training.reporting.weights_and_biases.follower import Follower, sole
from mtquant_rllib.training.reporting.weights_and_biases.sending import send, unsent
from mtquant_rllib.training.reporting.weights_and_biases.session import OFFLINE, Unreachable, first_line
from mtquant_rllib.training.reporting.weights_and_biases.sweep_follower import runs_of
from mtquant_rllib.training.reporting.weights_and_biases.transaction_log import files_of
from mtquant_rllib.training.storage import run_lock


def sync_sweep(sweep: Path, tell: Callable[[str], None]) -> None:
    """Send every run of a sweep to W&B, as of `sync`.

    Raises
    ------
    ConfigError
        When there is no key.
    RunError
        When the sweep is being trained, or one of its runs was not taken; the others are sent.
    """
    if (holder := run_lock.holder(sweep)) is not None:
        raise RunError(f"{sweep}: {holder} trains this sweep at this moment; sync it once that has ended")
    expect_key()
    left = []
    for run in runs_of(sweep):
        try:
            sync(run, tell)
        except RunError as error:
            tell(str(error))
            left.append(run.name)
    if left:
        raise RunError(f"{sweep}: {len(left)} runs were not sent whole: {', '.join(left)}; what there is is kept")


def sync(run: Path, tell: Callable[[str], None]) -> None:
    """Send a run to W&B: all that stands in its folder and was not sent yet, a run that was trained without W&B whole.

    Raises
    ------
    ConfigError
        When there is no key.
    RunError
        When the run is being trained with W&B beside it, has nothing to send, or not all of it was taken.
    """
    if (holder := run_lock.holder(run)) is not None:
        raise RunError(f"{run}: {holder} trains this run at this moment; sync it once that has ended")
    expect_key()
    written_offline(run, tell)
    left = unsent(run)
    if not left:
        tell(f"{run}: nothing to send; W&B has all {len(files_of(run))} files of this run")
        return
    tell(f"{run}: sending {len(left)} file{'s' if len(left) > 1 else ''} of {len(files_of(run))}")
    send(run, left)
    if unsent(run):
        raise RunError(
            f"{run}: {len(unsent(run))} of {len(left)} files were not sent; what W&B said stands above, and they are "
            "kept"
        )


def expect_key() -> None:
    """Raises ConfigError when W&B has no key, or one that is none."""
    import wandb

    try:
        if wandb.login(prompt=False, verify=False):
            return
    except wandb.Error as error:
        raise ConfigError(f"Weights & Biases: {first_line(error)}") from error
    raise ConfigError("Weights & Biases: there is no key; `wandb login`, or set WANDB_API_KEY")


def written_offline(run: Path, tell: Callable[[str], None]) -> None:
    """Bring W&B's files up to what the run's folder says. Raises RunError when they cannot be written."""
    try:
        with sole(run) as alone:
            if not alone:
                raise RunError(f"{run}: another process writes to its W&B files at this moment; try again")
            follower = Follower(run, OFFLINE, tell)
            follower.look()
            follower.finish()
    except (Unreachable, OSError) as error:
        raise RunError(f"{run}: Weights & Biases: {first_line(error)}") from error
