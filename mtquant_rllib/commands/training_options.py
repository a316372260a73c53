"""Options and checks that every command shares which trains: bars, budgets, the run's folder, the cluster."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from mtquant_rllib.commands.command import check_files, settings_of
from mtquant_rllib.errors import ConfigError

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings


def add_training_options(
    command: argparse.ArgumentParser,
    *,
    market: str = "bars, file or folder (default: the embedded market)",
    needs_market: bool = False,
) -> None:
    """--market, --macro, --budget-scale, --run, --address. market: help of --market."""
    command.add_argument("--market", type=Path, metavar="FILE", required=needs_market, help=market)
    command.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    command.add_argument(
        "--budget-scale", type=float, default=1.0, metavar="X", help="factor on the budgets (default: 1)"
    )
    command.add_argument("--run", metavar="NAME", help="the run's folder; a bare name stands under runs/")
    add_address(command)


def add_phases(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--phases", type=int, choices=(1, 2, 3), metavar="P", help="train this many phases (default: all)"
    )


def add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="train on this Ray cluster, `auto` for the one of this machine (default: a session of its own here)",
    )


def training_settings(args: argparse.Namespace) -> Settings:
    """The settings of a training, once its options are seen to be possible.

    Raises
    ------
    ConfigError
        When a number is out of range, or settings cannot be honoured.
    RunError
        When a file of bars is not there.
    """
    if not 0 < args.budget_scale < math.inf:
        raise ConfigError(f"--budget-scale {args.budget_scale:g}: expected a factor above 0, such as 0.02")
    for name in ("folds", "seeds"):
        given = getattr(args, name, None)
        if given is not None and given < 1:
            raise ConfigError(f"--{name} {given}: expected at least 1")
    settings = settings_of(args)
    check_files(args.market, args.macro)
    return settings
