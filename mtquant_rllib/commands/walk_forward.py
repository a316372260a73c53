"""`mtquant walk-forward`: desks trained on what came before, judged on what came after, by one command."""

from __future__ import annotations

import argparse
from typing import Any

from mtquant_rllib.commands.command import add_command, reproducible
from mtquant_rllib.commands.training_options import add_phases, add_training_options, training_settings

EXAMPLES = """mtquant walk-forward --market bars.parquet --macro macro.parquet --folds 6 --seeds 5 --run forward
  mtquant walk-forward --market bars.parquet --budget-scale 0.05 --phases 1 --run quick
  mtquant resume forward                                                    # after Ctrl-C, a kill, a power cut"""


def add_walk_forward(commands: Any) -> None:
    parser = add_command(
        commands, "walk-forward", _walk_forward, "train on expanding bars, judge on the bars that follow", EXAMPLES
    )
    parser.add_argument("--folds", type=int, default=6, metavar="N", help="test spans of one length (default: 6)")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="K", help="members of each fold's ensemble (default: 1)"
    )
    add_phases(parser)
    add_training_options(parser, market="daily bars", needs_market=True)


def _walk_forward(args: argparse.Namespace) -> None:
    settings = training_settings(args)
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
