"""`mtquant walk-forward`: desks trained on what came before, judged on what came after, by one command."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import add_command, check_files, reproducible, settings_of
from mtquant_rllib.errors import ConfigError

EXAMPLES = """mtquant walk-forward --market bars.parquet --macro macro.parquet --folds 6 --seeds 5 --run forward
  mtquant walk-forward --market bars.parquet --budget-scale 0.05 --phases 1 --run quick
  mtquant resume forward                                                    # after Ctrl-C, a kill, a power cut"""


def add_walk_forward(commands: Any) -> None:
    parser = add_command(
        commands, "walk-forward", _walk_forward, "train on expanding bars, judge on the bars that follow", EXAMPLES
    )
    parser.add_argument("--market", type=Path, metavar="FILE", required=True, help="daily bars")
    parser.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    parser.add_argument("--folds", type=int, default=6, metavar="N", help="test spans of one length (default: 6)")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="K", help="members of each fold's ensemble (default: 1)"
    )
    parser.add_argument(
        "--phases", type=int, choices=(1, 2, 3), metavar="P", help="train this many phases (default: all)"
    )
    parser.add_argument("--budget-scale", type=float, default=1.0, metavar="X", help="factor on budgets (default: 1)")
    parser.add_argument("--run", type=Path, metavar="NAME", help="the folder; a bare name stands under runs/")
    parser.add_argument("--address", metavar="HOST:PORT", help="train on this Ray cluster (default: here)")


def _walk_forward(args: argparse.Namespace) -> None:
    if not 0 < args.budget_scale < math.inf:
        raise ConfigError(f"--budget-scale {args.budget_scale:g}: expected a factor above 0, such as 0.02")
    for name in ("folds", "seeds"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}: expected at least 1")
    settings = settings_of(args)
    check_files(args.market, args.macro)
    reproducible()
    from mtquant_rllib.training.walk_forward.experiment import walk_forward

    walk_forward(
        settings,
        market=args.market,
        macro=args.macro,
        folds=args.folds,
        seeds=args.seeds,
        run=args.run,
        budget_scale=args.budget_scale,
        phases=args.phases,
        address=args.address,
    )
