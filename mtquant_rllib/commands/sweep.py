"""`mtquant sweep`: trials of declared settings compared, by one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import DEFAULT_CONFIG, add_command, reproducible
from mtquant_rllib.commands.training_options import add_training_options, training_settings
from mtquant_rllib.errors import ConfigError

EXAMPLES = """mtquant sweep --space recipe.learning_rate=1e-4,3e-4,1e-3,3e-3 --scheduler grid --seeds 3 --run rates
  mtquant sweep --space space.yaml --trials 24 --budget-scale 0.1 --run wide     # ASHA: weak trials are stopped early
  mtquant sweep --space space.yaml --scheduler pbt --trials 8 --run population
  mtquant sweep --resume wide                                                    # after Ctrl-C, a kill, a power cut
  mtquant sweep --table wide                                                     # the table as it is now"""


def add_sweep(commands: Any) -> None:
    sweep = add_command(commands, "sweep", _sweep, "compare trials of declared settings on validation bars", EXAMPLES)
    sweep.add_argument(
        "--space",
        metavar="FILE|KEY=VALUES",
        action="append",
        default=[],
        help="what is searched: a YAML file of settings and their values, or one setting and its values; repeatable",
    )
    sweep.add_argument("--trials", type=int, metavar="N", help="how many are drawn (default: search.trials)")
    sweep.add_argument("--seeds", type=int, metavar="K", help="runs of each trial (default: search.seeds)")
    sweep.add_argument("--scheduler", metavar="NAME", help="asha, pbt, random or grid (default: search.scheduler)")
    sweep.add_argument("--searcher", metavar="NAME", help="random or optuna (default: search.searcher)")
    sweep.add_argument("--phase", choices=("1", "all"), default="1", help="one phase, or the curriculum (default: 1)")
    add_training_options(sweep)
    sweep.add_argument("--resume", metavar="RUN", dest="resumed", help="carry this sweep on, with what it declared")
    sweep.add_argument("--table", metavar="RUN", dest="shown", help="print the table of this sweep, and nothing else")
    sweep.add_argument(
        "--trust", action="store_true", help="with --resume: load checkpoints that this user did not write"
    )


def _sweep(args: argparse.Namespace) -> None:
    if args.shown is not None:
        _expect_alone(args, "--table")
        from mtquant_rllib.training.search.sweep import table_of

        print("\n".join(table_of(Path(args.shown))))
        return
    if args.resumed is not None:
        _expect_alone(args, "--resume")
        resume_sweep(args.resumed, args.address, args.overrides, trust=args.trust)
        return
    if args.trials is not None and args.scheduler == "grid":
        raise ConfigError(f"--trials {args.trials} with --scheduler grid: a grid has as many as it has combinations")
    named = {name: getattr(args, name) for name in ("trials", "seeds", "scheduler", "searcher")}
    args.overrides += [f"search.{name}={value}" for name, value in named.items() if value is not None]
    settings = training_settings(args)
    from mtquant_rllib.config.search_space import read_space

    read_space(args.space, settings)
    reproducible()
    from mtquant_rllib.training.search.sweep import sweep

    sweep(
        settings,
        args.space,
        run=args.run,
        market=args.market,
        macro=args.macro,
        budget_scale=args.budget_scale,
        phase=int(args.phase) if args.phase.isdigit() else args.phase,
        address=args.address,
    )


def resume_sweep(name: str, address: str | None, overrides: list[str], *, trust: bool) -> None:
    """Carry on a sweep; `mtquant resume` does so too."""
    reproducible()
    from mtquant_rllib.training.search.sweep import resume

    resume(Path(name), address, overrides, trust=trust)


def _expect_alone(args: argparse.Namespace, option: str) -> None:
    """Raises ConfigError for options that would declare another sweep."""
    declared = {
        "--config": args.config != DEFAULT_CONFIG,
        "--space": bool(args.space),
        "--run": args.run is not None,
        **{f"--{name}": getattr(args, name) is not None for name in ("trials", "seeds", "scheduler", "searcher")},
        "--market": args.market is not None,
        "--phase": args.phase != "1",
        "--budget-scale": args.budget_scale != 1.0,
    }
    if wrong := next((name for name, given in declared.items() if given), None):
        raise ConfigError(f"{wrong} with {option}: a sweep goes on with what it declared; begin another")
