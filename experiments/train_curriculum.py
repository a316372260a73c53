"""The three-phase curriculum as a Tune job, on this machine or on a cluster.

*Run it*

    python experiments/train_curriculum.py --budget-scale 0.02
    ray up configs/cluster/aws.yaml
    ray submit configs/cluster/aws.yaml experiments/train_curriculum.py --address auto --run /mnt/shared/runs/first

*What to expect.* Phase 1 trains three specialists side by side, each with its own instruments; phase 2 the
meta-controller over eleven frozen policies, whose hashes before and after are compared; phase 3 all twelve. Every phase
is a Tune experiment under the run's folder, and a run that is stopped at any moment is carried on by the same command.

On a cluster the run's folder must lie on storage that every node mounts, and so must the prepared market: set
MTQUANT_CACHE to a folder there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.training.session.process_variables import reexec_with_variables


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--address", help="of a Ray cluster, or `auto`; without it a session on this machine")
    parser.add_argument("--run", type=Path, default=Path("runs/curriculum"), help="default: %(default)s")
    parser.add_argument("--market", type=Path, help="bars; without it the embedded market")
    parser.add_argument("--macro", type=Path, help="macro series")
    parser.add_argument("--budget-scale", type=float, default=1.0)
    parser.add_argument("--config", default="default.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()
    reexec_with_variables()

    from mtquant_rllib.training.curriculum.driver import train

    train(
        Settings.load(args.config, args.overrides),
        run=args.run,
        market=args.market,
        macro=args.macro,
        budget_scale=args.budget_scale,
        address=args.address,
        resume_existing=True,
    )


if __name__ == "__main__":
    main()
