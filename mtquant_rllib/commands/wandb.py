"""`mtquant wandb`: a run and Weights & Biases."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import DEFAULT_CONFIG, add_command, add_family
from mtquant_rllib.errors import ConfigError


def add_wandb(commands: Any) -> None:
    kinds = add_family(
        commands,
        "wandb",
        "send runs that were kept offline to Weights & Biases",
        "mtquant wandb sync runs/real",
        word="WHAT",
        dest="what",
    )
    send = add_command(
        kinds,
        "sync",
        _sync,
        "send what Weights & Biases lacks of a run or a sweep that was kept offline, cut off, or trained without it",
        "mtquant wandb sync runs/real",
    )
    send.add_argument(
        "run_folder", type=Path, metavar="RUN", help="the folder of a run or a sweep, or its name under runs/"
    )


def _sync(args: argparse.Namespace) -> None:
    if args.config != DEFAULT_CONFIG or args.overrides:
        raise ConfigError("--config, --set: a run is sent with its own settings; this command takes no others")
    from mtquant_rllib.training.records.run_names import existing_run
    from mtquant_rllib.training.reporting.weights_and_biases.sync import sync, sync_sweep
    from mtquant_rllib.training.search.record import is_sweep

    run = existing_run(args.run_folder).resolve()
    (sync_sweep if is_sweep(run) else sync)(run, print)
