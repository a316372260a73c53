"""Positive and negative controls: shares of known oracles on planted markets, and nothing on the null.

*Run it*

    python experiments/controls.py --bars 100000 --seeds 3                  planted and null, phase 1
    python experiments/controls.py --market planted --phases 3 --seeds 2    the whole curriculum at full budgets
    python experiments/controls.py --market planted_meta --phases 3         something for the meta-controller to find
    python experiments/controls.py --market planted_joint --phases 3        and for the twelve to find together

*What to expect.* Training seeds share their market: 64 training paths of 15 years, 16 validation paths, 64 test paths
of 5 years, all disjoint. The oracle earns a net Sharpe of about 2.0 on the planted test paths through the same core,
costs and risk rules. On the markets `planted_meta` and `planted_joint` the desk's gain over its own state after phase 1
is set against that of the structure's oracle over the best parts. On the null market the net Sharpe is the drag of
costs. Runs that are there already are carried on, or judged as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.training.session.process_variables import reexec_with_variables

MARKETS = ("planted", "null", "planted_meta", "planted_joint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", choices=(*MARKETS, "both"), default="both", help="both: planted and null")
    parser.add_argument(
        "--bars", type=int, default=100_000, help="phase-1 budget of each domain (default: %(default)s)"
    )
    parser.add_argument("--phases", type=int, choices=(1, 3), default=1, help="phase 1 alone, or all three")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/controls"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()
    reexec_with_variables()

    from rich.console import Console

    from mtquant_rllib.evaluation.trained_controls import judge, print_control
    from mtquant_rllib.policies.initial_weights import initial_states
    from mtquant_rllib.training.curriculum.driver import resume, train
    from mtquant_rllib.training.records import module_states
    from mtquant_rllib.training.records.manifest import FILE, Manifest

    for market in ("planted", "null") if args.market == "both" else (args.market,):
        trained, after_phase_1 = [], []
        for seed in range(args.seeds):
            run = args.out / f"{market}-{args.phases}-{args.bars}-{seed}"
            overrides = [f"seed={seed}", f"training.phase_1_timesteps={args.bars}", *args.overrides]
            settings = Settings.load(f"{market}.yaml", overrides)
            if (run / FILE).exists():
                resume(run)
            else:
                train(settings, run=run, phase=1 if args.phases == 1 else None)
            manifest = Manifest.read(run)
            result = manifest.phase(args.phases).result
            assert result is not None
            trained.append(module_states.read(run / result))
            first = manifest.phase(1).result
            assert first is not None
            after_phase_1.append(module_states.read(run / first))
        settings = manifest.load_settings()
        verdict = judge(
            settings,
            Path(manifest.market.data),
            trained,
            initial_states(settings),
            equal_allocation=args.phases == 1,
            phase_1=after_phase_1 if args.phases == 3 else (),
        )
        print_control(verdict, Console())
        (args.out / f"{market}-{args.phases}-{args.bars}.json").write_text(
            strict_json.dumps(verdict.to_dict(), indent=1)
        )


if __name__ == "__main__":
    main()
