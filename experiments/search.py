"""Is a learning rate better, or was it lucky? Trials of a declared space over seeds, under three schedulers.

*Run it*

    python experiments/search.py --budget-scale 0.02
    python experiments/search.py --scheduler pbt --trials 8 --budget-scale 0.1 --run runs/population
    python experiments/search.py --scheduler random --run runs/control       # the control: nobody is stopped early

*What to expect.* A table of trials, the best first, each with the standard error over its seeds, and last by how much
the best is above the second, seed by seed: where that is no more than its error, the two are not told apart. ASHA stops
the weaker trials at 12% and 36% of their budgets, random search none. The same command carries a sweep on that was
stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.search import SCHEDULERS
from mtquant_rllib.training.session.process_variables import reexec_with_variables

SPACE = {
    "recipe.learning_rate": {"loguniform": [1e-4, 5e-3]},
    "recipe.gae_lambda": {"uniform": [0.1, 0.95]},
    "recipe.n_epochs": {"integers": [2, 8]},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="asha", help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--run", type=Path, default=Path("runs/search"), help="default: %(default)s")
    parser.add_argument("--market", type=Path, help="bars; without it the embedded market")
    parser.add_argument("--macro", type=Path, help="macro series")
    parser.add_argument("--budget-scale", type=float, default=1.0)
    parser.add_argument("--address", help="of a Ray cluster, or `auto`; without it a session on this machine")
    parser.add_argument("--config", default="default.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()
    reexec_with_variables()

    from mtquant_rllib.training.search.sweep import sweep

    asked = {"scheduler": args.scheduler, "trials": args.trials, "seeds": args.seeds}
    sweep(
        Settings.load(args.config, [*args.overrides, *(f"search.{name}={value}" for name, value in asked.items())]),
        SPACE,
        run=args.run,
        market=args.market,
        macro=args.macro,
        budget_scale=args.budget_scale,
        address=args.address,
        resume_existing=True,
    )


if __name__ == "__main__":
    main()
