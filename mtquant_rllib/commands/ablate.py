"""`mtquant ablate`: what each part of the desk is worth, by training without it."""

from __future__ import annotations

import argparse
from typing import Any

from mtquant_rllib.commands.command import add_command, reproducible
from mtquant_rllib.commands.training_options import add_phases, add_training_options, training_settings

EXAMPLES = """mtquant ablate no_reference shared_modules --market bars.parquet --seeds 5 --run parts
  mtquant compare runs/parts --evaluate --html parts.html                   # each beside the settings as they are
  mtquant resume parts                                                      # after Ctrl-C, a kill, a power cut"""


def add_ablation(commands: Any) -> None:
    parser = add_command(
        commands, "ablate", _ablate, "train with parts of the desk taken out or put in, over the same seeds", EXAMPLES
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="changes in search.ablations (default: all of them)")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="runs of each (default: 1)")
    add_phases(parser)
    add_training_options(parser)


def _ablate(args: argparse.Namespace) -> None:
    settings = training_settings(args)
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
