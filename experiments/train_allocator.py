"""One agent that spreads an account over five assets: trained and compared, or held to a control.

*Run it*

    python experiments/train_allocator.py --market bars.parquet --macro macro.parquet --seeds 3
    python experiments/train_allocator.py --control planted --seeds 5
    python experiments/train_allocator.py --control null --seeds 5 --algorithm ppo --network plain
    python experiments/train_allocator.py --control leak

*What to expect.* Without a control: the report of each seed's test bars beside equal weights, risk parity, 60/40 and
the other simple rules, and what every term of the reward would have paid each of them; then all seeds in one table,
with intervals over seeds and blocks of bars. With one, training seeds share their market: 64 training paths of 15
years, 16 validation paths, 64 test paths of 5 years. The oracle, a quadratic programme on the exact mean, earns a net
Sharpe of 2.42 on the test paths; the linear benchmark, the best linear forecast from the fifty columns,
2.18: what an allocator can hope for. README has what 300,000 bars come to; the best states on the validation paths
come after 65,000 to 120,000. On the null market a book that is always invested earns minus its financing. A leak must
fail the null test, whose limits stand in configs/evaluation.yaml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.training.session.process_variables import reexec_with_variables

CONTROLS = ("planted", "null", "leak")
REFERENCE = "equal_weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--control", choices=CONTROLS, help="a market whose truth is known, in place of the config's")
    parser.add_argument("--config", help="default: allocator.yaml, for a control allocator_planted.yaml")
    parser.add_argument("--market", type=Path, help="bars; without them, and without a control, the embedded market")
    parser.add_argument("--macro", type=Path)
    parser.add_argument("--seeds", type=int, default=1, help="training seeds (default: %(default)s)")
    parser.add_argument("--algorithm", choices=("sac", "ppo"))
    parser.add_argument("--network", choices=("attention", "plain"))
    parser.add_argument("--out", type=Path, default=Path("runs/allocator"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()
    reexec_with_variables()

    from mtquant_rllib.training.curriculum.driver import resume, train
    from mtquant_rllib.training.records.manifest import FILE

    overrides = [f"allocator.{key}={getattr(args, key)}" for key in ("algorithm", "network") if getattr(args, key)]
    if args.control:
        overrides.append(f"embedded.variant='{args.control}'")
    config = args.config or ("allocator_planted.yaml" if args.control else "allocator.yaml")
    runs = []
    for seed in range(args.seeds):
        settings = Settings.load(config, [*overrides, f"seed={seed}", *args.overrides])
        own = settings.allocator
        assert own is not None
        run = args.out / f"{args.control or 'market'}-{own.algorithm}-{own.network}-{own.bars}-{seed}"
        if (run / FILE).exists():
            resume(run)
        else:
            train(settings, run=run, market=args.market, macro=args.macro)
        runs.append(run)
    if args.control:
        _judge(runs, args.out)
    else:
        _compare(runs)


def _compare(runs: list[Path]) -> None:
    import numpy as np
    from rich.console import Console

    from mtquant_rllib.evaluation.report.output import print_report
    from mtquant_rllib.evaluation.report.reward_terms import print_terms
    from mtquant_rllib.evaluation.statistics.seeds import of_records, print_seed_statistics
    from mtquant_rllib.training.inspection.run_evaluation import evaluate_run
    from mtquant_rllib.training.records.manifest import Manifest

    seeds = []
    for run in runs:
        done = evaluate_run(run)
        print_report(done.report, Console())
        print_terms(done.terms, Console())
        seeds.append(done.records)
    settings = Manifest.read(runs[0]).load_settings()
    if len(seeds[0][0].returns) == 1:
        rng = np.random.default_rng(settings.seed)
        print_seed_statistics(of_records(seeds, REFERENCE, settings.evaluation.bootstrap, rng), REFERENCE, Console())


def _judge(runs: list[Path], out: Path) -> None:
    from rich.console import Console

    from mtquant_rllib.evaluation.trained_controls import judge, passes_null, print_control
    from mtquant_rllib.policies.initial_weights import initial_states
    from mtquant_rllib.training.records import module_states
    from mtquant_rllib.training.records.manifest import Manifest

    manifests = [Manifest.read(run) for run in runs]
    settings = manifests[0].load_settings()
    trained = [module_states.read(run / str(manifest.phase(1).result)) for run, manifest in zip(runs, manifests)]
    verdict = judge(settings, Path(manifests[0].market.data), trained, initial_states(settings))
    print_control(verdict, Console())
    for name, book in verdict.books.items():
        passed = passes_null(book, settings.evaluation.null_test)
        print(f"null test of {name}: {'passed' if passed else 'failed'}")
    name = runs[0].name.rpartition("-")[0]
    (out / f"{name}.json").write_text(strict_json.dumps(verdict.to_dict(), indent=1))


if __name__ == "__main__":
    main()
