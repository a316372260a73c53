"""`mtquant ablate`: what each part of the desk is worth, by training without it."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import add_command, check_files, reproducible, settings_of
from mtquant_rllib.errors import ConfigError

EXAMPLES = """mtquant ablate no_reference shared_modules --market bars.parquet --seeds 5 --run parts
  mtquant compare runs/parts --evaluate --html parts.html                   # each beside the settings as they are
  mtquant resume parts                                                      # after Ctrl-C, a kill, a power cut"""


def add_ablation(commands: Any) -> None:
    parser = add_command(
        commands, "ablate", _ablate, "train with parts of the desk taken out or put in, over the same seeds", EXAMPLES
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="changes in search.ablations (default: all of them)")
    parser.add_argument("--market", type=Path, metavar="FILE", help="bars (default: the embedded market)")
    parser.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="runs of each (default: 1)")
    parser.add_argument(
        "--phases", type=int, choices=(1, 2, 3), metavar="P", help="train this many phases (default: all)"
    )
    parser.add_argument("--budget-scale", type=float, default=1.0, metavar="X", help="factor on budgets (default: 1)")
    parser.add_argument("--run", type=Path, metavar="NAME", help="the folder; a bare name stands under runs/")
    parser.add_argument("--address", metavar="HOST:PORT", help="train on this Ray cluster (default: here)")


def _ablate(args: argparse.Namespace) -> None:
    if not 0 < args.budget_scale < math.inf:
        raise ConfigError(f"--budget-scale {args.budget_scale:g}: expected a factor above 0, such as 0.02")
    if args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: expected at least 1")
    settings = settings_of(args)
    check_files(args.market, args.macro)
    reproducible()
    from mtquant_rllib.training.search.ablation import ablate

    ablate(
        settings,
        args.names,
        seeds=args.seeds,
        run=args.run,
        market=args.market,
        macro=args.macro,
        budget_scale=args.budget_scale,
        phases=args.phases,
        address=args.address,
    )
